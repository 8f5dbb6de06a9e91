import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from catae.errors import UserError
from catae.report import animation

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)
SMOOTH = np.linspace(0, 255, 11)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3).astype(np.uint8)


def shown(path: Path) -> list[tuple[np.ndarray, int]]:
    """Return the frames of a GIF or a WebP and their durations in ms."""
    frames = []
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.info["loop"] == 0
        for frame in ImageSequence.Iterator(image):
            frame.load()
            frames.append((np.asarray(frame.convert("RGB")), int(frame.info["duration"])))
    return frames


def filmed(path: Path) -> np.ndarray:
    """Return the decoded frames of an MP4."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="ffmpeg is missing: pip install -e .[video]")
    decoded = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    return np.frombuffer(decoded.stdout, np.uint8).reshape(-1, 32, 32, 3)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_loops_forward_and_backward_and_rests_at_the_ends(kind: str, tmp_path: Path) -> None:
    animation.write_animation(PIXELS, tmp_path / f"animation.{kind}", scale=2)
    frames = shown(tmp_path / f"animation.{kind}")
    assert [duration for _, duration in frames] == [1000] + [360] * 9 + [1000] + [360] * 9
    assert np.array_equal(frames[1][0], frames[-1][0])
    assert frames[0][0].shape == (32, 32, 3)


def test_a_webp_is_lossless(tmp_path: Path) -> None:
    animation.write_animation(PIXELS, tmp_path / "animation.webp", scale=2)
    for (frame, _), pixels in zip(shown(tmp_path / "animation.webp")[:11], PIXELS, strict=True):
        assert np.array_equal(frame, pixels.repeat(2, 0).repeat(2, 1))


def test_a_gif_has_a_palette_for_each_frame(tmp_path: Path) -> None:
    animation.write_animation(PIXELS, tmp_path / "animation.gif", scale=2)
    for (frame, _), pixels in zip(shown(tmp_path / "animation.gif")[:11], PIXELS, strict=True):
        assert np.array_equal(frame, pixels.repeat(2, 0).repeat(2, 1))  # 256 pixels have at most 256 colours


def test_an_mp4_has_the_same_frames_and_durations(tmp_path: Path) -> None:
    animation.write_animation(SMOOTH, tmp_path / "animation.mp4", scale=2)
    frames = filmed(tmp_path / "animation.mp4")
    expected = np.repeat([*range(11), *range(9, 0, -1)], np.array(animation.durations(11)) // 40)
    assert len(frames) == len(expected) == 2 * 25 + 18 * 9
    assert np.abs(frames.astype(int) - SMOOTH[expected][:, :1, :1]).mean() < 4
    animation.write_animation(SMOOTH, tmp_path / "again.mp4", scale=2)
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "animation.mp4").read_bytes()


@pytest.mark.parametrize(("frames", "frame_ms"), [(2, 400), (10, 400), (20, 200), (50, 80), (90, 40), (1000, 40)])
def test_one_pass_takes_4_seconds_within_the_limits_of_a_frame(frames: int, frame_ms: int) -> None:
    times = animation.durations(frames)
    assert len(times) == 2 * frames - 2
    assert (times[0], times[frames - 1]) == (1000, 1000)
    assert set(times) - {1000} == ({frame_ms} if frames > 2 else set())


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("gif", "webp"):
        for name in ("one", "two"):
            animation.write_animation(PIXELS, tmp_path / f"{name}.{kind}")
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_without_ffmpeg_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install 'catae\[video\]', or write a \.gif or \.webp"):
        animation.write_animation(PIXELS, tmp_path / "animation.mp4")
    assert not (tmp_path / "animation.mp4").exists()


def test_an_error_of_ffmpeg_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="ffmpeg is missing: pip install -e .[video]")
    with pytest.raises(UserError, match=r"ffmpeg cannot write the MP4: .+; write a \.gif or \.webp"):
        animation.write_animation(PIXELS[:, :15], tmp_path / "animation.mp4", scale=1)  # yuv420p needs even sides
