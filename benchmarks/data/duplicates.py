"""Measure how well and at what cost duplicates are found.

    python benchmarks/data/duplicates.py [sheet.png]

It takes 6 minutes and prints Markdown tables. The first has recall and precision by kind of duplicate and threshold,
for 500 duplicates of each kind among all real cats (synthetic cats if ../shared/data/cats.zip is missing). The second
has seconds, memory and recall for up to 256,000 mixed images. With a path, it draws the pairs found among the cats, to
be judged by eye.
"""

import hashlib
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from catae.data import duplicates, ingest, synthetic

CATS = Path(__file__).parents[3] / "shared" / "data" / "cats.zip"
THRESHOLDS = (0.95, 0.97, 0.98, 0.99)
COPIES = 500
SIZES = (1_000, 4_000, 16_000, 64_000, 256_000)

Pixels = npt.NDArray[np.uint8]
Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def rescale(image: Image.Image, side: int) -> Image.Image:
    small = image.resize((side, side), Image.Resampling.LANCZOS)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def crop(image: Image.Image, left: float, top: float, kept: float) -> Image.Image:
    side = image.width
    box = (left * side, top * side, (left + kept) * side, (top + kept) * side)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def shift(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop to 98 % of the width and height, at a random position."""
    left, top = rng.uniform(0, 0.02, 2).tolist()
    return crop(image, left, top, 0.98)


def relight(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    bright = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.8, 1.2)))
    return ImageEnhance.Contrast(bright).enhance(float(rng.uniform(0.8, 1.2)))


def combine(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    cropped = shift(relight(image, rng), rng)
    return jpeg(rescale(cropped, int(rng.choice([48, 96]))), int(rng.integers(60, 96)))


KINDS: dict[str, Alter] = {
    "flipped": lambda image, rng: ImageOps.mirror(image),
    "JPEG 95": lambda image, rng: jpeg(image, 95),
    "JPEG 60": lambda image, rng: jpeg(image, 60),
    "rescaled by 48": lambda image, rng: rescale(image, 48),
    "rescaled by 96": lambda image, rng: rescale(image, 96),
    "brightness ±20 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(float(rng.choice([0.8, 1.2]))),
    "contrast ±20 %": lambda image, rng: ImageEnhance.Contrast(image).enhance(float(rng.choice([0.8, 1.2]))),
    "cropped to 98 %, at random": lambda image, rng: shift(image, rng),
    "cropped by 2 % at each edge": lambda image, rng: crop(image, 0.02, 0.02, 0.96),
    "relit, cropped to 98 %, rescaled, JPEG": combine,
    "the same, flipped": lambda image, rng: ImageOps.mirror(combine(image, rng)),
}


def digest(images: Pixels) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def cats() -> Pixels:
    """Return the distinct cats, uint8 (n, 64, 64, 3)."""
    if not CATS.exists():
        return np.stack([np.asarray(synthetic.draw(index, 0, 64)) for index in range(2000)])
    with tempfile.TemporaryDirectory() as folder:
        read = ingest.read(str(CATS), Path(folder), 64)[0]
        first = {name: position for position, name in reversed(list(enumerate(read.digests)))}
        return read.take(sorted(first.values()))


def found(images: Pixels, threshold: float = 0.98) -> duplicates.Duplicates:
    return duplicates.find(lambda positions: images[positions], digest(images), threshold)


def quality(known: Pixels) -> None:
    """Print recall (duplicates in their original's group) and precision (pairs with the original or its duplicates)."""
    print(f"Recall and precision, {COPIES} duplicates among {len(known):,} images.\n")
    print("| duplicates | " + " | ".join(f"recall, precision at {threshold}" for threshold in THRESHOLDS) + " |")
    print("|---" * (len(THRESHOLDS) + 1) + "|")
    baseline = {threshold: found(known, threshold).groups for threshold in THRESHOLDS}
    for kind, alter in KINDS.items():
        rng = np.random.default_rng(0)
        originals = rng.choice(len(known), COPIES, replace=False)
        copies = np.stack([np.asarray(alter(Image.fromarray(known[original]), rng)) for original in originals])
        row = []
        for threshold in THRESHOLDS:
            result = found(np.concatenate([known, copies]), threshold)
            recall = (result.groups[len(known) :] == result.groups[originals]).mean()
            family = np.concatenate([baseline[threshold], baseline[threshold][originals]])
            pairs = [pair for pair in result.pairs if pair.second >= len(known)]
            correct = sum(family[pair.first] == family[pair.second] for pair in pairs)
            row.append(f"{recall:.3f}, {correct / max(len(pairs), 1):.3f}")
        print(f"| {kind} | " + " | ".join(row) + " |", flush=True)


def mixtures(known: Pixels, count: int) -> tuple[duplicates.Take, npt.NDArray[np.int64]]:
    """Return images that mix two shifted cats, created on access. Every hundredth is a duplicate of an earlier one."""
    rng = np.random.default_rng(0)
    source = np.arange(count)
    source[99::100] = rng.integers(0, 99, len(source[99::100])) + source[99::100] // 100 * 100
    parents, shifts = rng.integers(0, len(known), (count, 2)), rng.integers(-8, 9, (count, 4))
    shares = rng.uniform(0.3, 0.7, count)

    def take(positions: npt.NDArray[np.int64]) -> Pixels:
        images = np.empty((len(positions), 64, 64, 3), np.uint8)
        for image, position in zip(images, positions.tolist(), strict=True):
            origin = source[position]
            one, other = (
                np.roll(known[parents[origin, k]], shifts[origin, 2 * k : 2 * k + 2], (0, 1)).astype(np.float32)
                for k in (0, 1)
            )
            mixed = shares[origin] * one + (1 - shares[origin]) * other
            if origin != position:  # relight, shift by a pixel in each direction, and flip every second one
                mixed = 0.85 * np.roll(mixed, (1, 1), (0, 1))[:, :: -1 if position % 200 == 99 else 1] + 10
            image[:] = mixed
        return images

    return take, source


def peak() -> int:
    """Return the peak memory of this process, in KiB (Linux)."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def clocks() -> npt.NDArray[np.float64]:
    """Return wall-clock and CPU seconds; CPU seconds are more reliable on a shared machine."""
    return np.array([time.perf_counter(), time.process_time()])


def cost(count: int) -> None:
    """Print one row of the table of costs. Run it in a process of its own, so that the peak memory is its own."""
    known = cats()
    take, source = mixtures(known, count)
    names = [hashlib.sha256(str(position).encode()).hexdigest() for position in range(count)]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = peak()
    spent, candidates, taken = np.zeros(2), 0, 0
    compare = duplicates._compare_sketches

    def timed(positions: npt.NDArray[np.int64]) -> Pixels:
        nonlocal spent, taken
        start = clocks()
        images = take(positions)
        spent, taken = spent + clocks() - start, taken + len(positions)
        return images

    def counted(*arguments: npt.NDArray[np.int64]) -> tuple[duplicates.Flags, duplicates.Flags]:
        nonlocal candidates
        candidates += len(arguments[1])
        return compare(*arguments)  # type: ignore[arg-type]

    duplicates._compare_sketches = counted  # type: ignore[assignment]
    start = clocks()
    result = duplicates.find(timed, names)
    wall, cpu = clocks() - start - spent
    memory = (peak() - before) / 1024
    copies = np.flatnonzero(source != np.arange(count))
    recall = (result.groups[copies] == result.groups[source[copies]]).mean()
    bits, bands = duplicates._shape(count)
    largest = np.bincount(result.groups).max()
    print(
        f"| {count:,} | {bits} x {bands} | {wall:.1f} | {cpu:.1f} | {candidates / count:.0f} | "
        f"{(taken - count) // 2:,} | {memory:.0f} | {recall:.3f} | {result.near:,} of {len(copies):,} | {largest} |",
        flush=True,
    )


def sheet(known: Pixels, path: Path, columns: int = 6, side: int = 96) -> None:
    """Draw every pair found, the most similar first, with flipped images flipped back."""
    result = found(known)
    pairs = sorted(result.pairs, key=lambda pair: -pair.similarity)
    print(
        f"\n{len(pairs)} pairs among {len(known):,}, the largest group has {np.bincount(result.groups).max()}: {path}"
    )
    page = Image.new("RGB", (columns * (2 * side + 12), -(-len(pairs) // columns) * (side + 16)), "white")
    for place, pair in enumerate(pairs):
        x, y = place % columns * (2 * side + 12), place // columns * (side + 16)
        second = Image.fromarray(known[pair.second])
        second = second if pair.kind == "near" else ImageOps.mirror(second)
        ImageDraw.Draw(page).text((x, y), f"{place} {pair.kind} {pair.similarity:.4f}", fill="black")
        page.paste(Image.fromarray(known[pair.first]).resize((side, side)), (x, y + 14))
        page.paste(second.resize((side, side)), (x + side, y + 14))
    page.save(path)


def main() -> None:
    if sys.argv[1:2] == ["--cost"]:
        cost(int(sys.argv[2]))
        return
    known = cats()
    quality(known)
    print(f"\nCost, without the time to create the images; mixtures of {len(known):,} cats, 1 % of them duplicates.\n")
    print(
        "| images | bits x bands | s | CPU s | candidates per image | pixels compared | MB | recall | joined | "
        "largest group |"
    )
    print("|---" * 10 + "|", flush=True)
    for count in SIZES:
        subprocess.run([sys.executable, __file__, "--cost", str(count)], check=True)
    for path in sys.argv[1:]:
        sheet(known, Path(path))


if __name__ == "__main__":
    main()
