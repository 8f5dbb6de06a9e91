"""Compare real small runs: finished, with other images, unfinished, failed and damaged."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
from browser import Page, check_in_browser, needs_chromium
from rich.console import Console

from catae import settings
from catae.__main__ import main
from catae.errors import UserError
from catae.pipeline import lifecycle
from catae.report import comparison, tables
from catae.report.comparison import RunComparison
from catae.run import Run
from catae.settings import Settings
from catae.system import files

SMALL: dict[str, Any] = {
    "source": "drawn:60", "image_size": 32, "latent_dim": 8, "width": 4, "max_epochs": 2, "samples": 4,
    "interpolation_steps": 3, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Whole runs: two with different latent sizes, and one with another seed, so with other test images."""
    place = tmp_path_factory.mktemp("runs")
    changes: dict[str, dict[str, Any]] = {"a": {}, "b": {"latent_dim": 2, "max_epochs": 3}, "other": {"seed": 1}}
    runs = {}
    for name, change in changes.items():
        resolved = Settings(**{**SMALL, **change}, output_dir=place)
        runs[name] = jobs.run_all_stages(resolved)
        runs[name].record(state="finished")
    return runs


@pytest.fixture
def copied(finished: dict[str, Run], tmp_path: Path) -> Callable[[str, str], Run]:
    """Return a function that copies a finished run under a new name."""

    def copy(name: str, new: str) -> Run:
        return Run(Path(shutil.copytree(finished[name].path, tmp_path / new)))

    return copy


def compared(*runs: Run) -> RunComparison:
    return comparison.compare_runs([str(each.path) for each in runs], Path("nowhere"))


