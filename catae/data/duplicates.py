"""Find duplicates: identical, flipped, and near (re-encoded, rescaled, relit or slightly cropped) images.

A duplicate of a train image in test makes the test score too good. Comparing all n² / 2 pairs takes hours for a million
images. Three filters take minutes, each more accurate and more expensive than the one before:

1. **Buckets.** An image's *sketch* is its 16x16 grey thumbnail in whitened principal components, 32 numbers. Sketches
   of duplicates have a cosine above 0.92 (99 % of the hardest kind in benchmarks/data/duplicates.py: cropped, relit,
   rescaled and re-encoded at once). Unrelated faces, which correlate at 0.3-0.6 pixel by pixel, become nearly
   orthogonal. The signs of random projections hash the sketches: two with cosine s agree in a bit with
   p = 1 - arccos(s) / π (Charikar 2002, https://doi.org/10.1145/509907.509965). r bits make a bucket, and b
   independent bands of buckets are searched (Indyk & Motwani 1998, https://doi.org/10.1145/276698.276876).
2. **Sketches.** Two in one bucket must have a cosine of 0.9. Of the 43 million pairs of 9,303 cats, 166 have.
3. **Pixels.** `similarity` measures the remaining pairs: 83 are above 0.98. By eye, two or three of these show
   different cats, or one cat in two photographs; so do about ten of the 23 from 0.97 to 0.98. The plain cosine finds
   53.

Flipped duplicates cost nothing extra. A principal component is even or odd, so a flip only changes signs in a sketch.
Each band orients every image by the sign of one more projection, of the odd part alone, so that an image and its
flipped duplicate fall into one bucket.

Cost: unrelated cats share a bucket with probability E / 2^r, where E = 2.7, 5.5, 14, 43 for r = 12, 16, 20, 24 (E = 1
if they were orthogonal). r = 1.4 log2(n) - 5 keeps an image at one or two candidates a band. All bands miss a pair with
probability (1 - p^(r+1))^b, and b makes that 1 % at s = 0.92: 34 bands for n = 10^4, 122 for 10^6. So the time grows as
n^1.3 instead of n², and memory by half a kilobyte an image.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from catae.system import hardware, progress, rng

Positions = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
Take = Callable[[Positions], Pixels]
Kind = Literal["flipped", "near", "near-flipped"]

SIDE = 16  # of a thumbnail, in pixels
COMPONENTS = 32  # of a sketch: with 24 twice as many false pairs pass MIN_COSINE, with 64 some crops do not
SAMPLE = 8192  # minimum number of images to fit the principal components to, in larger sets
MIN_COSINE = 0.9  # of sketches whose pixels are compared; the least similar duplicates among the cats have 0.912
TARGET_COSINE = 0.92  # of sketches, at which 99 % of the pairs share a bucket
WINDOW = 16  # candidates for an image in one bucket: a bucket of 100,000 has only 100,000 x 16 pairs
MAX_FAILURES = 20  # failed comparisons of two images after which their pixels are no longer compared
MIN_CONTRAST = 2.0  # grey levels of 255: a thumbnail with a lower standard deviation has nothing to compare
MAX_DIFFERENT_BITS = 16  # of 64, between candidates: 4 standard deviations above the mean at MIN_COSINE
CHUNK = 256  # images or pairs in memory at once
GREY = np.array([77, 150, 29], np.float32)  # / 256, luma of ITU-R BT.601 in integers, which sum exactly


@dataclass(frozen=True)
class Pair:
    """Two images with different pixels that are duplicates, by position: `first` < `second`."""

    first: int
    second: int
    kind: Kind
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """The groups of duplicates in an image set.

    Attributes:
        groups: for each image the position of its group's first member, int64 (n,); its own without duplicates.
        pairs: the pairs that joined distinct images, sorted.
        identical: number of images with the pixels of an earlier one.
        flipped: number of further images joined to others as exactly flipped duplicates.
        near: number of further images joined to others as near duplicates, flipped or not.
    """

    groups: Positions
    pairs: tuple[Pair, ...]
    identical: int
    flipped: int
    near: int


def find(take: Take, digests: Sequence[str], threshold: float = 0.98) -> Duplicates:
    """Group the duplicates among n images, independently of their order.

    Identical and exactly flipped images are always found, near ones with the probability above. A featureless image
    (see MIN_CONTRAST) has no near duplicates, because only its noise could be compared. Groups are chains of pairs, so
    the ends of a chain may be less similar than `threshold`.

    Args:
        take: returns the images at the positions, int64 (k,), as RGB, uint8 (k, size, size, 3); size is a power of two,
            at least 16.
        digests: the SHA-256 of each image's pixels, in hexadecimal.
        threshold: minimum `similarity` of near duplicates, in (0, 1). Below 0.96, MIN_COSINE decides.
    """
    first: dict[str, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    # From here on, an image is its rank by digest among the distinct images. The rank does not depend on the order of
    # the images or on their content, so that every k-th image is a fair sample.
    ranks = {digest: rank for rank, digest in enumerate(sorted(first))}
    positions = np.fromiter((first[digest] for digest in ranks), np.int64, len(ranks))
    thumbnails, flips = _make_thumbnails(take, positions, ranks)
    sets = _DisjointSets(np.arange(len(positions)), positions)
    flipped = sum(sets.join(one, other, "flipped", 1.0) for one, other in flips)
    sketches = _sketches(thumbnails)
    del thumbnails  # a quarter of a kilobyte an image
    near = _join_near(sets, sketches, take, threshold)

    roots = sets.roots(np.arange(len(positions)))
    leaders = np.full(len(positions), len(digests), np.int64)
    np.minimum.at(leaders, roots, positions)
    groups = leaders[roots][np.fromiter((ranks[digest] for digest in digests), np.int64, len(digests))]
    pairs = sorted(sets.pairs, key=lambda pair: (pair.first, pair.second))
    return Duplicates(groups, tuple(pairs), len(digests) - len(positions), flipped, near)


def similarity(ones: Pixels, others: Pixels) -> Floats:
    """Return the similarity of each pair, invariant to light and to shifts or crops of a few percent: (k,) in [0, 1].

    To first order, shifting or zooming an image adds a multiple of its derivatives to it (Lucas & Kanade 1981). The
    similarity is the cosine between one image's mean-centred 16x16 grey thumbnail and its projection onto the span of
    the other's thumbnail and derivatives along x, along y and along the radius; the larger of both directions. Of 1,000
    cats cropped by 2 % at each edge all are above 0.98, with the plain cosine 53 %. Colour is ignored, because
    duplicates may lose it.

    Args:
        ones: the first images, uint8 (k, size, size, 3).
        others: the second images, of the same shape.
    """
    bases = [_with_derivatives(ones), _with_derivatives(others)]
    return np.maximum(_correlation(bases[0], bases[1][:, 0]), _correlation(bases[1], bases[0][:, 0]))


def _with_derivatives(images: Pixels) -> Floats:
    """Return thumbnails and their derivatives along x, y and the radius, centred and of unit norm: (k, 4, 256).

    Differentiate at full size and then average: differences of thumbnails are too coarse (they find 93 % of the crops).
    """
    size = images.shape[1]
    grey = images.astype(np.float32) @ GREY
    along_y, along_x = np.gradient(grey, axis=(1, 2))
    centred = np.arange(size, dtype=np.float32) - (size - 1) / 2
    fields = np.stack([grey, along_x, along_y, along_x * centred + along_y * centred[:, None]], axis=1)
    cells = fields.reshape(len(grey), 4, SIDE, size // SIDE, SIDE, size // SIDE)
    return _unit(cells.mean((3, 5)).reshape(len(grey), 4, SIDE**2))


def _correlation(bases: Floats, thumbnails: Floats) -> Floats:
    """Return the multiple correlation of (k, 256) thumbnails with (k, 4, 256) bases, by least squares: (k,)."""
    inner = (bases @ bases.transpose(0, 2, 1)).astype(np.float64) + 1e-6 * np.eye(4)  # some derivatives may be zero
    shares = (bases @ thumbnails[:, :, None]).astype(np.float64)
    explained: Floats = np.sqrt((shares * np.linalg.solve(inner, shares)).sum((1, 2)).clip(0, 1))
    return explained


def _unit(values: Floats) -> Floats:
    """Centre and scale to unit norm along the last axis; constant values become zero."""
    centred = values - values.mean(-1, keepdims=True)
    unit: Floats = centred / (np.linalg.norm(centred, axis=-1, keepdims=True) + 1e-6)
    return unit


def _make_thumbnails(
    take: Take, positions: Positions, ranks: Mapping[str, int]
) -> tuple[Pixels, list[tuple[int, int]]]:
    """Return the 16x16 grey thumbnails, uint8 (n, 16, 16), and the pairs of ranks that are exactly flipped."""
    thumbnails = np.empty((len(positions), SIDE, SIDE), np.uint8)
    by_position = np.argsort(positions)  # read the disk sequentially
    # Threads suffice, because numpy releases the GIL. Each holds one chunk of 13 MB.
    with ThreadPoolExecutor(hardware.usable_cpus()) as threads:
        chunks = _chunks(by_position)
        results = threads.map(lambda chunk: _thumbnails(take(positions[chunk])), chunks)
        for chunk, result in zip(chunks, progress.track(results, "making thumbnails", len(chunks)), strict=True):
            thumbnails[chunk] = result

    # Averaging is exact, so a flipped image has the flipped thumbnail. Few unrelated images share a thumbnail.
    hashes = {hash(thumbnail.tobytes()) for thumbnail in thumbnails}
    matches = (hash(thumbnail.tobytes()) in hashes for thumbnail in thumbnails[:, :, ::-1])
    candidates = np.flatnonzero(np.fromiter(matches, bool, len(thumbnails)))
    flips = []
    for chunk in _chunks(candidates):
        flipped = np.ascontiguousarray(take(positions[chunk])[:, :, ::-1])
        for rank, image in zip(chunk.tolist(), flipped, strict=True):
            other = ranks.get(hashlib.sha256(image).hexdigest(), rank)
            if rank < other:
                flips.append((rank, other))
    return thumbnails, flips


def _chunks(ranks: Positions) -> list[Positions]:
    return [ranks[start : start + CHUNK] for start in range(0, len(ranks), CHUNK)]


def _thumbnails(images: Pixels) -> Pixels:
    """Average uint8 (k, size, size, 3) to grey (k, 16, 16), in integers: exact up to size 256."""
    size = images.shape[1]
    averaging = np.kron(np.repeat(np.eye(SIDE, dtype=np.float32), size // SIDE, axis=0), GREY[:, None])
    rows = images.reshape(len(images), SIDE, size // SIDE, size * 3).astype(np.float32) @ averaging
    thumbnails: Pixels = np.rint(rows.sum(2) / (256 * (size // SIDE) ** 2)).astype(np.uint8)
    return thumbnails


class _DisjointSets:
    """Disjoint sets of ranks (Galler & Fischer 1964), and the pairs that joined them.

    Args:
        parents: the parent of each rank, int64 (n,).
        positions: the position of each rank, int64 (n,).
    """

    def __init__(self, parents: Positions, positions: Positions) -> None:
        self.parents, self.positions = parents, positions
        self.pairs: list[Pair] = []

    def roots(self, ranks: Positions) -> Positions:
        """Return the representative of each rank's set."""
        while not np.array_equal(parents := self.parents[ranks], ranks):
            ranks = parents
        return ranks

    def join(self, one: int, other: int, kind: Kind, similarity: float) -> bool:
        """Join the sets of two ranks; return whether they were different sets."""
        first, second = sorted((int(self.positions[one]), int(self.positions[other])))
        self.pairs.append(Pair(first, second, kind, similarity))
        low, high = sorted((self._root(one), self._root(other)))
        self.parents[high] = low
        return low != high

    def _root(self, rank: int) -> int:
        while (parent := int(self.parents[rank])) != rank:
            self.parents[rank] = self.parents[parent]  # path halving
            rank = parent
        return rank


