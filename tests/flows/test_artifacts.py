"""What the UI gets to show of a run; that it does show it is in test_ui.py."""

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
    """A run with pictures of the default size and number, of a model that has learned little."""
    resolved = Settings(source="drawn:400", width=8, max_epochs=2, output_dir=tmp_path_factory.mktemp("artifacts"))
    return jobs.run_all_stages(resolved)


def pictures(markdown: str) -> list[Image.Image]:
    """The pictures in it, opened."""
    found = re.findall(r"!\[[a-z-]+\]\(data:image/webp;base64,([^)]+)\)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_report_has_all_pictures_in_less_than_half_a_megabyte_at_the_default_settings(done: Run) -> None:
    markdown = artifacts.write_report(done)
    assert len(markdown.encode()) < 500_000
    shown = pictures(markdown)
    assert [getattr(picture, "n_frames", 1) > 1 for picture in shown] == [False, False, False, True, False, False]
    paces = []
    for frame in ImageSequence.Iterator(shown[3]):
        frame.load()  # which is when Pillow knows how long it is shown
        paces.append(frame.info["duration"])
    assert sum(paces) == 2 * 1000 + 96 * 80  # all of the walk, there and back
    assert min(picture.width for picture in shown) == 192  # the animation's, three times as large as its pixels


def test_the_report_has_the_scores_beside_their_references_and_every_file_with_its_size(done: Run) -> None:
    markdown, said = artifacts.write_report(done), done.read()
    scores = said["scores"]
    for name in ("model", "pca", "mean_picture"):
        assert f"{scores[name]['l1']:.4f}" in markdown
    assert f"On {scores['pictures']} test pictures" in markdown
    assert f"`{done.path.resolve()}`" in markdown
    for path in done.path.iterdir():
        assert f"| `{path.name}` | " in markdown, path
    assert f"| {done.model.stat().st_size / 1e6:.2f} |" in markdown


def test_pictures_that_are_many_are_shown_worse_and_those_that_are_too_many_are_named(
    done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_report = artifacts.write_report(done)
    monkeypatch.setattr(artifacts, "LIMIT", 150_000)
    worse = artifacts.write_report(done)
    assert len(worse.encode()) < 150_000 < len(whole_report.encode())
    assert len(pictures(worse)) + worse.count("is too large to be shown here") == 6


def test_pictures_are_shown_as_well_as_they_fit(done: Run) -> None:
    for quality in artifacts.QUALITIES:
        wanted = html.embed(done.reconstructions, lossy=quality, widest=artifacts.WIDEST).address
        picture = f"![{done.reconstructions.stem}]({wanted})"
        assert artifacts._fitting([done.reconstructions], len(picture)) == [picture]


def test_a_strangers_names_are_nothing_but_text(done: Run, tmp_path: Path) -> None:
    hostile = "<img src=x>|`a`|[b](http://evil.example)\x1b![c](x)"
    manifest = done.read()
    monkeyed = Run(tmp_path / "copy")
    monkeyed.path.mkdir()
    for path in done.path.iterdir():
        (monkeyed.path / path.name).symlink_to(path)
    monkeyed.manifest.unlink()
    data = {**manifest["data"], "source": f"/tmp/{hostile.replace('/', '')}"}
    files.write_json(monkeyed.manifest, {**manifest, "interpolation": [hostile, "b"], "data": data})
    markdown = artifacts.write_report(monkeyed)
    assert r"\<img src=x\>\|\`a\`\|\[b\]\(http://evil\.example\)\\x1b\!\[c\]\(x\)" in markdown
    assert "<img" not in markdown.replace(r"\<img", "")
    assert "[b](" not in markdown


def test_the_table_has_a_row_an_epoch_and_marks_the_one_whose_weights_were_kept(done: Run) -> None:
    rows = artifacts.epochs(done)
    best = done.read()["training"]["best_epoch"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["epoch"] for row in rows if row["kept"]] == [best]
    assert rows[best - 1]["test"] == f"{done.read()['training']['best_loss']:.4f}"
    assert "validation" not in rows[0]


def test_tasks_that_are_called_as_functions_ask_no_server(done: Run) -> None:
    assert "unpublished" not in done.read()
