"""What the pages for people are made of: templates, pictures inside the page, and numbers, times and names in words."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image, ImageSequence

from catae.data.decode import Pixels
from catae.system import files
from catae.system.text import count, duration, percent, printable, timestamp

NAMES = 20  # of files in a table
FEW = 5  # names in a line
KINDS = 8  # of sizes and of modes
WEBP_LIMIT = 16383  # pixels, in both directions
QUALITY = 80  # of a picture that shows what is there, not how well
GROUPS, COPIES = 12, 8  # of copies, and in each: what `duplicates.png` has room for


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: its address, which holds it, and the size in pixels to show it at."""

    address: str
    width: int
    height: int


def write(path: Path, template: str, package: str = "catae.report", **facts: Any) -> None:
    """Writes a template of `package`, filled with `facts`, to `path`: a page that asks nothing of the network."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),  # the names of files can hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, digest=digest, duration=duration, first=first, leak=leak, printable=printable, timestamp=timestamp
    )
    limits = {"names": NAMES, "few": FEW, "kinds": KINDS, "groups": GROUPS, "copies": COPIES}
    page = environment.get_template(template).render(limits=limits, **facts)
    files.write_bytes(path, page.encode())


def embed(path: Path, enlarged: int = 1, lossy: int | None = None, widest: int | None = None) -> Picture:
    """The picture in the file `path`, as lossless WebP: the same pixels at the same pace, in less than half the bytes.

    The grids and the animation of a run have 5 MB as PNG and GIF, and a third on top in base64.

    Args:
        path: a PNG or GIF.
        enlarged: how many times as large as it need be each pixel is drawn in it: the browser can do that itself.
        lossy: the quality, in per cent, of a picture whose pixels need not be the same; it has far fewer bytes.
        widest: how many pixels wide it may be; a wider one is made smaller.
    """
    with Image.open(path) as picture:
        width, height = picture.size
        small, filter = (width // enlarged, height // enlarged), Image.Resampling.NEAREST
        if widest and small[0] > widest:
            small, filter = (widest, round(small[1] * widest / small[0])), Image.Resampling.LANCZOS
        timed = [
            (frame.convert("RGB").resize(small, filter), frame.info.get("duration", 0))
            for frame in ImageSequence.Iterator(picture)
        ]
    address = _address([frame for frame, _ in timed], [pace for _, pace in timed], lossy)
    return Picture(address, width, height)


def embed_pixels(pixels: Pixels) -> Picture:
    """The picture of uint8 (height, width, 3), pixel for pixel."""
    picture = Image.fromarray(pixels)
    return Picture(_address([picture], [0]), picture.width, picture.height)


def _address(frames: Sequence[Image.Image], paces: Sequence[int], lossy: int | None = None) -> str:
    buffer = io.BytesIO()
    if max(frames[0].size) > WEBP_LIMIT:  # a walk of 1,000 steps has 126 rows
        frames[0].save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    frames[0].save(
        buffer,
        "WEBP",
        lossless=lossy is None,
        quality=lossy or 80,  # without loss it is the effort
        save_all=True,
        append_images=frames[1:],
        duration=list(paces),
        method=4,  # a fifth fewer bytes than the 0 that Pillow takes for animations
        minimize_size=True,
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def digest(script: str) -> str:
    """What a policy allows a script by: SHA-256 of its bytes, in base64 (https://www.w3.org/TR/CSP3/#csp-hash)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def first(items: Sequence[Any] | Mapping[str, Any], limit: int) -> tuple[list[Any], int]:
    """The first items (of a mapping, its pairs), and how many more there are."""
    everything = list(items.items()) if isinstance(items, Mapping) else list(items)
    return everything[:limit], max(0, len(everything) - limit)


def leak(part: float) -> str:
    """What a plain random split would have done to the test pictures, of which `part` would have a copy in train."""
    return f"A plain random split would have left {percent(part)} of the test pictures with a copy in train"
