"""Draw synthetic cat faces: a data source without a download.

`draw(index, seed)` samples a `Cat` from a random generator of its own and paints it from back to front, at four times
the size. Shapes are lists of points in face units: (0, 0) is the centre of the head, x points right, y points down, and
the head is about 2 wide and 1.7 high. Images are the same on every machine, because only Pillow's integer code writes
pixels, and sines and roots are rounded to whole pixels at once. (Pillow before 11.2 fills some polygons differently by
a pixel.)
"""

import colorsys
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, ...]
Point = tuple[float, float]
Shape = list[Point]
Layer = Image.Image

SUPERSAMPLING = 4  # pixels drawn per pixel of the image along each side, so that `reduce` smooths the edges
SIDES = (-1, 1)
CIRCLE = [(math.cos(math.tau * i / 28), math.sin(math.tau * i / 28)) for i in range(28)]
WHITE: Colour = (246, 242, 236)
GINGER: Colour = (218, 134, 66)  # the other colour of calico and tortoiseshell cats
LINER: Colour = (32, 24, 27)  # around every cat's eyes, so that they stand out from any coat
COLLARS: tuple[Colour, ...] = ((204, 44, 52), (40, 92, 190), (44, 150, 90), (236, 178, 40), (150, 70, 170))
# Colours of the coat and of its markings, its patterns and its eye colours; the most common first.
COATS: tuple[tuple[Colour, Colour, str, str], ...] = (
    ((50, 47, 52), (28, 26, 31), "solid", "gold green copper lime"),  # black
    ((228, 140, 64), (174, 84, 32), "tabby tabby solid", "gold copper green"),  # ginger
    ((156, 112, 70), (66, 45, 32), "tabby tabby spots", "green lime gold"),  # brown
    ((128, 132, 141), (70, 73, 82), "tabby solid", "gold green copper"),  # grey
    ((247, 242, 234), (54, 48, 50), "calico", "gold green copper"),
    ((246, 243, 238), (214, 206, 200), "solid", "blue gold green aqua"),  # white
    ((240, 210, 162), (206, 154, 98), "tabby solid", "copper gold blue"),  # cream
    ((234, 216, 190), (72, 50, 43), "points", "blue aqua"),  # seal point
    ((104, 116, 138), (76, 86, 106), "solid", "copper gold"),  # blue
    ((184, 183, 180), (82, 80, 83), "tabby spots", "green lime gold"),  # silver
    ((66, 50, 45), (38, 31, 31), "tortie", "gold lime copper"),
    ((106, 68, 50), (64, 42, 32), "solid", "gold green"),  # chocolate
    ((212, 154, 86), (82, 50, 30), "spots", "green lime aqua"),  # bengal
    ((230, 228, 226), (106, 114, 134), "points", "blue"),  # blue point
    ((246, 230, 208), (210, 130, 72), "points", "blue"),  # flame point
)
EYES: dict[str, Colour] = {
    "gold": (240, 188, 56), "copper": (226, 130, 40), "green": (122, 188, 92),
    "lime": (192, 206, 78), "blue": (92, 164, 228), "aqua": (108, 206, 200),
}  # fmt: skip
NOSES: tuple[Colour, ...] = ((234, 142, 144), (214, 112, 112), (178, 92, 82), (70, 50, 52))
SCENES = ("plain", "gradient", "gradient", "floor", "bokeh", "bokeh", "dots", "stripes", "sun", "hills")
# The right half of a tabby: start, bend, end and width of each stripe. The first four form the M.
STRIPES: tuple[tuple[Point, Point, Point, float], ...] = (
    ((0.01, -0.34), (0.01, -0.60), (0.01, -0.95), 0.9), ((0.13, -0.22), (0.12, -0.50), (0.27, -0.92), 1.2),
    ((0.26, -0.30), (0.38, -0.42), (0.54, -0.85), 1.0), ((0.52, -0.34), (0.66, -0.44), (0.82, -0.60), 1.0),
    ((0.68, -0.08), (0.85, -0.08), (1.12, -0.22), 1.0), ((0.54, 0.24), (0.82, 0.32), (1.12, 0.14), 1.1),
    ((0.50, 0.52), (0.74, 0.58), (1.02, 0.42), 1.0), ((0.20, 1.10), (0.70, 1.30), (1.20, 0.95), 1.6),
)  # fmt: skip
# Spots by pattern: their number, the radius of the first of three rings, their smallest and largest size.
SPOTS = {"spots": (38, 0.6, 0.04, 0.07), "calico": (7, 0.6, 0.3, 0.5), "tortie": (18, 0.35, 0.1, 0.28)}


