"""How well and at what cost copies are found: `python benchmarks/data/duplicates.py [sheet.png]`, 6 minutes.

Prints Markdown tables: recall and precision per kind of altered copy and threshold, 500 copies of each kind among all
the real cats (drawn ones, where ../shared/data/cats.zip is missing); then seconds, memory and recall for up to 256,000
synthetic pictures. Draws the pairs found among the cats themselves to the path given, for people to judge.
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

from catae.data import duplicates, ingest
from catae.data import synthetic as drawn

CATS = Path(__file__).parents[3] / "shared" / "data" / "cats.zip"
THRESHOLDS = (0.95, 0.97, 0.98, 0.99)
COPIES = 500
SIZES = (1_000, 4_000, 16_000, 64_000, 256_000)

Pixels = npt.NDArray[np.uint8]
Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def rescale(picture: Image.Image, side: int) -> Image.Image:
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def crop(picture: Image.Image, left: float, top: float, kept: float) -> Image.Image:
    side = picture.width
    box = (left * side, top * side, (left + kept) * side, (top + kept) * side)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def shift(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """98 % of the width and height, from anywhere."""
    left, top = rng.uniform(0, 0.02, 2).tolist()
    return crop(picture, left, top, 0.98)


def relight(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    bright = ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.8, 1.2)))
    return ImageEnhance.Contrast(bright).enhance(float(rng.uniform(0.8, 1.2)))


def combine(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    cropped = shift(relight(picture, rng), rng)
    return jpeg(rescale(cropped, int(rng.choice([48, 96]))), int(rng.integers(60, 96)))


KINDS: dict[str, Alter] = {
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "JPEG 95": lambda picture, rng: jpeg(picture, 95),
    "JPEG 60": lambda picture, rng: jpeg(picture, 60),
    "rescaled by 48": lambda picture, rng: rescale(picture, 48),
    "rescaled by 96": lambda picture, rng: rescale(picture, 96),
    "brightness ±20 %": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(float(rng.choice([0.8, 1.2]))),
    "contrast ±20 %": lambda picture, rng: ImageEnhance.Contrast(picture).enhance(float(rng.choice([0.8, 1.2]))),
    "cropped to 98 %, anywhere": lambda picture, rng: shift(picture, rng),
    "cropped by 2 % at each edge": lambda picture, rng: crop(picture, 0.02, 0.02, 0.96),
    "relit, cropped to 98 %, rescaled, JPEG": combine,
    "the same, mirrored": lambda picture, rng: ImageOps.mirror(combine(picture, rng)),
}


def digest(pictures: Pixels) -> list[str]:
    return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]


def cats() -> Pixels:
    """The distinct cats, uint8 (n, 64, 64, 3)."""
    if not CATS.exists():
        return np.stack([np.asarray(drawn.draw(index, 0, 64)) for index in range(2000)])
    with tempfile.TemporaryDirectory() as folder:
        read = ingest.read(str(CATS), Path(folder), 64)[0]
        first = {name: position for position, name in reversed(list(enumerate(read.digests)))}
        return read.take(sorted(first.values()))


def found(pictures: Pixels, threshold: float = 0.98) -> duplicates.Copies:
    return duplicates.find(lambda positions: pictures[positions], digest(pictures), threshold)


def quality(known: Pixels) -> None:
    """Recall: copies in their original's group. Precision: pairs of a copy with its original or that one's copies."""
    print(f"Recall and precision, {COPIES} copies among {len(known):,} pictures.\n")
    print("| copies | " + " | ".join(f"recall, precision at {threshold}" for threshold in THRESHOLDS) + " |")
    print("|---" * (len(THRESHOLDS) + 1) + "|")
    alone = {threshold: found(known, threshold).groups for threshold in THRESHOLDS}
    for kind, alter in KINDS.items():
        rng = np.random.default_rng(0)
        originals = rng.choice(len(known), COPIES, replace=False)
        copies = np.stack([np.asarray(alter(Image.fromarray(known[original]), rng)) for original in originals])
        row = []
        for threshold in THRESHOLDS:
            result = found(np.concatenate([known, copies]), threshold)
            recall = (result.groups[len(known) :] == result.groups[originals]).mean()
            family = np.concatenate([alone[threshold], alone[threshold][originals]])
            pairs = [pair for pair in result.pairs if pair.second >= len(known)]
            right = sum(family[pair.first] == family[pair.second] for pair in pairs)
            row.append(f"{recall:.3f}, {right / max(len(pairs), 1):.3f}")
        print(f"| {kind} | " + " | ".join(row) + " |", flush=True)


def synthetic(known: Pixels, count: int) -> tuple[duplicates.Take, npt.NDArray[np.int64]]:
    """Mixes of two shifted cats, made when they are asked for; every hundredth is an altered copy of an earlier one."""
    rng = np.random.default_rng(0)
    source = np.arange(count)
    source[99::100] = rng.integers(0, 99, len(source[99::100])) + source[99::100] // 100 * 100
    parents, shifts = rng.integers(0, len(known), (count, 2)), rng.integers(-8, 9, (count, 4))
    shares = rng.uniform(0.3, 0.7, count)

    def take(positions: npt.NDArray[np.int64]) -> Pixels:
        pictures = np.empty((len(positions), 64, 64, 3), np.uint8)
        for picture, position in zip(pictures, positions.tolist(), strict=True):
            of = source[position]
            one, other = (
                np.roll(known[parents[of, k]], shifts[of, 2 * k : 2 * k + 2], (0, 1)).astype(np.float32) for k in (0, 1)
            )
            mixed = shares[of] * one + (1 - shares[of]) * other
            if of != position:  # relit, moved by a pixel each way, mirrored every second time
                mixed = 0.85 * np.roll(mixed, (1, 1), (0, 1))[:, :: -1 if position % 200 == 99 else 1] + 10
            picture[:] = mixed
        return pictures

    return take, source


def peak() -> int:
    """The most memory that this process has held, in KiB; Linux."""
    held = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(held[1]) if held else 0


def clocks() -> npt.NDArray[np.float64]:
    """Seconds on the wall and of all CPUs; the latter say more on a machine that others use too."""
    return np.array([time.perf_counter(), time.process_time()])


def cost(count: int) -> None:
    """One row of the table of costs, `group` the largest; a process of its own has a peak of its own."""
    known = cats()
    take, source = synthetic(known, count)
    names = [hashlib.sha256(str(position).encode()).hexdigest() for position in range(count)]
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak()
    spent, met, measured = np.zeros(2), 0, 0
    alike = duplicates._alike

    def timed(positions: npt.NDArray[np.int64]) -> Pixels:
        nonlocal spent, measured
        start = clocks()
        pictures = take(positions)
        spent, measured = spent + clocks() - start, measured + len(positions)
        return pictures

    def counted(*arguments: npt.NDArray[np.int64]) -> tuple[duplicates.Flags, duplicates.Flags]:
        nonlocal met
        met += len(arguments[1])
        return alike(*arguments)  # type: ignore[arg-type]

    duplicates._alike = counted  # type: ignore[assignment]
    start = clocks()
    result = duplicates.find(timed, names)
    wall, cpu = clocks() - start - spent
    memory = (peak() - before) / 1024
    copies = np.flatnonzero(source != np.arange(count))
    recall = (result.groups[copies] == result.groups[source[copies]]).mean()
    bits, bands = duplicates._shape(count)
    largest = np.bincount(result.groups).max()
    print(
        f"| {count:,} | {bits} x {bands} | {wall:.1f} | {cpu:.1f} | {met / count:.0f} | {(measured - count) // 2:,} | "
        f"{memory:.0f} | {recall:.3f} | {result.near:,} of {len(copies):,} | {largest} |",
        flush=True,
    )


def sheet(known: Pixels, path: Path, columns: int = 6, side: int = 96) -> None:
    """Every pair that is found, the surest first, a mirrored one turned back."""
    result = found(known)
    pairs = sorted(result.pairs, key=lambda pair: -pair.similarity)
    print(f"\n{len(pairs)} pairs among {len(known):,}, the largest group of {np.bincount(result.groups).max()}: {path}")
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
    print(f"\nCost, on top of making the pictures; {len(known):,} cats mixed, 1 % of them copies.\n")
    print(
        "| pictures | bits x bands | s | s of CPU | mates a picture | pixels compared | MB | recall | joined | group |"
    )
    print("|---" * 10 + "|", flush=True)
    for count in SIZES:
        subprocess.run([sys.executable, __file__, "--cost", str(count)], check=True)
    for path in sys.argv[1:]:
        sheet(known, Path(path))


if __name__ == "__main__":
    main()