def printed(made: RunComparison, width: int = 80) -> str:
    """Return what a terminal shows."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(comparison.comparison_text(made, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> list[str]:
    """Return the values of a row of the printed table."""
    (line,) = [line for line in text.splitlines() if line.startswith(name + "  ")]
    return line.removeprefix(name).split()


def test_the_table_has_differing_settings_and_scores(finished: dict[str, Run]) -> None:
    made = compared(finished["a"], finished["b"])
    text = printed(made)
    assert made.comparable
    assert set(made.differing) == {"latent_dim", "max_epochs"}
    assert row(text, "latent_dim") == ["8", "2"]
    scores = [finished[name].read()["scores"] for name in "ab"]
    for key, name, decimals in (("l1", "L1 in [-1, 1]", 4), ("psnr", "PSNR, dB", 2), ("ssim", "SSIM", 4)):
        assert [word for word in row(text, name) if word != "*"] == [f"{s['model'][key]:.{decimals}f}" for s in scores]
    gaps = [f"{s['model']['psnr'] - s['pca']['psnr']:+.2f}" for s in scores]
    assert row(text, "PSNR vs. PCA") == gaps
    assert row(text, "Test images") == [str(s["pictures"]) for s in scores]
    assert "width" not in text


def test_the_best_of_each_score_is_marked(finished: dict[str, Run]) -> None:
    made = compared(finished["a"], finished["b"])
    best = {
        cells[0].text: tuple(cell.best for cell in cells[1:])
        for cells in comparison.comparison_table(made).transposed().rows
    }
    for key, name, least in (("l1", "L1 in [-1, 1]", True), ("psnr", "PSNR, dB", False), ("ssim", "SSIM", False)):
        a, b = (finished[run].read()["scores"]["model"][key] for run in "ab")
        assert best[name] == ((a < b, b < a) if least else (a > b, b > a))
    better = min("ab", key=lambda name: finished[name].read()["scores"]["model"]["l1"])
    assert comparison.headline(made).startswith(f"Run {finished[better].id} has the lowest L1 error: ")


def test_runs_with_different_test_images_are_not_ranked(finished: dict[str, Run]) -> None:
    made = compared(finished["a"], finished["other"])
    assert not made.comparable
    assert "The scores cannot be compared: the runs have different test images." in printed(made)
    assert not comparison.comparison_table(made).has_best
    assert made.to_dict()["comparable"] is False


def test_different_images_with_the_same_names_are_different_test_images(
    finished: dict[str, Run], copied: Callable[[str, str], Run]
) -> None:
    twin = copied("a", "twin")
    assert compared(finished["a"], twin).comparable
    twin.record(digests={**twin.read()["digests"], "data": "0" * 64})
    assert not compared(finished["a"], twin).comparable


def test_runs_are_found_by_latest_id_or_folder_and_count_once(finished: dict[str, Run]) -> None:
    output_dir = finished["a"].path.parent.parent
    named = [finished["b"].id, str(finished["a"].path), "latest", finished["other"].id]
    made = comparison.compare_runs(named, output_dir)
    assert [summary.id for summary in made.runs] == [finished[name].id for name in ("b", "a", "other")]
    with pytest.raises(UserError, match="there is only one run to compare; name another"):
        comparison.compare_runs(["latest", finished["other"].id], output_dir)
    with pytest.raises(UserError, match="RUN is 'nope': no such run in"):
        comparison.compare_runs(["latest", "nope"], output_dir)


def test_unfinished_and_failed_runs_are_noted(finished: dict[str, Run], tmp_path: Path) -> None:
    begun = Settings(**SMALL, output_dir=tmp_path / "artifacts")
    unfinished = jobs.train(begun)
    origins = dict.fromkeys(Settings.model_fields, "default")
    other = begun.model_copy(update={"seed": 5})
    with pytest.raises(ValueError, match="too bad"), lifecycle.open_run(other, origins) as failed:
        raise ValueError("too bad")
    made = compared(finished["a"], unfinished, failed)
    text = " ".join(printed(made).split())
    assert f"Run {unfinished.id} is killed and has no scores." in text
    assert f"Run {failed.id} is failed and has no scores: ValueError: too bad." in text
    assert f"Only run {finished['a'].id} has scores." in text
    assert row(printed(made), "State") == ["finished", "killed", "failed"]
    assert row(printed(made), "Epochs")[-1] == tables.NONE
    assert row(printed(made), "L1 in [-1, 1]")[-2:] == [tables.NONE, comparison.NONE]


DAMAGES: dict[str, Callable[[Run], object]] = {
    "manifest.half": lambda each: each.manifest.write_bytes(each.manifest.read_bytes()[:100]),
    "manifest.list": lambda each: each.manifest.write_text("[]"),
    "manifest.scores": lambda each: each.record(scores={"model": "good"}),
    "manifest.digests": lambda each: each.record(digests=["a"]),
    "manifest.training": lambda each: each.record(training="long"),
    "settings.gone": lambda each: each.settings.unlink(),
    "settings.list": lambda each: each.settings.write_text("[1]"),
    "split.half": lambda each: each.split.write_bytes(each.split.read_bytes()[:20]),
    "split.other": lambda each: each.split.write_text('{"train": []}'),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_run_is_noted_and_the_others_are_compared(
    damage: str, finished: dict[str, Run], copied: Callable[[str, str], Run]
) -> None:
    damaged = copied("b", "damaged")
    DAMAGES[damage](damaged)
    made = compared(finished["a"], damaged, finished["b"])
    assert [summary.id for summary in made.runs] == [finished[name].id for name in "ab"]
    assert made.comparable
    (note,) = made.notes
    assert note.startswith("Run damaged is left out: ")
    assert str(damaged.path) in note
    with pytest.raises(UserError, match="cannot read any of these runs: Run damaged"):
        compared(damaged, Run(Path(shutil.copytree(damaged.path, damaged.path.with_name("twin")))))


def test_three_runs_fit_80_columns_whatever_differs(
    finished: dict[str, Run], copied: Callable[[str, str], Run]
) -> None:
    changed = [copied("a", f"20261124-171815-{number}") for number in range(3)]
    for number, each in enumerate(changed):
        values = files.read_json(each.settings)
        for name, setting in values.items():
            setting["value"] = f"{name} of number {number} is long" if name != "source" else f"/a/{'long' * 9}{number}"
        files.write_json(each.settings, values)
    text = printed(compared(*changed))
    assert max(map(len, text.splitlines())) <= 80
    assert "validation_fraction" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.count("L1 in [-1, 1]") == 1


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_every_run_is_complete_at_any_width(width: int, count: int, copied: Callable[[str, str], Run]) -> None:
    text = printed(compared(*(copied("a", f"20261124-1718{number}") for number in range(10, 10 + count))), width)
    assert max(map(len, text.splitlines())) <= width
    _, text = text.split("\n\n", 1)  # the first sentence names the best
    assert [text.count(f"20261124-1718{number}") for number in range(10, 10 + count)] == [1] * count
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_json_has_settings_training_and_scores(finished: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(finished["a"].path), str(finished["b"].path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["comparable"], data["notes"]) == (True, [])
    assert set(data["differing"]) == {"latent_dim", "max_epochs"}
    for summary, name in zip(data["runs"], "ab", strict=True):
        scores = finished[name].read()["scores"]
        assert summary["id"] == finished[name].id
        assert summary["scores"]["model"] == {key: scores["model"][key] for key in ("l1", "psnr", "ssim")}
        assert summary["settings"]["latent_dim"] == {"a": 8, "b": 2}[name]
        assert summary["training"]["epochs"] == finished[name].read()["training"]["epochs"]


def test_the_page_links_to_every_runs_report(finished: dict[str, Run], tmp_path: Path) -> None:
    assert main(["compare", *(str(each.path) for each in finished.values()), "--html", "runs.html"]) == 0
    page = Page((tmp_path / "runs.html").read_text())
    links = [link["href"] or "" for link in page.all("a") if not (link["href"] or "").startswith("#")]
    assert [(tmp_path / link).resolve() for link in links] == [each.report.resolve() for each in finished.values()]
    assert "The scores cannot be compared: the runs have different test images." in page.text
    assert any(line.startswith("latent_dim 8 2 8") for line in page.rows())
    assert len(page.all("img")) == 1


def test_hostile_names_and_errors_stay_text(
    finished: dict[str, Run], copied: Callable[[str, str], Run], tmp_path: Path
) -> None:
    evil = copied("a", "[bold]<script>alert(1)<")
    values = files.read_json(evil.settings)
    values["init"]["value"] = "<script>alert(2)</script>\x1b[31m[red]$\\x$"
    files.write_json(evil.settings, values)
    evil.record(scores=None, error="\x1b[31m<script>alert(3)</script>\n[/red]")
    made = compared(finished["a"], evil)
    assert "\x1b" not in printed(made)
    assert "[bold]" in printed(made)
    comparison.write_comparison_page(made, tmp_path / "runs.html")
    assert not Page((tmp_path / "runs.html").read_text()).all("script")


def test_a_run_without_a_log_is_noted(
    finished: dict[str, Run], copied: Callable[[str, str], Run], tmp_path: Path
) -> None:
    bare = copied("b", "bare")
    shutil.rmtree(bare.events)
    comparison.write_comparison_page(compared(finished["a"], bare), tmp_path / "one.html")
    page = Page((tmp_path / "one.html").read_text())
    assert "Run bare has no curve: " in page.text
    assert len(page.all("img")) == 1
    (tmp_path / "twin").mkdir()
    twin = Run(Path(shutil.copytree(bare.path, tmp_path / "twin" / "twin")))
    comparison.write_comparison_page(compared(bare, twin), tmp_path / "none.html")
    assert not Page((tmp_path / "none.html").read_text()).all("img")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("count", [2, 9])
def test_the_page_never_scrolls_sideways(
    scheme: str, count: int, finished: dict[str, Run], copied: Callable[[str, str], Run], tmp_path: Path
) -> None:
    runs = [finished["a"], finished["b"], *(copied("a", f"20261124-1718{number}") for number in range(10, 8 + count))]
    comparison.write_comparison_page(compared(*runs), tmp_path / "runs.html")
    check_in_browser(tmp_path / "runs.html", scheme, images=1)


def test_settings_that_do_not_affect_the_result_are_not_compared(copied: Callable[[str, str], Run]) -> None:
    a, b = copied("a", "one"), copied("a", "two")
    values = files.read_json(b.settings)
    for name in settings.RESUME_SAFE - {"source"}:
        values[name]["value"] = "another"
    files.write_json(b.settings, values)
    assert compared(a, b).differing == ()
    del values["width"]  # a run of an earlier version has fewer
    files.write_json(b.settings, values)
    assert compared(a, b).differing == ("width",)
    assert row(printed(compared(a, b)), "width") == ["4", tables.NONE]


def test_two_runs_with_the_same_name_both_count(finished: dict[str, Run], copied: Callable[[str, str], Run]) -> None:
    twin = copied("b", finished["a"].id)
    comparison.write_comparison_page(compared(finished["a"], twin), Path("runs.html"))
    page = Page(Path("runs.html").read_text())
    links = [link["href"] or "" for link in page.all("a") if not (link["href"] or "").startswith("#")]
    assert [Path(link).resolve() for link in links] == [finished["a"].report.resolve(), twin.report.resolve()]


def test_at_most_ten_curves_are_drawn(copied: Callable[[str, str], Run]) -> None:
    runs = [copied("a", f"run-{number}") for number in range(11)]
    comparison.write_comparison_page(compared(*runs), Path("runs.html"))
    assert "The figure shows only the first 10 of 11 runs." in Page(Path("runs.html").read_text()).text
