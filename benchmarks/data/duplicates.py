"""Measure the quality and the cost of finding duplicates, in 6 minutes.

    python benchmarks/data/duplicates.py [sheet.png]

The first Markdown table has recall and precision by kind of modified duplicate and by threshold. It adds 500 duplicates
of each kind to all the real cats, or to synthetic ones if ../shared/data/cats.zip is missing. The second table has
time, memory and recall for up to 256,000 blended images. With a path, the script also draws the pairs found among the
cats themselves, for people to judge.
"""

import argparse
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
DUPLICATES = 500
SIZES = (1_000, 4_000, 16_000, 64_000, 256_000)

Pixels = npt.NDArray[np.uint8]
Modify = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Encode an image as JPEG and decode it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def rescale(image: Image.Image, side: int) -> Image.Image:
    """Resize an image to `side` x `side` and back."""
    resized = image.resize((side, side), Image.Resampling.LANCZOS)
    return resized.resize(image.size, Image.Resampling.BICUBIC)


def crop(image: Image.Image, left: float, top: float, fraction: float) -> Image.Image:
    """Crop an image to a fraction of its sides and resize it to its old size."""
    side = image.width
    box = (left * side, top * side, (left + fraction) * side, (top + fraction) * side)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def random_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop an image to 98 % of its width and height, at a random position."""
    left, top = rng.uniform(0, 0.02, 2).tolist()
    return crop(image, left, top, 0.98)


def jitter_color(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change brightness and contrast by up to 20 %."""
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.8, 1.2)))
    return ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.8, 1.2)))


