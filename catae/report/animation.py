"""Pictures that move: as GIF, WebP or MP4, from the first to the last and back, for ever, resting at both ends."""

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

SCALE = 3  # each pixel is drawn so many times as large
WAY_MS, REST_MS = 4000, 1000  # from end to end; and at each end
TICK_MS = 40  # all times are multiples of it, so that all formats keep them: MP4 has 25 frames in a second
SHORTEST_MS, LONGEST_MS = 40, 400  # of a frame: below, browsers take their own pace; above, it is no movement
COLOURS = 256
CRF = 14  # of H.264: the lower the better


def write(pixels: Pixels, path: Path, scale: int = SCALE) -> None:
    """Writes pictures as an animation, of the kind that the path ends in.

    From end to end it takes 4 s, where that leaves each picture between 0.04 s and 0.4 s.

    Args:
        pixels: uint8 (frames, height, width, 3), at least 2.
        path: the `.gif`, `.webp` or `.mp4` to write.
        scale: how many times as large each pixel is drawn.

    Raises:
        UserError: `path` can't be written, or is to be an MP4 where there is no ffmpeg.
    """
    files.write_bytes(path, WRITERS[path.suffix.lower()](pixels, scale))


def durations(frames: int) -> list[int]:
    """How long each picture of a way there and back is shown, in ms, if there are so many on the way there."""
    pace = max(SHORTEST_MS, min(LONGEST_MS, TICK_MS * round(WAY_MS / frames / TICK_MS)))
    way = [pace] * (frames - 2)
    return [REST_MS, *way, REST_MS, *way]


def _gif(pixels: Pixels, scale: int) -> bytes:
    """As GIF, with a palette for each frame.

    In three walks of 50 steps between cats of 64x64, the mean error of a pixel's colour is 0.73 of 255, in 1.76 MB;
    without k-means after the median cut it is 0.80, in 1.77 MB; with one palette for all frames it is 1.84, in
    1.51 MB, and with dithering 1.52, in 1.58 MB, and the dots swim.
    """
    return _moving([Image.fromarray(frame).quantize(COLOURS, kmeans=4) for frame in pixels], scale, "GIF")


def _webp(pixels: Pixels, scale: int) -> bytes:
    """As WebP, without loss: the same walks have 0.84 MB."""
    return _moving([Image.fromarray(frame) for frame in pixels], scale, "WEBP", lossless=True)


def _moving(frames: list[Image.Image], scale: int, kind: str, **options: bool) -> bytes:
    """What Pillow makes of frames and their way back."""
    size = (frames[0].width * scale, frames[0].height * scale)
    there = [frame.resize(size, Image.Resampling.NEAREST) for frame in frames]
    data = BytesIO()  # and not the file: Pillow takes no notice of a write that the system cuts short
    there[0].save(
        data,
        kind,
        save_all=True,
        append_images=there[1:] + there[-2:0:-1],
        duration=durations(len(there)),
        loop=0,
        optimize=False,
        **options,
    )
    return data.getvalue()


def _mp4(pixels: Pixels, scale: int) -> bytes:
    """As MP4: H.264 in yuv420p, which every player has; the same walks have 0.15 MB, and an error of 1.5 of 255."""
    height, width = pixels.shape[1:3]
    ticks = np.array(durations(len(pixels))) // TICK_MS
    held = np.concatenate([pixels, pixels[-2:0:-1]]).repeat(ticks, 0)
    taken = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {1000 // TICK_MS} -i -"
    enlarged = f"-vf scale=iw*{scale}:ih*{scale}:flags=neighbor -pix_fmt yuv420p"
    # One thread, and no name of a library in the file: the same pictures are the same bytes.
    written = f"-c:v libx264 -crf {CRF} -threads 1 -movflags +faststart -fflags +bitexact -flags:v +bitexact"
    with tempfile.TemporaryDirectory() as folder:  # and not a pipe: the index, in front, is written at the end
        video = Path(folder) / "walk.mp4"
        command = [_ffmpeg(), "-v", "error", *f"{taken} {enlarged} {written}".split(), str(video)]
        made = subprocess.run(command, input=held.tobytes(), capture_output=True, check=False)
        if made.returncode:
            said = made.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"ffmpeg can't make the MP4: {' '.join(said)}; write a .gif or .webp")
        return video.read_bytes()


def _ffmpeg() -> str:
    """Where ffmpeg is."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "an MP4 needs ffmpeg, which the extra [video] brings: pip install 'catae[video]'; or write a .gif or .webp"
        ) from error


WRITERS: dict[str, Callable[[Pixels, int], bytes]] = {".gif": _gif, ".webp": _webp, ".mp4": _mp4}
