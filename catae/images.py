"""From files to pixels: an ImageSet on disk, and a report of what was read and what was not."""

import contextlib
import hashlib
import io
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from catae import files, progress, sources
from catae.errors import UserError

Pixels = npt.NDArray[np.uint8]


class Unreadable(Exception):
    """Why a file gives no picture, in a few words."""


@dataclass(frozen=True)
class ImageSet:
    """Decoded pictures of one size, in a folder: `pixels.u8` and `index.json`.

    The pixels are mapped, not loaded: a set may be larger than the memory.
    """

    path: Path
    size: int
    names: tuple[str, ...]
    digests: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> "ImageSet":
        """The set in the folder `path`.

        Raises:
            UserError: there is none, or it is not whole.
        """
        index = files.read_json(path / "index.json")
        images = cls(path, index["size"], tuple(index["names"]), tuple(index["digests"]))
        expected = len(images) * images.size**2 * 3
        stored = (path / "pixels.u8").stat().st_size if (path / "pixels.u8").exists() else 0
        if stored != expected:
            raise UserError(
                f"{path}/pixels.u8 has {stored:,} bytes in place of {expected:,}; delete {path} and run again"
            )
        return images

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def pixels(self) -> Pixels:
        """uint8, (pictures, size, size, 3), RGB, mapped from the disk and read-only."""
        return np.memmap(self.path / "pixels.u8", np.uint8, "r", shape=(len(self), self.size, self.size, 3))

    @property
    def digest(self) -> str:
        """What the set holds, in one word: SHA-256 of the pictures' digests, in order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()


@dataclass(frozen=True)
class DataReport:
    """What was read from a source, and what was not."""

    source: str
    image_size: int
    files: int = 0
    pictures: int = 0
    distinct: int = 0
    duplicates: int = 0
    duplicate_groups: list[list[str]] = field(default_factory=list)
    original_sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """As it stands in `data.json`."""
        return asdict(self)

    def to_text(self) -> str:
        """For a terminal: counts, then every file that gave no picture, and the largest groups of copies."""
        rows = [
            ("source", self.source),
            ("files", f"{self.files:,}"),
            ("pictures", f"{self.pictures:,}"),
            ("distinct", f"{self.distinct:,}, so {self.duplicates:,} are copies of another"),
            ("sizes", _most(self.original_sizes)),
            ("modes", _most(self.modes)),
            ("no pictures", f"{len(self.passed_over):,} files of other kinds, passed over"),
            ("rejected", f"{len(self.rejects):,} files that can't be decoded"),
        ]
        lines = [f"{name:<12} {value}" for name, value in rows]
        lines += [f"  {reject['name']}: {reject['reason']}" for reject in self.rejects]
        if self.duplicate_groups:
            lines.append("largest groups of copies")
            lines += [f"  {len(group)} x {', '.join(group[:4])}" for group in self.duplicate_groups[:5]]
        return "\n".join(lines)


def _most(counts: Mapping[str, int]) -> str:
    """The commonest few, with how often each was seen."""
    shown = ", ".join(f"{what} ({count:,})" for what, count in list(counts.items())[:4])
    return shown + (f" and {len(counts) - 4:,} others" if len(counts) > 4 else "")


def decode(data: bytes, size: int) -> tuple[Pixels, str, str]:
    """The picture in the bytes of a file, its mode and its original size.

    EXIF orientation is honoured; palette, grey, CMYK, 16-bit and transparent pictures become RGB, transparency
    over white; another size is centre-cropped to a square and resized with antialiasing. Of an animation it is
    the first frame.

    Args:
        data: the bytes of the file.
        size: height and width to give, in pixels.

    Returns:
        uint8 pixels of (size, size, 3), RGB; the mode; the size, like '640x480'.

    Raises:
        Unreadable: says why.
    """
    if not data:
        raise Unreadable("the file is empty")
    try:
        # Pillow only warns of a bomb below twice its limit: 89 million pixels are no small picture.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                mode, original = picture.mode, f"{picture.width}x{picture.height}"
                rgb = _to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise Unreadable("it is no picture of a known format") from error
    except Unreadable:
        raise
    except Exception as error:  # on broken bytes decoders raise whatever they run into
        raise Unreadable(f"it can't be decoded: {str(error) or type(error).__name__}") from error
    return np.asarray(ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)), mode, original


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: deep grey keeps its upper 8 bits, transparency shows white."""
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255, so that nearly every 16-bit picture would be white.
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise Unreadable("its pixels are floating-point numbers of no known range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def read(source: str, store: Path, size: int = 64) -> tuple[ImageSet, DataReport]:
    """Decodes the pictures of `source` into a set in a folder below `store`, named by what it holds.

    Reading the same pictures again gives the same folder. A file that can't be decoded is left out, and stands
    in the report with its name and the reason.

    Args:
        source: as `catae.sources.entries` takes it.
        store: the folder for sets.
        size: height and width of the pictures, in pixels.

    Raises:
        UserError: there is no such source, or no picture in it.
    """
    rejects: list[dict[str, str]] = []
    passed_over: list[str] = []
    modes: Counter[str] = Counter()
    original_sizes: Counter[str] = Counter()
    names: dict[str, str] = {}  # and the digest of each

    with _new_folder(store) as folder:
        with (folder / "pixels.u8").open("wb") as pixels:
            for entry in progress.track(sources.entries(source, size), "reading pictures"):
                if not sources.is_picture_name(entry.name) and not entry.name.endswith("/"):
                    passed_over.append(entry.name)
                    continue
                try:
                    picture, mode, original = decode(_bytes_of(entry), size)
                except Unreadable as error:
                    rejects.append({"name": entry.name, "reason": str(error)})
                    continue
                pixels.write(picture.tobytes())
                names[_unused(entry.name, names)] = hashlib.sha256(picture.tobytes()).hexdigest()
                modes[mode] += 1
                original_sizes[original] += 1
        if not names:
            raise UserError(_nothing_in(source, rejects, passed_over))
        files.write_json(folder / "index.json", {"size": size, "names": list(names), "digests": list(names.values())})
        images = _put(folder, store)

    groups = duplicate_groups(images)
    report = DataReport(
        source=source,
        image_size=size,
        files=len(names) + len(rejects) + len(passed_over),
        pictures=len(names),
        distinct=len(set(images.digests)),
        duplicates=len(images) - len(set(images.digests)),
        duplicate_groups=groups,
        original_sizes=dict(original_sizes.most_common()),
        modes=dict(modes.most_common()),
        rejects=rejects,
        passed_over=passed_over,
    )
    return images, report


def duplicate_groups(images: ImageSet) -> list[list[str]]:
    """The names of pictures with identical pixels, group by group, the largest groups first."""
    groups: dict[str, list[str]] = {}
    for name, digest in zip(images.names, images.digests, strict=True):
        groups.setdefault(digest, []).append(name)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group))