def combine(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change the color, then crop, rescale and compress an image."""
    cropped = random_crop(jitter_color(image, rng), rng)
    return jpeg(rescale(cropped, int(rng.choice([48, 96]))), int(rng.integers(60, 96)))


KINDS: dict[str, Modify] = {
    "flipped": lambda image, rng: ImageOps.mirror(image),
    "JPEG 95": lambda image, rng: jpeg(image, 95),
    "JPEG 60": lambda image, rng: jpeg(image, 60),
    "rescaled through 48x48": lambda image, rng: rescale(image, 48),
    "rescaled through 96x96": lambda image, rng: rescale(image, 96),
    "brightness ±20 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(float(rng.choice([0.8, 1.2]))),
    "contrast ±20 %": lambda image, rng: ImageEnhance.Contrast(image).enhance(float(rng.choice([0.8, 1.2]))),
    "random crop to 98 %": lambda image, rng: random_crop(image, rng),
    "cropped by 2 % at each edge": lambda image, rng: crop(image, 0.02, 0.02, 0.96),
    "color, random crop to 98 %, rescaled, JPEG": combine,
    "the same, flipped": lambda image, rng: ImageOps.mirror(combine(image, rng)),
}


def digest(images: Pixels) -> list[str]:
    """Return the SHA-256 of each image's pixels."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def load_cats() -> Pixels:
    """Return the distinct cats, uint8 (n, 64, 64, 3)."""
    if not CATS.exists():
        return np.stack([np.asarray(synthetic.draw(index, 0, 64)) for index in range(2000)])
    with tempfile.TemporaryDirectory() as folder:
        images = ingest.read(str(CATS), Path(folder), 64)[0]
        first = {name: position for position, name in reversed(list(enumerate(images.digests)))}
        return images.take(sorted(first.values()))


def find(images: Pixels, threshold: float = 0.98) -> duplicates.Duplicates:
    """Find the duplicates among images in memory."""
    return duplicates.find(lambda positions: images[positions], digest(images), threshold)


def measure_quality(cats: Pixels) -> None:
    """Print recall and precision.

    Recall is the share of duplicates in the same group as their original. Precision is the share of pairs with a
    duplicate whose other image is its original, or belongs to the group of its original.
    """
    print(f"Recall and precision, {DUPLICATES} duplicates among {len(cats):,} images.\n")
    print("| duplicates | " + " | ".join(f"recall, precision at {threshold}" for threshold in THRESHOLDS) + " |")
    print("|---" * (len(THRESHOLDS) + 1) + "|")
    groups_without = {threshold: find(cats, threshold).groups for threshold in THRESHOLDS}
    for kind, modify in KINDS.items():
        rng = np.random.default_rng(0)
        originals = rng.choice(len(cats), DUPLICATES, replace=False)
        modified = np.stack([np.asarray(modify(Image.fromarray(cats[original]), rng)) for original in originals])
        row = []
        for threshold in THRESHOLDS:
            result = find(np.concatenate([cats, modified]), threshold)
            recall = (result.groups[len(cats) :] == result.groups[originals]).mean()
            family = np.concatenate([groups_without[threshold], groups_without[threshold][originals]])
            pairs = [pair for pair in result.pairs if pair.second >= len(cats)]
            correct = sum(family[pair.first] == family[pair.second] for pair in pairs)
            row.append(f"{recall:.3f}, {correct / max(len(pairs), 1):.3f}")
        print(f"| {kind} | " + " | ".join(row) + " |", flush=True)


def blended_images(cats: Pixels, count: int) -> tuple[duplicates.Take, npt.NDArray[np.int64]]:
    """Return a function that computes blends of two shifted cats on demand, and the original of each position.

    Every 100th image is a modified duplicate of an earlier one. The other images are their own originals.
    """
    rng = np.random.default_rng(0)
    originals = np.arange(count)
    originals[99::100] = rng.integers(0, 99, len(originals[99::100])) + originals[99::100] // 100 * 100
    parents, shifts = rng.integers(0, len(cats), (count, 2)), rng.integers(-8, 9, (count, 4))
    weights = rng.uniform(0.3, 0.7, count)

    def take(positions: npt.NDArray[np.int64]) -> Pixels:
        images = np.empty((len(positions), 64, 64, 3), np.uint8)
        for image, position in zip(images, positions.tolist(), strict=True):
            original = originals[position]
            first, second = (
                np.roll(cats[parents[original, k]], shifts[original, 2 * k : 2 * k + 2], (0, 1)).astype(np.float32)
                for k in (0, 1)
            )
            blend = weights[original] * first + (1 - weights[original]) * second
            if original != position:  # a duplicate: other brightness, shifted by a pixel each way, every second flipped
                blend = 0.85 * np.roll(blend, (1, 1), (0, 1))[:, :: -1 if position % 200 == 99 else 1] + 10
            image[:] = blend
        return images

    return take, originals


def peak_memory() -> int:
    """Return the peak resident memory of this process in KiB, on Linux."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) if match else 0


def clocks() -> npt.NDArray[np.float64]:
    """Return wall time and CPU time in seconds. CPU time depends less on other load on the machine."""
    return np.array([time.perf_counter(), time.process_time()])


def measure_cost(count: int) -> None:
    """Print one row of the table of costs. Run in a process of its own, for its own peak of memory."""
    cats = load_cats()
    take, originals = blended_images(cats, count)
    digests = [hashlib.sha256(str(position).encode()).hexdigest() for position in range(count)]
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_memory()
    blending, candidates, taken = np.zeros(2), 0, 0
    compare_sketches = duplicates._compare_sketches

    def timed_take(positions: npt.NDArray[np.int64]) -> Pixels:
        nonlocal blending, taken
        start = clocks()
        images = take(positions)
        blending, taken = blending + clocks() - start, taken + len(positions)
        return images

    def counted(*arguments: npt.NDArray[np.int64]) -> tuple[duplicates.Flags, duplicates.Flags]:
        nonlocal candidates
        candidates += len(arguments[1])
        return compare_sketches(*arguments)  # type: ignore[arg-type]

    duplicates._compare_sketches = counted  # type: ignore[assignment]
    start = clocks()
    result = duplicates.find(timed_take, digests)
    wall, cpu = clocks() - start - blending
    memory = (peak_memory() - before) / 1024
    modified = np.flatnonzero(originals != np.arange(count))
    recall = (result.groups[modified] == result.groups[originals[modified]]).mean()
    bits, bands = duplicates._shape(count)
    largest = np.bincount(result.groups).max()
    print(
        f"| {count:,} | {bits} x {bands} | {wall:.1f} | {cpu:.1f} | {candidates / count:.0f} | "
        f"{(taken - count) // 2:,} | {memory:.0f} | {recall:.3f} | {result.near:,} of {len(modified):,} | {largest} |",
        flush=True,
    )


def draw_pairs(cats: Pixels, path: Path, columns: int = 6, side: int = 96) -> None:
    """Draw every pair found, by decreasing similarity. The second image of a flipped pair is flipped back."""
    result = find(cats)
    pairs = sorted(result.pairs, key=lambda pair: -pair.similarity)
    print(f"\n{len(pairs)} pairs among {len(cats):,}, largest group {np.bincount(result.groups).max()}: {path}")
    sheet = Image.new("RGB", (columns * (2 * side + 12), -(-len(pairs) // columns) * (side + 16)), "white")
    for number, pair in enumerate(pairs):
        x, y = number % columns * (2 * side + 12), number // columns * (side + 16)
        second = Image.fromarray(cats[pair.second])
        second = second if pair.kind == "near" else ImageOps.mirror(second)
        ImageDraw.Draw(sheet).text((x, y), f"{number} {pair.kind} {pair.similarity:.4f}", fill="black")
        sheet.paste(Image.fromarray(cats[pair.first]).resize((side, side)), (x, y + 14))
        sheet.paste(second.resize((side, side)), (x + side, y + 14))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path, nargs="?", help="where to draw the pairs found among the cats")
    parser.add_argument("--cost", type=int, help=argparse.SUPPRESS)  # for the processes that this one starts
    options = parser.parse_args()
    if options.cost:
        measure_cost(options.cost)
        return
    cats = load_cats()
    measure_quality(cats)
    print(f"\nCost without blending; blends of {len(cats):,} cats, 1 % of them duplicates.\n")
    print(
        "| images | bits x bands | s | CPU s | candidates per image | pixel comparisons | MB | recall | "
        "near duplicates | largest group |"
    )
    print("|---" * 10 + "|", flush=True)
    for count in SIZES:
        subprocess.run([sys.executable, __file__, "--cost", str(count)], check=True)
    if options.sheet:
        draw_pairs(cats, options.sheet)


if __name__ == "__main__":
    main()
