"""Write self-contained HTML pages: templates, and images embedded in the page."""

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
from catae.system.text import count, duration, printable, timestamp

MAX_WEBP_SIDE = 16_383  # pixels, in both directions
QUALITY = 80  # WebP quality of images that show content, not how well the model does


@dataclass(frozen=True)
class EmbeddedImage:
    """An image inside a page: a `data:` address that holds it, and the size in pixels to show it at."""

    address: str
    width: int
    height: int


def write_page(path: Path, template: str, package: str = "catae.report", **facts: Any) -> None:
    """Fill a template of `package` with `facts` and write it to `path`. The page makes no network requests."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),  # file names can hold any characters
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, digest=csp_digest, duration=duration, printable=printable, timestamp=timestamp
    )
    files.write_bytes(path, environment.get_template(template).render(**facts).encode())


def embed_file(path: Path, scale: int = 1, quality: int | None = None, max_width: int | None = None) -> EmbeddedImage:
    """Embed an image file as WebP: the same pixels and frame durations in less than half the bytes.

    The grids and the animation of a run are 5 MB as PNG and GIF, and base64 adds a third.

    Args:
        path: a PNG or GIF.
        scale: how many times each pixel is enlarged in the file. The embedded image is not enlarged; the browser does.
        quality: WebP quality in per cent of a lossy image, which is much smaller; None for lossless.
        max_width: pixels; a wider image is downscaled.
    """
    with Image.open(path) as image:
        width, height = image.size
        size, resampling = (width // scale, height // scale), Image.Resampling.NEAREST
        if max_width and size[0] > max_width:
            size, resampling = (max_width, round(size[1] * max_width / size[0])), Image.Resampling.LANCZOS
        frames = [
            (frame.convert("RGB").resize(size, resampling), frame.info.get("duration", 0))
            for frame in ImageSequence.Iterator(image)
        ]
    address = _data_address([frame for frame, _ in frames], [milliseconds for _, milliseconds in frames], quality)
    return EmbeddedImage(address, width, height)


def embed_pixels(pixels: Pixels) -> EmbeddedImage:
    """Embed an image of uint8 (height, width, 3), lossless."""
    image = Image.fromarray(pixels)
    return EmbeddedImage(_data_address([image], [0]), image.width, image.height)


def _data_address(frames: Sequence[Image.Image], durations: Sequence[int], quality: int | None = None) -> str:
    buffer = io.BytesIO()
    if max(frames[0].size) > MAX_WEBP_SIDE:  # an interpolation of 1,000 steps has 126 rows
        frames[0].save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    frames[0].save(
        buffer,
        "WEBP",
        lossless=quality is None,
        quality=quality or 80,  # for lossless images: the effort
        save_all=True,
        append_images=frames[1:],
        duration=list(durations),
        method=4,  # 20% smaller than method 0, Pillow's default for animations
        minimize_size=True,
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def csp_digest(script: str) -> str:
    """Return the SHA-256 of a script in base64, by which a policy allows it (https://www.w3.org/TR/CSP3/#csp-hash)."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def first(items: Sequence[Any] | Mapping[str, Any], limit: int) -> tuple[list[Any], int]:
    """Return the first items (of a mapping: pairs), and the number of the others."""
    everything = list(items.items()) if isinstance(items, Mapping) else list(items)
    return everything[:limit], max(0, len(everything) - limit)