def _bytes_of(entry: sources.Entry) -> bytes:
    """The entry's bytes; an error in getting them is the file's, not the job's."""
    try:
        return entry.read()
    except OSError as error:
        raise Unreadable(f"it can't be read: {error.strerror or error}") from error
    except Exception as error:  # encrypted, unsupported and torn members of archives
        raise Unreadable(f"it can't be read: {error}") from error


def _unused(name: str, names: dict[str, str]) -> str:
    """`name`, with a number where an archive holds it twice."""
    count = 1
    unused = name
    while unused in names:
        count += 1
        unused = f"{name}#{count}"
    return unused


def _nothing_in(source: str, rejects: list[dict[str, str]], passed_over: list[str]) -> str:
    if rejects:
        first = f"{rejects[0]['name']}, the first: {rejects[0]['reason']}"
        return f"{source}: none of its {len(rejects)} pictures can be read; {first}"
    what = (
        f"none of its {len(passed_over)} files is a picture, {passed_over[0]} for one" if passed_over else "it is empty"
    )
    return f"{source}: {what}; correct --source (CATAE_SOURCE)"


@contextlib.contextmanager
def _new_folder(store: Path) -> Iterator[Path]:
    """A folder to write a set to, gone at the end unless it was put in its place."""
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".reading-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _put(folder: Path, store: Path) -> ImageSet:
    """Moves the set in `folder` to its place in `store`, which its content names; one that is there stays."""
    index = json.loads((folder / "index.json").read_bytes())
    name = hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]
    place = store / name
    if not place.exists():
        with contextlib.suppress(FileExistsError):
            folder.replace(place)
    return ImageSet.open(place)