@dataclass(frozen=True)
class _Sketches:
    """The sketches of the images that are not featureless.

    Attributes:
        ranks: the images, int64 (m,).
        values: their sketches, of unit norm, float32 (m, 32).
        odd: the components that a flip negates, bool (32,).
    """

    ranks: Positions
    values: Floats
    odd: Flags


def _sketches(thumbnails: Pixels) -> _Sketches:
    """Return the whitened principal components of (n, 16, 16) thumbnails, except those below MIN_CONTRAST.

    The fit includes each image's flip, so that every component is even or odd. It also includes 256 images of white
    noise as a prior. Without it, in a set of a few dozen, the difference of two duplicates would weigh as much as their
    content.
    """
    chunks = [thumbnails[start : start + CHUNK] for start in range(0, len(thumbnails), CHUNK)]
    contrast = np.concatenate([np.zeros(0), *(chunk.std((1, 2)) for chunk in chunks)])
    ranks = np.flatnonzero(contrast >= MIN_CONTRAST)
    sample = _halves(thumbnails[ranks[:: max(1, len(ranks) // SAMPLE)]]).astype(np.float64)
    # The noise adds the identity: 256 images of unit norm in 256 dimensions.
    variances, directions = np.linalg.eigh(sample.transpose(0, 2, 1) @ sample + np.eye(SIDE**2 // 2))
    half, column = np.divmod(np.argsort(-variances, axis=None)[:COMPONENTS], SIDE**2 // 2)
    basis = (directions[half, :, column] / np.sqrt(variances[half, column])[:, None]).astype(np.float32).T

    values = np.empty((len(ranks), COMPONENTS), np.float32)
    for start in range(0, len(ranks), CHUNK):
        even, odd = _halves(thumbnails[ranks[start : start + CHUNK]]) @ basis
        sketch = np.where(half, odd, even)
        values[start : start + CHUNK] = sketch / (np.linalg.norm(sketch, axis=1, keepdims=True) + 1e-6)
    return _Sketches(ranks, values, half.astype(bool))


def _halves(thumbnails: Pixels) -> Floats:
    """Return the even and odd halves of (k, 16, 16) thumbnails, of unit norm: (2, k, 128). A flip negates the odd."""
    unit = _unit(thumbnails.reshape(len(thumbnails), SIDE**2).astype(np.float32)).reshape(thumbnails.shape)
    left, right = unit[:, :, : SIDE // 2], unit[:, :, : SIDE // 2 - 1 : -1]
    return np.stack([left + right, left - right]).reshape(2, len(unit), SIDE**2 // 2) / np.float32(math.sqrt(2))


def _join_near(sets: _DisjointSets, sketches: _Sketches, take: Take, threshold: float) -> int:
    """Join near duplicates, flipped or not; return by how many the number of sets decreases."""
    bits, bands = _shape(len(sketches.ranks))
    count, near = len(sets.positions), 0
    failures = np.zeros(count, np.int64)  # of each image's comparisons
    rejected = np.array([count**2])  # each pair as one number, ascending; the last is a sentinel
    for band in progress.track(range(bands), "looking for duplicates", bands):
        newly_rejected = [rejected]
        for ones, others in _candidates(sketches, bits, band):
            similar, flipped = _compare_sketches(sketches, ones, others)
            ones, others, flipped = sketches.ranks[ones[similar]], sketches.ranks[others[similar]], flipped[similar]
            pairs = ones * count + others
            new = (sets.roots(ones) != sets.roots(others)) & (rejected[np.searchsorted(rejected, pairs)] != pairs)
            new &= np.minimum(failures[ones], failures[others]) < MAX_FAILURES
            ones, others, flipped, pairs = ones[new], others[new], flipped[new], pairs[new]
            measured = _compare_pixels(take, sets.positions[ones], sets.positions[others], flipped)
            for pair in np.flatnonzero(measured >= threshold).tolist():
                kind: Kind = "near-flipped" if flipped[pair] else "near"
                near += sets.join(int(ones[pair]), int(others[pair]), kind, float(measured[pair]))
            failed = measured < threshold
            np.add.at(failures, np.concatenate([ones[failed], others[failed]]), 1)
            newly_rejected.append(pairs[failed])
        rejected = np.unique(np.concatenate(newly_rejected))
    return near


def _shape(count: int) -> tuple[int, int]:
    """Return the bits of a bucket and the number of bands for `count` images; see the module's docstring."""
    bits = min(48, max(1, round(1.4 * math.log2(max(count, 2)) - 5)))
    collision = (1 - math.acos(TARGET_COSINE) / math.pi) ** (bits + 1)
    return bits, math.ceil(math.log(0.01) / math.log(1 - collision))


def _candidates(sketches: _Sketches, bits: int, band: int) -> Iterator[tuple[Positions, Positions]]:
    """Yield pairs in one bucket, the lower index first: neighbours in hash order at distances from 1 to WINDOW.

    Hashes have 64 bits. The first `bits` are the bucket. The others sort similar images together in a large bucket, and
    exclude two thirds of the pairs before their sketches are read.
    """
    generator = np.random.default_rng(rng.number(0, f"projections of band {band}"))
    planes = generator.standard_normal((COMPONENTS, 65), np.float32)
    hashes = np.empty(len(sketches.ranks), np.uint64)
    for start in range(0, len(hashes), 64 * CHUNK):
        values = sketches.values[start : start + 64 * CHUNK]
        even, odd = (values * ~sketches.odd) @ planes, (values * sketches.odd) @ planes
        signs = even + np.sign(odd[:, 64:]) * odd > 0
        hashes[start : start + 64 * CHUNK] = np.packbits(signs[:, :64], axis=1).view(">u8")[:, 0]
    order = np.argsort(hashes)
    hashes = hashes[order]
    for step in range(1, WINDOW + 1):
        differ = hashes[step:] ^ hashes[:-step]
        same_bucket = differ >> np.uint64(64 - bits) == 0
        pairs = np.flatnonzero(same_bucket & (np.bitwise_count(differ) <= MAX_DIFFERENT_BITS))
        for start in range(0, len(pairs), 64 * CHUNK):
            one, other = order[pairs[start : start + 64 * CHUNK]], order[pairs[start : start + 64 * CHUNK] + step]
            yield np.minimum(one, other), np.maximum(one, other)


def _compare_sketches(sketches: _Sketches, ones: Positions, others: Positions) -> tuple[Flags, Flags]:
    """Return which pairs of sketches reach MIN_COSINE, flipped or not, and which are more similar flipped."""
    products = sketches.values[ones] * sketches.values[others]
    even, odd = products @ ~sketches.odd, products @ sketches.odd
    return even + abs(odd) >= MIN_COSINE, odd < 0


def _compare_pixels(take: Take, ones: Positions, others: Positions, flipped: Flags) -> Floats:
    """Return the `similarity` of pairs of positions; flip the second of each pair where `flipped`."""
    measured = np.empty(len(ones))
    for start in range(0, len(ones), CHUNK):
        chunk = slice(start, start + CHUNK)
        second = take(others[chunk])
        second = np.where(flipped[chunk, None, None, None], second[:, :, ::-1], second)
        measured[chunk] = similarity(take(ones[chunk]), second)
    return measured
