"""What the leaderboard promises: means over seeds, the best first, and the same in every form."""

import io
import json
from pathlib import Path
from statistics import mean

import pytest
from rich.console import Console
from test_plan import SMALL, do

from catae.report import tables
from catae.sweep import leaderboard
from catae.sweep.leaderboard import Leaderboard, Mean
from catae.sweep.plan import plan_sweep
from catae.sweep.state import Sweep, batches, open_sweep
from catae.system import files
from flows import artifacts


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Return a sweep of two latent sizes and two seeds, with one trial waiting."""
    said = {**SMALL, "latent_dim": "2,16", "seed": "0..1", "output_dir": tmp_path_factory.mktemp("sweep")}
    plan = plan_sweep(said)
    with open_sweep(plan) as new:
        for batch in batches(new, plan):
            for trial in batch[:3]:
                do(new, plan, trial)
    return new


@pytest.fixture(scope="module")
def board(done: Sweep) -> Leaderboard:
    return leaderboard.write_leaderboard(done)


def test_an_entry_is_the_mean_of_its_seeds(done: Sweep, board: Leaderboard) -> None:
    whole, half = board.entries
    assert (whole.settings, half.settings) == ({"latent_dim": 2}, {"latent_dim": 16})
    assert whole.scores
    assert half.scores
    runs = [found for number in (1, 2) if (found := done.run_of(number))]
    assert whole.scores.l1.value == mean(each.read()["scores"]["model"]["l1"] for each in runs)
    assert whole.scores.l1.deviation
    assert (half.scores.runs, half.scores.l1.deviation) == (1, None)
    assert (board.seeds, board.over, board.comparable) == (2, ("latent_dim",), True)


def test_a_mean_is_shown_with_its_deviation() -> None:
    assert Mean.of([0.1, 0.2]).text(3) == "0.150 ± 0.071"
    assert Mean.of([0.1]).text(3) == "0.100"


def test_table_page_json_and_markdown_agree(done: Sweep, board: Leaderboard) -> None:
    console = Console(width=140, file=io.StringIO())
    console.print(leaderboard.text(board))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    html, markdown = done.page.read_text(), artifacts.leaderboard_markdown(done, board)
    said = json.loads(done.board.read_text())
    assert said["headline"] == leaderboard.headline(board)
    assert [entry["settings"]["latent_dim"] for entry in said["entries"]] == [2, 16]
    for row in leaderboard.table(board).rows:
        for cell in row:
            assert cell.text in text
            assert cell.text in html
    for entry in board.entries:
        assert entry.scores
        assert f" {entry.scores.l1.text(4)} |" in markdown.replace("\\", "")
    assert "1 of 2" in text
    for shown in (html, markdown.replace("\\", "")):
        assert all(str(trial.run) in shown for trial in done.trials() if trial.run)
    assert "src=" not in html


def test_runs_with_different_test_images_are_not_ranked(tmp_path: Path) -> None:
    plan = plan_sweep({**SMALL, "test_fraction": "0.1,0.4", "output_dir": tmp_path})
    with open_sweep(plan) as new:
        for batch in batches(new, plan):
            for trial in batch:
                do(new, plan, trial)
    board = leaderboard.rank_sweep(new)
    assert not board.comparable
    assert leaderboard.headline(board) == "The entries cannot be ranked: their runs have different test images."
    assert [row[0].text for row in leaderboard.table(board).rows] == [tables.NONE] * 2


def test_validation_images_rank_the_entries(tmp_path: Path) -> None:
    plan = plan_sweep({**SMALL, "latent_dim": "2,16", "validation_fraction": 0.2, "output_dir": tmp_path})
    with open_sweep(plan) as new:
        for batch in batches(new, plan):
            for trial in batch:
                do(new, plan, trial)
    board = leaderboard.rank_sweep(new)
    assert board.monitor == "validation"
    assert "Validation L1" in [column.heading.text for column in leaderboard.table(board).columns]
    losses = [entry.scores.monitored_l1.value for entry in board.entries if entry.scores]
    assert losses == sorted(losses)
    assert files.read_json(new.manifest)["finished"] is None
