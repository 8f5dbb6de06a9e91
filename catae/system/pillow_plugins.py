"""Let Pillow open HEIC and JPEG XL, if the plugins of the extra `catae[formats]` are installed."""

from importlib.metadata import version
from typing import IO

from PIL import Image, ImageFile

from catae.errors import DecodeError

CODESTREAM = b"\xff\x0a"  # the first bytes of a JPEG XL codestream
SIZE_BYTES = 14  # of a codestream, that surely include the size of the image
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height


def register(max_pixels: int) -> str:
    """Register the installed plugins in this process, and return their names and versions.

    Args:
        max_pixels: of a JPEG XL image. Its plugin decodes an image when it opens it, before a caller can look at its
            size.
    """
    found = []
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("pillow-heif")
    except ImportError:
        pass  # then HEIC is an unsupported format
    try:
        from pillow_jxl import JpegXLImagePlugin

        def open_small(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
            width, height = jxl_size(file.read())
            if width * height > max_pixels:
                raise DecodeError(f"{width}x{height} pixels exceed the limit of {max_pixels:,}")
            file.seek(0)
            opened: ImageFile.ImageFile = JpegXLImagePlugin.JXLImageFile(file, name)
            return opened

        Image.register_open(JpegXLImagePlugin.JXLImageFile.format, open_small, JpegXLImagePlugin._accept)
        found.append("pillow-jxl-plugin")
    except ImportError:
        pass
    return " ".join(f"{name} {version(name)}" for name in found)


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return the width and height that the header of a JPEG XL file declares (ISO/IEC 18181-1, SizeHeader).

    Raises:
        SyntaxError: the file is damaged. For Pillow, it is then not a JPEG XL.
    """
    codestream = data if data.startswith(CODESTREAM) else _codestream(data)
    if not codestream.startswith(CODESTREAM):
        raise SyntaxError("no JPEG XL codestream")
    bits = int.from_bytes(codestream[2:SIZE_BYTES], "little")

    def take(number: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << number) - 1), bits >> number
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    width = height * RATIOS[ratio][0] // RATIOS[ratio][1] if ratio else side()
    return width, height


def _codestream(data: bytes) -> bytes:
    """Return the first bytes of the codestream in a file of boxes, each with its length and type (ISO/IEC 14496-12)."""
    found, offset = b"", 0
    while offset + 8 <= len(data) and len(found) < SIZE_BYTES:
        length, kind, start = (
            int.from_bytes(data[offset : offset + 4], "big"),
            data[offset + 4 : offset + 8],
            offset + 8,
        )
        if length == 1:  # the length follows, in 8 bytes
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = offset + length if length else len(data)
        if end < start:
            break
        if kind in (b"jxlc", b"jxlp"):  # a part begins with its number, in 4 bytes
            found += data[start + 4 * (kind == b"jxlp") : min(end, start + 4 + SIZE_BYTES)]
        offset = end
    return found