@dataclass(frozen=True)
class Cat:
    """The traits that all parts of a cat share. Lengths are in face units unless stated otherwise."""

    centre: Point  # of the face, as fractions of the image
    scale: float  # half the head's width, as a fraction of the image
    roll: float  # of the head, in radians, clockwise
    turn: Point  # offset of the nose by turning and nodding
    base: Colour
    mark: Colour
    pattern: str
    iris: Colour
    width: float  # of the head, about 1
    ear: tuple[float, float, float]  # width (about 1), height, outward lean of the tip
    youth: float  # 1 for a kitten: eyes are larger, wider apart and lower
    muzzle: float  # size, about 1
    light: Point  # direction of the light; a longer vector is a harsher light

    def place(self, shape: Shape, side: int) -> list[tuple[int, int]]:
        """Return the pixel coordinates of a shape on a square layer with this side."""
        cos, sin = math.cos(self.roll) * self.scale, math.sin(self.roll) * self.scale
        pixels = []
        for x, y in shape:
            near = max(0.0, 1 - x * x - y * y)  # the head is a sphere: its outline stays when it turns
            x, y = x + self.turn[0] * near, y + self.turn[1] * near
            x, y = self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y
            pixels.append((round(x * side), round(y * side)))
        return pixels


def sample_cat(rng: random.Random) -> Cat:
    """Sample a cat with traits that match."""
    base, mark, patterns, eyes = COATS[int(len(COATS) * rng.random() ** 1.4)]
    tone = mix((0, 0, 0), (255, 240, 225), rng.random())
    base, mark = mix(base, tone, 0.07), mix(mark, tone, 0.07)
    pattern, iris = rng.choice(patterns.split()), EYES[rng.choice(eyes.split())]
    width, youth, glare = rng.uniform(0.92, 1.08), rng.random(), rng.uniform(0.25, 1.0)
    muzzle = rng.uniform(0.95, 1.15) - 0.12 * youth
    ear = rng.uniform(0.86, 1.12), rng.uniform(0.44, 0.70), rng.uniform(-0.08, 0.20)
    light = glare * rng.uniform(-1, 1), glare * rng.uniform(-1, -0.2)
    scale, roll = rng.uniform(0.29, 0.36), max(-0.28, min(0.28, rng.gauss(0, 0.11)))
    turn = rng.uniform(-0.20, 0.20), rng.uniform(-0.08, 0.08)
    # Keep the tips of the ears inside the image, and the chin if possible.
    top, bottom = 0.03 + scale * (0.75 + ear[1] + 0.75 * abs(roll)), 0.95 - 0.86 * scale
    centre = rng.uniform(0.45, 0.55), top + max(0.0, bottom - top) * rng.uniform(0.0, 0.9)
    return Cat(centre, scale, roll, turn, base, mark, pattern, iris, width, ear, youth, muzzle, light)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Blend `one` with a fraction (0..1) of `other`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def oval(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, pointed: float = 0.0) -> Shape:
    """Return an ellipse around (x, y), rotated clockwise; `pointed` (0..1) turns its ends into corners."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    flat = [(rx * u, ry * v * (1 - pointed + pointed * abs(v))) for u, v in CIRCLE]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in flat]


def smooth(corners: Shape) -> Shape:
    """Round a closed shape by cutting off its corners twice."""
    for _ in range(2):
        sides = zip(corners, corners[1:] + corners[:1], strict=True)
        corners = [(x + t * (u - x), y + t * (v - y)) for (x, y), (u, v) in sides for t in (0.25, 0.75)]
    return corners


def stroke(start: Point, bend: Point, end: Point, width: float, hair: bool = False) -> Shape:
    """Return a curved stroke, thickest in the middle, or at the start for a hair."""
    shape, dx, dy = [], end[0] - start[0], end[1] - start[1]
    for i in range(14):  # along one edge, and back along the other
        t, side = (i / 6, 1) if i < 7 else ((13 - i) / 6, -1)
        a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
        x, y = (a * p + b * q + c * r for p, q, r in zip(start, bend, end, strict=True))
        half = side * width / 2 * (1 - t if hair else 4 * t * (1 - t)) / math.hypot(dx, dy)
        shape.append((x - dy * half, y + dx * half))
    return shape


def both_sides(shapes: list[Shape]) -> list[Shape]:
    """Return the shapes of the right half of the face and their mirror images."""
    return [[(side * x, y) for x, y in shape] for shape in shapes for side in SIDES]


def fill(layer: Layer, cat: Cat, shapes: list[Shape], colour: Colour | int) -> Layer:
    """Paint shapes on a layer with hard edges; return the layer."""
    pen = ImageDraw.Draw(layer)
    for shape in shapes:
        pen.polygon(cat.place(shape, layer.width), fill=colour)
    return layer


def dab(layer: Layer, cat: Cat, shapes: list[Shape], colour: Colour, soft: float, share: float = 1) -> None:
    """Blend shapes with a fraction of the colour (0..1); blur their edges over `soft`, a fraction of the image."""
    mask = fill(Image.new("L", layer.size), cat, shapes, round(255 * share))
    layer.paste(colour, mask=mask.filter(ImageFilter.BoxBlur(soft * layer.width)))


def background(cat: Cat, rng: random.Random, side: int) -> Layer:
    """Draw a wall, room, pattern, landscape or blurred lights."""
    one, two, three = walls = choose_walls(cat, rng)
    scene, r = rng.choice(SCENES), rng.uniform(0.16, 0.36)
    x, y = side * rng.random(), side * rng.uniform(0.1, 0.5)
    deep = two if scene == "gradient" else mix(one, LINER, rng.uniform(0.0, 0.3))
    corners = [one, mix(one, deep, rng.random()), mix(one, deep, rng.random()), deep]
    small = Image.frombytes("RGB", (2, 2), bytes(v for colour in rng.sample(corners, 4) for v in colour))
    layer = small.resize((64, 64) if scene == "bokeh" else (side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(layer)
    if scene == "floor":
        pen.polygon([(0, side * rng.uniform(0.3, 0.8)), (side, x), (side, side), (0, side)], fill=two)
    elif scene == "dots":
        for i in range(64):
            pen.circle(((i % 8 + i // 8 % 2 / 2) * r * side, i // 8 * r * side), 0.22 * r * side, fill=two)
    elif scene == "stripes":
        for left in (i * r * side for i in range(-4, 11)):
            pen.line([(left, 0), (left + x - side / 2, side)], fill=two, width=round(r * side / 2))
    elif scene in ("sun", "hills"):
        pen.circle((x, y), r * side, fill=mix(two, WHITE, 0.3))
    if scene == "hills":
        pen.circle((x, side * 1.25), side * 0.7, fill=two)
        pen.circle((side - x, side * 1.35), side * 0.7, fill=three)
    elif scene == "bokeh":
        for _ in range(rng.randint(6, 14)):
            blob = mix(rng.choice(walls), WHITE, 0.3 * rng.random())
            pen.circle((64 * rng.random(), 64 * rng.random()), rng.uniform(4, 16), fill=blob)
        layer = layer.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 5))).resize((side, side))
    return layer


def choose_walls(cat: Cat, rng: random.Random) -> list[Colour]:
    """Sample three matching colours, the first two different from the coat."""
    apart, pure = rng.choice((0.05, 0.1, 0.45)), rng.choice((0.1, 0.25, 0.4, 0.5))
    while True:
        hue, value = rng.random(), rng.uniform(0.3, 1.0 - 0.4 * pure)  # avoid neon colours
        walls = []
        for h, s, v in ((0, 1, 1), (apart, 0.8, rng.uniform(0.75, 1.3)), (-apart, 1, rng.uniform(0.7, 1.3))):
            rgb = colorsys.hsv_to_rgb((hue + h) % 1, pure * s, min(0.95, value * v))
            walls.append(tuple(round(255 * channel) for channel in rgb))
        pairs = [zip(wall, fur, strict=True) for wall in walls[:2] for fur in (cat.base, cat.mark)]
        if min(sum(abs(a - b) for a, b in pair) for pair in pairs) > 100:
            return walls


def head(cat: Cat, rng: random.Random) -> Shape:
    """Return the outline of the head with tufts of fur on the cheeks."""
    w, jaw, fluff = cat.width, cat.width * rng.uniform(0.88, 1.06), rng.choice((0.02, 0.05, 0.09, 0.14))
    right = [(0.44 * w, -0.82), (0.84 * w, -0.55), (0.99 * w, -0.10)]
    right += [(jaw, 0.30), (0.82 * jaw, 0.64), (0.42 * jaw, 0.83)]
    furry, rim = [], smooth([(0.0, -0.86), *right, (0.0, 0.85), *((-x, y) for x, y in right[::-1])])
    for i, (x, y) in enumerate(rim):
        cheek = max(0.0, 1 - abs(y - 0.38) / 0.42) if abs(x) > 0.3 else 0.0
        out = (0.012 + fluff * cheek * (1 if i % 3 == 0 else 0.25)) * rng.uniform(0.5, 1.3)
        furry.append((x * (1 + out), y * (1 + out) + 0.5 * out * cheek))
    return furry


def ear(cat: Cat, inside: bool = False) -> Shape:
    """Return the outline of the right ear, or of the pink inside it, which ends at the head."""
    (width, height, lean), x = cat.ear, 0.58 * cat.width
    half, height = (0.22 * width, 0.72 * height) if inside else (0.37 * width, height)
    tip, top, bow = x + 0.10 + lean, -0.72 - height, 0.4 * (lean + 0.10)
    foot = [(x - half, -0.82), (x + half, -0.66)] if inside else [(x - half, -0.68), (x + half * 0.84, -0.36)]
    right = [(x + half * 0.78 + bow, -0.62 - 0.35 * height), (tip + 0.03, top + 0.03)]
    left = [(tip - 0.04, top + 0.03), (x - half * 0.5 + bow, -0.76 - 0.42 * height)]
    return smooth([*foot, *right, (tip, top), *left])


def coat(cat: Cat, rng: random.Random, side: int) -> Layer:
    """Draw the colours of the fur without light, at half the resolution because fur is soft."""
    layer = Image.new("RGB", (side // 2, side // 2), cat.base)
    if cat.pattern in ("tabby", "spots"):
        pale = [oval(0.43, 0, 0.34, 0.30), oval(0.1, 0.5, 0.36, 0.3)]
        dab(layer, cat, both_sides(pale), mix(cat.base, WHITE, 0.35), 0.02)
    if cat.pattern == "tabby":
        bold = rng.uniform(0.09, 0.15)
        stripes = [stroke(start, bend, end, bold * width) for start, bend, end, width in STRIPES]
        dab(layer, cat, both_sides(stripes), cat.mark, 0.006, rng.uniform(0.7, 1))
    elif cat.pattern == "points":
        reach = rng.uniform(0.36, 0.6)
        dab(layer, cat, [oval(0, 0.26, reach, reach * 1.05)], cat.mark, 0.06, 0.9)
        dab(layer, cat, both_sides([ear(cat)]), cat.mark, 0.02, 0.95)
    elif cat.pattern in SPOTS:
        many, near, small, large = SPOTS[cat.pattern]
        spots, start = [], rng.random()
        for i in range(many):
            angle, reach = math.tau * (start + i / many), near + 0.3 * (i % 3)
            x, y, r = reach * math.cos(angle), 1.1 * reach * math.sin(angle), rng.uniform(small, large)
            spots.append(smooth([(x + r * u * rng.uniform(0.7, 1.4), y + r * v) for u, v in CIRCLE[::4]]))
        dab(layer, cat, spots[::2], cat.mark, 0.006)
        dab(layer, cat, spots[1::2], cat.mark if cat.pattern == "spots" else GINGER, 0.006)
    whiten(layer, cat, rng)
    pink = mix((238, 160, 156), cat.mark, 0.45 * rng.random())
    dab(layer, cat, both_sides([ear(cat, inside=True)]), pink, 0.006, 0.9)
    tufts = [stroke((x, -0.76), (x + 0.08, -0.86), (x + 0.18, -1), 0.08, True) for x in (0.38, 0.48, 0.58)]
    dab(layer, cat, both_sides(tufts), mix(cat.base, WHITE, 0.3), 0.004, 0.7)
    return layer.resize((side, side), Image.Resampling.BILINEAR)


def whiten(layer: Layer, cat: Cat, rng: random.Random) -> None:
    """Paint white parts: none, muzzle and chest, also a blaze, one side, or everything except a cap."""
    odds = {"calico": (0, 1, 0, 0, 0), "points": (12, 1, 0, 0, 0)}.get(cat.pattern, (46, 18, 22, 6, 8))
    side, w, top = rng.choice(SIDES), rng.uniform(0.8, 1.2), rng.uniform(-0.8, -0.3)
    muzzle = [oval(0, 0.48, 0.43 * w, 0.34), oval(0, 1.5, 0.5 * w, 0.85)]
    blaze = both_sides([[(0, top), (0.09 * w, -0.2), (0.18 * w, 0.1), (0.4, 0.5), (0, 0.5)]])
    half = [(0, -1), (-0.06, -0.4), (0.05, 0.2), (0, 0.9), (0, 3), (3, 3), (1.2, -0.1)]
    cap = both_sides([[(0, -0.28), (0.25 * w, 0), (0.7 * w, 0.22), (1.4, 0.3), (3, 3), (0, 3)]])
    parts: tuple[list[Shape], ...] = ([], muzzle, muzzle + blaze, [[(side * x, y) for x, y in half]], cap)
    dab(layer, cat, rng.choices(parts, odds)[0], WHITE, 0.012)


def light(cat: Cat, rng: random.Random, skull: Shape, front: Layer) -> Layer:
    """Draw the light on the fur: 128 keeps a colour, lower values darken it, higher ones brighten it."""
    side, (x, y) = front.width, cat.light
    shadow = [(px, py + 0.14) for px, py in skull]  # of the head on the chest
    rest = fill(Image.new("L", (side // 4, side // 4), 116), cat, [shadow], 74)
    rest = rest.filter(ImageFilter.BoxBlur(0.03 * rest.width)).resize((side, side))
    fill(rest, cat, both_sides([ear(cat)]), 120)
    ball = Image.new("L", (side // 4, side // 4), 100)  # the head, brightest where it faces the light
    for far, tone in ((0.9, 112), (0.73, 120), (0.56, 128), (0.39, 136), (0.22, 144)):
        fill(ball, cat, [oval((1 - far) * 0.7 * x, (1 - far) * 0.6 * y, far * 1.05, far * 0.92)], tone)
    puffs = both_sides([oval(0.17 * cat.muzzle, 0.40, 0.2 * cat.muzzle, 0.15 * cat.muzzle)])
    ball = fill(ball.filter(ImageFilter.BoxBlur(0.05 * ball.width)), cat, puffs, 150)
    rest.paste(ball.filter(ImageFilter.BoxBlur(0.015 * ball.width)).resize((side, side)), mask=front)
    lean = bytes(128 + round(38 * (sx * x + sy * y)) for sy in SIDES for sx in SIDES)
    slope = Image.frombytes("L", (2, 2), lean).resize((side, side), Image.Resampling.BICUBIC)
    return ImageChops.add(ImageChops.add(rest, slope, 1, -128), fur(cat, rng, side), 1, -128)


def fur(cat: Cat, rng: random.Random, side: int) -> Layer:
    """Draw hairs that point away from the nose, and a faint grain, around a mean of 128."""
    grain = Image.frombytes("L", (32, 32), rng.randbytes(1024)).point([124 + v // 32 for v in range(256)])
    layer = grain.resize((side // 2, side // 2))
    pen = ImageDraw.Draw(layer)
    for _ in range(120):
        angle, near = rng.random() * math.tau, rng.uniform(0.35, 1.6)
        cos, sin, far = math.cos(angle), math.sin(angle), near + rng.uniform(0.08, 0.2)
        hair = cat.place([(near * cos, 0.1 + near * sin), (far * cos, 0.1 + far * sin)], side // 2)
        pen.line(hair, fill=rng.choice((106, 114, 142, 150)))
    return layer.resize((side, side), Image.Resampling.BILINEAR)


def eyes(image: Layer, cat: Cat, rng: random.Random) -> None:
    """Paint lids, iris, pupil and reflections of both eyes."""
    rx, ry = rng.uniform(0.21, 0.25) + 0.05 * cat.youth, rng.uniform(0.15, 0.22) + 0.06 * cat.youth
    right, y = rng.uniform(0.40, 0.45) + 0.03 * cat.youth, rng.uniform(-0.12, -0.04) + 0.08 * cat.youth
    tilt, almond, slit = rng.uniform(0.0, 0.32), rng.uniform(0.0, 0.8), rng.uniform(0.22, 0.95)
    look, up, glint = rng.uniform(-0.06, 0.06), rng.uniform(-0.03, 0.03), math.copysign(0.09, cat.light[0])
    odd = EYES["blue"] if rng.random() < (0.25 if min(cat.base) > 220 else 0.03) else cat.iris
    for x, iris, t in ((-right, cat.iris, tilt), (right, odd, -tilt)):
        fill(image, cat, [oval(x, y, rx * 1.17, ry * 1.20, t, almond)], LINER)
        fill(image, cat, [oval(x, y, rx, ry, t, almond)], mix(iris, LINER, 0.4))
        fill(image, cat, [oval(x, y + 0.03, rx * 0.9, ry * 0.84, t, almond)], iris)
        x += look
        fill(image, cat, [oval(x, y + 0.45 * ry, rx * 0.5, ry * 0.32)], mix(iris, WHITE, 0.4))
        fill(image, cat, [oval(x, y + up, ry * 0.84 * slit, ry * 0.84)], (18, 14, 18))
        glints = [oval(x + glint, y - 0.09, 0.06, 0.06), oval(x - glint, y + 0.09, 0.03, 0.03)]
        fill(image, cat, glints, (255, 255, 255))


def nose_and_mouth(image: Layer, cat: Cat, rng: random.Random) -> None:
    """Paint the nose, the W-shaped mouth, and sometimes a tongue."""
    m, smile, colour = cat.muzzle, rng.uniform(0.5, 0.66), rng.choice(NOSES)
    if rng.random() < 0.07:
        fill(image, cat, [oval(0, 0.55, 0.075 * m, 0.11 * m)], (232, 112, 124))
    lip = stroke((0, 0.45), (0.14 * m, smile), (0.29 * m, 0.46), 0.05)
    fill(image, cat, both_sides([stroke((0, 0.30), (0, 0.4), (0, 0.48), 0.05), lip]), mix(cat.base, LINER, 0.85))
    half = [(0.0, 0.20), (0.10 * m, 0.19), (0.13 * m, 0.235), (0.05 * m, 0.32), (0.0, 0.345)]
    fill(image, cat, both_sides([half]), colour)


def whiskers(image: Layer, cat: Cat, rng: random.Random) -> None:
    """Paint three or four whiskers on each side; grey ones on a pale coat."""
    length, droop, hairs = rng.uniform(0.6, 1.05), rng.uniform(-0.15, 0.3), []
    for i in range(2 * rng.choice((3, 3, 4))):
        y, rise, reach = 0.36 + 0.055 * (i // 2), 0.13 * (i // 2) - 0.16, length * rng.uniform(0.9, 1.1)
        bend, end = (0.3 + reach / 2, y + 0.8 * rise), (0.3 + reach, y + rise + droop * reach)
        hairs.append([(SIDES[i % 2] * hx, hy) for hx, hy in stroke((0.24, y), bend, end, 0.03, True)])
    fill(image, cat, hairs, WHITE if sum(cat.base) < 620 else mix(cat.base, LINER, 0.5))


def collar(image: Layer, cat: Cat, rng: random.Random, neck: Layer) -> None:
    """Paint a collar with a bell within the mask of the neck."""
    colour = rng.choice(COLLARS)
    for low, shade in ((0.06, mix(colour, LINER, 0.35)), (0.0, colour)):
        band = stroke((-1.4, 0.4 + low), (0, 1.46 + low), (1.4, 0.4 + low), 0.17)
        mask = ImageChops.multiply(neck, fill(Image.new("L", neck.size), cat, [band], 255))
        image.paste(shade, mask=mask)
    fill(image, cat, [oval(0, 1.04, 0.11, 0.11)], (150, 104, 24))
    fill(image, cat, [oval(-0.01, 1.03, 0.09, 0.09)], (244, 204, 82))


def draw(index: int, seed: int = 0, size: int = 64) -> Image.Image:
    """Return cat number `index` of the series `seed`: RGB, size x size.

    The result depends only on the arguments and is the same on every machine.

    Raises:
        ValueError: the index is negative or the size is less than 8.
    """
    if index < 0 or size < 8:
        raise ValueError(
            f"cannot draw cat {index} of size {size}: the index must be at least 0 and the size at least 8"
        )
    rng, side = random.Random(f"catae:{seed}:{index}"), size * SUPERSAMPLING
    cat = sample_cat(rng)
    skull = head(cat, rng)
    right = [(0.58 * cat.width, 0.4), (0.68 * cat.width, 0.8), (0.96 * cat.width, 1.15), (1.2, 1.8), (1.3, 3)]
    shoulders = smooth([*right, *((-x, y) for x, y in right[::-1])])
    neck, front = (fill(Image.new("L", (side, side)), cat, [part], 255) for part in (shoulders, skull))
    shine = Image.merge("RGB", [light(cat, rng, skull, front)] * 3)
    pelt = ImageChops.hard_light(coat(cat, rng, side), shine)
    image = background(cat, rng, side)
    image.paste(pelt, mask=neck)
    if rng.random() < 0.35:
        collar(image, cat, rng, neck)
    image.paste(pelt, mask=fill(front, cat, both_sides([ear(cat)]), 255))
    eyes(image, cat, rng)
    nose_and_mouth(image, cat, rng)
    whiskers(image, cat, rng)
    return image.reduce(SUPERSAMPLING)
