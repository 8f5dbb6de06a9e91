"""Which pictures are copies of each other: identical, mirrored, or re-encoded, rescaled, relit and slightly cropped.

A copy on the other side of the split makes the test score a lie, and comparing all n² / 2 pairs takes hours for a
million pictures. Three sieves take minutes, each finer and dearer than the one before:

1. **Buckets.** A picture's *sketch* is its 16x16 grey thumbnail in whitened principal components, 32 numbers: there
   copies stay above a cosine of 0.92 (99 % of the hardest of benchmarks/data/duplicates.py: cropped, relit, rescaled
   and re-encoded at once), and unrelated faces, which correlate at 0.3-0.6 pixel by pixel, become nearly orthogonal.
   The signs of random projections hash the sketches: two of cosine s agree in a bit with p = 1 - arccos(s) / π
   (Charikar 2002, https://doi.org/10.1145/509907.509965). r bits make a bucket, and b independent bands of buckets
   are looked through (Indyk & Motwani 1998, https://doi.org/10.1145/276698.276876).
2. **Sketches.** Two in one bucket must have a cosine of 0.9: of the 43 million pairs of 9,303 cats 166 do.
3. **Pixels.** What is left is measured by `similarity`: 83 are above 0.98. By eye two or three of these show different
   cats, or one cat in two photographs, and about ten of the 23 from 0.97 to 0.98; the plain cosine finds 53.

Mirrored copies cost nothing extra: a principal component is even or odd, so that mirroring changes signs in a sketch.
Each band turns every picture to one side, by the sign of one more projection, of the odd part alone, and a picture
and its mirrored copy fall into one bucket.

What it costs: unrelated cats share a bucket with E / 2^r, E = 2.7, 5.5, 14, 43 for r = 12, 16, 20, 24 (E = 1 if they
were orthogonal), so r = 1.4 log2(n) - 5 keeps a picture at a mate or two a band. No band has a pair with
(1 - p^(r+1))^b, and b makes that 1 % at s = 0.92: 34 bands for n = 10^4, 122 for 10^6. So the work grows as n^1.3,
where all pairs were n², and memory by half a kilobyte a picture.
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
Kind = Literal["mirrored", "near", "near-mirrored"]

SIDE = 16  # of a thumbnail, in pixels
COMPONENTS = 32  # of a sketch: with 24 twice as many false pairs pass ALIKE, with 64 some crops don't
SAMPLE = 8192  # pictures, at least, that the principal components are fitted to, where there are as many
ALIKE = 0.9  # least cosine of sketches whose pixels are compared: the least alike copies among the cats have 0.912
HARDEST = 0.92  # the cosine of sketches at which 99 % share a bucket
WINDOW = 16  # mates that a picture meets in one bucket, so that even 100,000 in it are only 100,000 x 16 pairs
PATIENCE = 20  # comparisons in vain, after which two look-alikes of a crowd no longer compare their pixels
FAINT = 2.0  # grey levels of 255: a thumbnail of less standard deviation shows nothing to tell copies by
MISSES = 16  # of 64 bits that two mates may differ in: 4 standard deviations above the mean at ALIKE
CHUNK = 256  # pictures or pairs of them in memory at once
GREY = np.array([77, 150, 29], np.float32)  # / 256, luma of ITU-R BT.601 in whole numbers, which sum without rounding


@dataclass(frozen=True)
class Pair:
    """Two pictures of different pixels that are copies, by position: `first` < `second`."""

    first: int
    second: int
    kind: Kind
    similarity: float


@dataclass(frozen=True)
class Copies:
    """Which pictures belong together.

    `groups`, int64 (n,), has for each picture the position of its group's first member, its own where it is alone.
    `pairs`, sorted, are what joined distinct pictures. `identical` counts the pictures with the pixels of an earlier
    one; `mirrored` and `near` the further ones that mirrored and near copies join to others.
    """

    groups: Positions
    pairs: tuple[Pair, ...]
    identical: int
    mirrored: int
    near: int


def find(take: Take, digests: Sequence[str], threshold: float = 0.98) -> Copies:
    """Groups the copies among n pictures; which are grouped doesn't depend on their order.

    Identical and exactly mirrored ones are found for certain, near ones with the probability above. A featureless
    picture (see FAINT) is nobody's near copy: its noise would be all there is to compare. Groups are chains of pairs,
    so that the ends of one may be less alike than `threshold`.

    Args:
        take: gives the pictures at the positions, int64 (k,), as RGB, uint8 (k, size, size, 3); size a power of two
            from 16.
        digests: of each picture, the SHA-256 of its pixels, in hexadecimal.
        threshold: least `similarity` of near copies, in (0, 1). Below 0.96 it is ALIKE that decides.
    """
    first: dict[str, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    # From here on a picture is its rank by digest among the distinct ones: no shuffling changes that, and it has
    # nothing to do with what the picture shows, so that every k-th is a fair sample.
    ranks = {digest: rank for rank, digest in enumerate(sorted(first))}
    where = np.fromiter((first[digest] for digest in ranks), np.int64, len(ranks))
    thumbnails, mirrors = _look(take, where, ranks)
    joined = _Joined(np.arange(len(where)), where)
    mirrored = sum(joined.join(one, other, "mirrored", 1.0) for one, other in mirrors)
    sketches = _sketches(thumbnails)
    del thumbnails  # a quarter of a kilobyte a picture
    near = _join_near(joined, sketches, take, threshold)

    roots = joined.roots(np.arange(len(where)))
    leaders = np.full(len(where), len(digests), np.int64)
    np.minimum.at(leaders, roots, where)
    groups = leaders[roots][np.fromiter((ranks[digest] for digest in digests), np.int64, len(digests))]
    pairs = sorted(joined.pairs, key=lambda pair: (pair.first, pair.second))
    return Copies(groups, tuple(pairs), len(digests) - len(where), mirrored, near)


def similarity(ones: Pixels, others: Pixels) -> Floats:
    """How alike pictures are, pair by pair, whatever their light and a shift or crop of some percent: (k,) in [0, 1].

    To first order, moving or zooming a picture adds a multiple of its derivatives to it (Lucas & Kanade 1981). So this
    is the cosine between the mean-centred 16x16 grey thumbnail of one and the nearest sum of the other's and its
    derivatives along x, along y and away from the centre, the better of both ways round. Of 1,000 cats cropped by 2 %
    at each edge all are above 0.98, by the plain cosine 53 %. Colour doesn't count: copies lose it.

    Args:
        ones: uint8 (k, size, size, 3).
        others: likewise.
    """
    bases = [_moved(ones), _moved(others)]
    return np.maximum(_explained(bases[0], bases[1][:, 0]), _explained(bases[1], bases[0][:, 0]))


def _moved(pictures: Pixels) -> Floats:
    """Thumbnails and their derivatives along x, y and the radius, centred and of unit norm: (k, 4, 256).

    Derived at full size, then averaged: differences of the thumbnails themselves are too coarse (93 % of those crops).
    """
    size = pictures.shape[1]
    grey = pictures.astype(np.float32) @ GREY
    along_y, along_x = np.gradient(grey, axis=(1, 2))
    centred = np.arange(size, dtype=np.float32) - (size - 1) / 2
    fields = np.stack([grey, along_x, along_y, along_x * centred + along_y * centred[:, None]], axis=1)
    cells = fields.reshape(len(grey), 4, SIDE, size // SIDE, SIDE, size // SIDE)
    return _unit(cells.mean((3, 5)).reshape(len(grey), 4, SIDE**2))


def _explained(bases: Floats, thumbnails: Floats) -> Floats:
    """The multiple correlation of (k, 256) thumbnails with (k, 4, 256) bases, by least squares pair by pair: (k,)."""
    inner = (bases @ bases.transpose(0, 2, 1)).astype(np.float64) + 1e-6 * np.eye(4)  # some derivatives may vanish
    shares = (bases @ thumbnails[:, :, None]).astype(np.float64)
    explained: Floats = np.sqrt((shares * np.linalg.solve(inner, shares)).sum((1, 2)).clip(0, 1))
    return explained


def _unit(values: Floats) -> Floats:
    """Mean-centred and of unit norm along the last axis; zero where it is constant."""
    centred = values - values.mean(-1, keepdims=True)
    unit: Floats = centred / (np.linalg.norm(centred, axis=-1, keepdims=True) + 1e-6)
    return unit


def _look(take: Take, where: Positions, ranks: Mapping[str, int]) -> tuple[Pixels, list[tuple[int, int]]]:
    """The 16x16 grey thumbnails, uint8 (n, 16, 16), and the pairs of ranks that are exact mirrors."""
    thumbnails = np.empty((len(where), SIDE, SIDE), np.uint8)
    by_position = np.argsort(where)  # a disk is read from one end to the other
    # In threads, since numpy lets go of Python's lock. A chunk is 13 MB, and each thread has one.
    with ThreadPoolExecutor(hardware.usable_cpus()) as threads:
        chunks = _chunks(by_position)
        looked = threads.map(lambda chunk: _thumbnails(take(where[chunk])), chunks)
        for chunk, seen in zip(chunks, progress.track(looked, "looking for copies", len(chunks)), strict=True):
            thumbnails[chunk] = seen

    # Averaging is exact, so that a mirrored picture has the mirrored thumbnail: few have that of another.
    known = {hash(thumbnail.tobytes()) for thumbnail in thumbnails}
    turned = (hash(thumbnail.tobytes()) in known for thumbnail in thumbnails[:, :, ::-1])
    maybe = np.flatnonzero(np.fromiter(turned, bool, len(thumbnails)))
    mirrors = []
    for chunk in _chunks(maybe):
        for rank, picture in zip(chunk.tolist(), np.ascontiguousarray(take(where[chunk])[:, :, ::-1]), strict=True):
            other = ranks.get(hashlib.sha256(picture).hexdigest(), rank)
            if rank < other:
                mirrors.append((rank, other))
    return thumbnails, mirrors


def _chunks(some: Positions) -> list[Positions]:
    return [some[start : start + CHUNK] for start in range(0, len(some), CHUNK)]


def _thumbnails(pictures: Pixels) -> Pixels:
    """Grey of BT.601, averaged: uint8 (k, size, size, 3) to (k, 16, 16). Whole numbers, so exact up to size 256."""
    size = pictures.shape[1]
    averaging = np.kron(np.repeat(np.eye(SIDE, dtype=np.float32), size // SIDE, axis=0), GREY[:, None])
    rows = pictures.reshape(len(pictures), SIDE, size // SIDE, size * 3).astype(np.float32) @ averaging
    thumbnails: Pixels = np.rint(rows.sum(2) / (256 * (size // SIDE) ** 2)).astype(np.uint8)
    return thumbnails


class _Joined:
    """Disjoint sets of ranks (Galler & Fischer 1964), and the pairs that joined them, by position.

    `parents` and `where`, the position of each rank, are int64 (n,).
    """

    def __init__(self, parents: Positions, where: Positions) -> None:
        self.parents, self.where = parents, where
        self.pairs: list[Pair] = []

    def roots(self, some: Positions) -> Positions:
        """The ranks that stand for the sets of some."""
        while not np.array_equal(above := self.parents[some], some):
            some = above
        return some

    def join(self, one: int, other: int, kind: Kind, alike: float) -> bool:
        """Joins the sets of two, and says whether they were two."""
        first, second = sorted((int(self.where[one]), int(self.where[other])))
        self.pairs.append(Pair(first, second, kind, alike))
        low, high = sorted((self._root(one), self._root(other)))
        self.parents[high] = low
        return low != high

    def _root(self, one: int) -> int:
        while (parent := int(self.parents[one])) != one:
            self.parents[one] = self.parents[parent]  # halves the way for the next
            one = parent
        return one


@dataclass(frozen=True)
class _Sketches:
    """What pictures show in 32 numbers of unit norm.

    `values`, float32 (clear, 32), are those of the pictures with the `ranks`, int64 (clear,). Mirroring negates those
    that are `odd`, bool (32,).
    """

    ranks: Positions
    values: Floats
    odd: Flags


def _sketches(thumbnails: Pixels) -> _Sketches:
    """Whitened principal components of (n, 16, 16) thumbnails that are not FAINT.

    With a picture its mirrored copy is fitted, so that the components of the even and the odd halves are separate. 256
    pictures of white noise are fitted as well, as a prior: without it the difference of two copies would weigh as much
    as what they show, in a set of a few dozen.
    """
    chunks = [thumbnails[start : start + CHUNK] for start in range(0, len(thumbnails), CHUNK)]
    contrast = np.concatenate([np.zeros(0), *(chunk.std((1, 2)) for chunk in chunks)])
    ranks = np.flatnonzero(contrast >= FAINT)
    sample = _halves(thumbnails[ranks[:: max(1, len(ranks) // SAMPLE)]]).astype(np.float64)
    # In all the noise is the identity: 256 pictures of unit norm in 256 dimensions.
    variances, directions = np.linalg.eigh(sample.transpose(0, 2, 1) @ sample + np.eye(SIDE**2 // 2))
    half, column = np.divmod(np.argsort(-variances, axis=None)[:COMPONENTS], SIDE**2 // 2)
    basis = (directions[half, :, column] / np.sqrt(variances[half, column])[:, None]).astype(np.float32).T

    values = np.empty((len(ranks), COMPONENTS), np.float32)
    for start in range(0, len(ranks), CHUNK):
        even, uneven = _halves(thumbnails[ranks[start : start + CHUNK]]) @ basis
        sketch = np.where(half, uneven, even)
        values[start : start + CHUNK] = sketch / (np.linalg.norm(sketch, axis=1, keepdims=True) + 1e-6)
    return _Sketches(ranks, values, half.astype(bool))


def _halves(thumbnails: Pixels) -> Floats:
    """The even and the odd half of (k, 16, 16) thumbnails of unit norm: (2, k, 128); mirroring negates the second."""
    unit = _unit(thumbnails.reshape(len(thumbnails), SIDE**2).astype(np.float32)).reshape(thumbnails.shape)
    left, right = unit[:, :, : SIDE // 2], unit[:, :, : SIDE // 2 - 1 : -1]
    return np.stack([left + right, left - right]).reshape(2, len(unit), SIDE**2 // 2) / np.float32(math.sqrt(2))


def _join_near(joined: _Joined, sketches: _Sketches, take: Take, threshold: float) -> int:
    """Joins near copies, plain and mirrored; how many sets that makes fewer."""
    bits, bands = _shape(len(sketches.ranks))
    count, near = len(joined.where), 0
    in_vain = np.zeros(count, np.int64)
    refused = np.array([count**2])  # pairs, as one number each, ascending; the last is none
    for band in progress.track(range(bands), "looking for copies", bands):
        newly = [refused]
        for ones, others in _mates(sketches, bits, band):
            alike, turned = _alike(sketches, ones, others)
            ones, others, turned = sketches.ranks[ones[alike]], sketches.ranks[others[alike]], turned[alike]
            pairs = ones * count + others
            asked = (joined.roots(ones) != joined.roots(others)) & (refused[np.searchsorted(refused, pairs)] != pairs)
            asked &= np.minimum(in_vain[ones], in_vain[others]) < PATIENCE
            ones, others, turned, pairs = ones[asked], others[asked], turned[asked], pairs[asked]
            measured = _measure(take, joined.where[ones], joined.where[others], turned)
            for pair in np.flatnonzero(measured >= threshold).tolist():
                kind: Kind = "near-mirrored" if turned[pair] else "near"
                near += joined.join(int(ones[pair]), int(others[pair]), kind, float(measured[pair]))
            vain = measured < threshold
            np.add.at(in_vain, np.concatenate([ones[vain], others[vain]]), 1)
            newly.append(pairs[vain])
        refused = np.unique(np.concatenate(newly))
    return near


def _shape(count: int) -> tuple[int, int]:
    """Bits of a bucket and number of bands for so many pictures; see the top."""
    bits = min(48, max(1, round(1.4 * math.log2(max(count, 2)) - 5)))
    together = (1 - math.acos(HARDEST) / math.pi) ** (bits + 1)
    return bits, math.ceil(math.log(0.01) / math.log(1 - together))


def _mates(sketches: _Sketches, bits: int, band: int) -> Iterator[tuple[Positions, Positions]]:
    """Pairs in one bucket, lower first: the next in order, the next but one, ... up to WINDOW.

    Codes have 64 bits. The first are the bucket; the others put those together in a large one that are alike, and let
    two thirds of the pairs go before any sketch is fetched.
    """
    source = np.random.default_rng(rng.number(0, f"projections of band {band}"))
    planes = source.standard_normal((COMPONENTS, 65), np.float32)
    codes = np.empty(len(sketches.ranks), np.uint64)
    for start in range(0, len(codes), 64 * CHUNK):
        some = sketches.values[start : start + 64 * CHUNK]
        even, uneven = (some * ~sketches.odd) @ planes, (some * sketches.odd) @ planes
        signs = even + np.sign(uneven[:, 64:]) * uneven > 0
        codes[start : start + 64 * CHUNK] = np.packbits(signs[:, :64], axis=1).view(">u8")[:, 0]
    order = np.argsort(codes)
    codes = codes[order]
    for step in range(1, WINDOW + 1):
        differ = codes[step:] ^ codes[:-step]
        mates = np.flatnonzero((differ >> np.uint64(64 - bits) == 0) & (np.bitwise_count(differ) <= MISSES))
        for start in range(0, len(mates), 64 * CHUNK):
            one, other = order[mates[start : start + 64 * CHUNK]], order[mates[start : start + 64 * CHUNK] + step]
            yield np.minimum(one, other), np.maximum(one, other)


def _alike(sketches: _Sketches, ones: Positions, others: Positions) -> tuple[Flags, Flags]:
    """Which pairs have sketches that are ALIKE, plain or mirrored, and which are more so mirrored."""
    products = sketches.values[ones] * sketches.values[others]
    even, uneven = products @ ~sketches.odd, products @ sketches.odd
    return even + abs(uneven) >= ALIKE, uneven < 0


def _measure(take: Take, ones: Positions, others: Positions, turned: Flags) -> Floats:
    """The `similarity` of pairs, by position, the second of each mirrored where it is `turned`."""
    measured = np.empty(len(ones))
    for start in range(0, len(ones), CHUNK):
        some = slice(start, start + CHUNK)
        second = take(others[some])
        second = np.where(turned[some, None, None, None], second[:, :, ::-1], second)
        measured[some] = similarity(take(ones[some]), second)
    return measured
