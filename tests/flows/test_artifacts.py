"""What is published of a run; test_ui.py checks that the UI shows it."""

import base64
import io
import re
from pathlib import Path

import jobs
import pytest
from PIL import Image, ImageSequence

from catae.report import html
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from flows import artifacts


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with images of the default size and number."""
    resolved = Settings(source="drawn:400", width=8, max_epochs=2, output_dir=tmp_path_factory.mktemp("artifacts"))
    return jobs.run_all_stages(resolved)


def images_in(markdown: str) -> list[Image.Image]:
    """Open the embedded images."""
    found = re.findall(r"!\[[a-z-]+\]\(data:image/webp;base64,([^)]+)\)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_default_report_has_all_images_in_less_than_half_a_megabyte(done: Run) -> None:
    markdown = artifacts.report_markdown(done)
    assert len(markdown.encode()) < 500_000
    shown = images_in(markdown)
    assert [getattr(image, "n_frames", 1) > 1 for image in shown] == [False, False, False, True, False, False]
    durations = []
    for frame in ImageSequence.Iterator(shown[3]):
        frame.load()  # Pillow reads the duration with the pixels
        durations.append(frame.info["duration"])
    assert sum(durations) == 2 * 1000 + 96 * 80  # all frames, forward and backward
    assert min(image.width for image in shown) == 192  # the animation, enlarged by 3


def test_the_report_has_scores_baselines_and_file_sizes(done: Run) -> None:
    markdown, scores = artifacts.report_markdown(done), done.read()["scores"]
    for name in ("model", "pca", "mean_picture"):
        assert f"{scores[name]['l1']:.4f}" in markdown
    assert f"On {scores['pictures']} test images" in markdown
    assert f"`{done.path.resolve()}`" in markdown
    for path in done.path.iterdir():
        slash = "/" if path.is_dir() else ""
        assert f"| `{path.name}{slash}` | " in markdown, path
    assert f"| {done.model.stat().st_size / 1e6:.2f} |" in markdown


def test_images_that_do_not_fit_get_a_lower_quality_or_are_named(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_report = artifacts.report_markdown(done)
    monkeypatch.setattr(artifacts, "MAX_REPORT", 150_000)
    worse = artifacts.report_markdown(done)
    assert len(worse.encode()) < 150_000 < len(whole_report.encode())
    assert len(images_in(worse)) + worse.count("is too large to be shown here") == 6


def test_images_have_the_best_quality_that_fits(done: Run) -> None:
    for quality in artifacts.QUALITIES:
        expected = html.embed_file(done.reconstructions, quality=quality, max_width=artifacts.MAX_WIDTH).address
        image = f"![{done.reconstructions.stem}]({expected})"
        assert artifacts._fit_images([done.reconstructions], len(image)) == [image]


def test_hostile_names_are_escaped(done: Run, tmp_path: Path) -> None:
    hostile = "<img src=x>|`a`|[b](http://evil.example)\x1b![c](x)"
    manifest = done.read()
    copy = Run(tmp_path / "copy")
    copy.path.mkdir()
    for path in done.path.iterdir():
        (copy.path / path.name).symlink_to(path)
    copy.manifest.unlink()
    data = {**manifest["data"], "source": f"/tmp/{hostile.replace('/', '')}"}
    files.write_json(copy.manifest, {**manifest, "interpolation": [hostile, "b"], "data": data})
    markdown = artifacts.report_markdown(copy)
    assert r"\<img src=x\>\|\`a\`\|\[b\]\(http://evil\.example\)\\x1b\!\[c\]\(x\)" in markdown
    assert "<img" not in markdown.replace(r"\<img", "")
    assert "[b](" not in markdown


def test_the_table_has_a_row_per_epoch_and_marks_the_best(done: Run) -> None:
    rows = artifacts.epoch_rows(done)
    best = done.read()["training"]["best_epoch"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["epoch"] for row in rows if row["kept"]] == [best]
    assert rows[best - 1]["test"] == f"{done.read()['training']['best_loss']:.4f}"
    assert "validation" not in rows[0]


def test_tasks_called_as_functions_publish_nothing(done: Run) -> None:
    assert "unpublished" not in done.read()
