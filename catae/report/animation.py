"""Write animations as GIF, WebP or MP4, from the first image to the last and back in a loop, with rests at the ends."""

import subprocess
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from catae.data.decode import Pixels
from catae.errors import UserError
from catae.system import files

SCALE = 3  # factor by which each pixel is enlarged
PASS_MS, REST_MS = 4000, 1000  # from end to end; at each end
TICK_MS = 40  # durations are multiples of it, so that every format keeps them: MP4 has 25 frames per second
SHORTEST_MS, LONGEST_MS = 40, 400  # of a frame: browsers replace shorter ones; longer ones do not look like movement
COLOURS = 256
CRF = 14  # quality of H.264; lower is better


def write_animation(pixels: Pixels, path: Path, scale: int = SCALE) -> None:
    """Write images as an animation; the suffix of the path decides the format.

    One pass takes 4 s, unless a frame would be shorter than 0.04 s or longer than 0.4 s.

    Args:
        pixels: uint8 (frames, height, width, 3), at least 2.
        path: the `.gif`, `.webp` or `.mp4` to write.
        scale: factor by which each pixel is enlarged.

    Raises:
        UserError: `path` cannot be written, or is an MP4 and ffmpeg is missing.
    """
    files.write_bytes(path, WRITERS[path.suffix.lower()](pixels, scale))


def durations(frames: int) -> list[int]:
    """Return how long each frame is shown, in ms, of a loop whose forward pass has so many frames."""
    frame_ms = max(SHORTEST_MS, min(LONGEST_MS, TICK_MS * round(PASS_MS / frames / TICK_MS)))
    between = [frame_ms] * (frames - 2)
    return [REST_MS, *between, REST_MS, *between]


def _gif(pixels: Pixels, scale: int) -> bytes:
    """Return a GIF with a palette for each frame.

    In three interpolations of 50 steps between cats of 64x64, the mean colour error of a pixel is 0.73 of 255, in
    1.76 MB. Without k-means after the median cut it is 0.80, in 1.77 MB; with one palette for all frames 1.84, in
    1.51 MB; with dithering 1.52, in 1.58 MB, and the dither pattern flickers.
    """
    return _encode([Image.fromarray(frame).quantize(COLOURS, kmeans=4) for frame in pixels], scale, "GIF")


def _webp(pixels: Pixels, scale: int) -> bytes:
    """Return a lossless WebP: the same interpolations have 0.84 MB."""
    return _encode([Image.fromarray(frame) for frame in pixels], scale, "WEBP", lossless=True)


def _encode(frames: list[Image.Image], scale: int, kind: str, **options: bool) -> bytes:
    """Return frames, forward and backward, in a format of Pillow's."""
    size = (frames[0].width * scale, frames[0].height * scale)
    forward = [frame.resize(size, Image.Resampling.NEAREST) for frame in frames]
    data = BytesIO()  # not the file: Pillow does not notice a partial write
    forward[0].save(
        data,
        kind,
        save_all=True,
        append_images=forward[1:] + forward[-2:0:-1],
        duration=durations(len(forward)),
        loop=0,
        optimize=False,
        **options,
    )
    return data.getvalue()


def _mp4(pixels: Pixels, scale: int) -> bytes:
    """Return an MP4: H.264 in yuv420p, which every player supports. The same interpolations have 0.15 MB, error 1.5."""
    height, width = pixels.shape[1:3]
    ticks = np.array(durations(len(pixels))) // TICK_MS
    frames = np.concatenate([pixels, pixels[-2:0:-1]]).repeat(ticks, 0)
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {1000 // TICK_MS} -i -"
    enlarged = f"-vf scale=iw*{scale}:ih*{scale}:flags=neighbor -pix_fmt yuv420p"
    # One thread and no version in the metadata, so that the same images are the same bytes.
    output = f"-c:v libx264 -crf {CRF} -threads 1 -movflags +faststart -fflags +bitexact -flags:v +bitexact"
    with tempfile.TemporaryDirectory() as folder:  # not a pipe: ffmpeg writes the index last, at the front of the file
        video = Path(folder) / "animation.mp4"
        command = [_ffmpeg(), "-v", "error", *f"{source} {enlarged} {output}".split(), str(video)]
        result = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
        if result.returncode:
            message = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"ffmpeg cannot write the MP4: {' '.join(message)}; write a .gif or .webp")
        return video.read_bytes()


def _ffmpeg() -> str:
    """Return the path of ffmpeg."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError("an MP4 needs ffmpeg: pip install 'catae[video]', or write a .gif or .webp") from error


WRITERS: dict[str, Callable[[Pixels, int], bytes]] = {".gif": _gif, ".webp": _webp, ".mp4": _mp4}
