"""What a sweep promises: every combination, what was asked for and no more, and to go on after it was killed."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from catae import run
from catae.__main__ import main
from catae.errors import UserError
from catae.sweep import leaderboard
from catae.sweep import plan as sweep
from catae.sweep.plan import Plan, Point, Sweep
from catae.sweep.search import Trial
from catae.system import files
from flows import points, tasks

SMALL: dict[str, Any] = {
    "source": "drawn:60", "image_size": 32, "latent_dim": 4, "width": 4, "max_epochs": 1, "threads": 1,
    "output_dir": Path("out"),
}  # fmt: skip


def do(new: Sweep, plan: Plan, point: Point) -> Point:
    """Does a point in this process, as a worker does; gives how it ended."""
    earlier = new.before(point) if plan.trials else None
    error = None
    try:
        points.train.fn("", new.path, point.number, plan.settings(point.values), plan.origins, earlier)
    except UserError as caught:
        error = str(caught)
    return new.end(point.number, error)


def whole(said: Mapping[str, Any], trials: int = 0) -> Sweep:
    """A whole sweep."""
    plan = sweep.plan({**SMALL, **said}, trials)
    with sweep.recorded(plan) as new:
        for batch in sweep.batches(new, plan):
            for point in batch:
                do(new, plan, point)
        new.finish()
    return new


def digests(done: Sweep) -> list[Any]:
    """What the runs of a sweep have learned, and how well they restore."""
    runs = [done.run_of(point.number) for point in done.points()]
    return [(said["digests"], said["scores"]) for each in runs if each and (said := each.read())]


def interrupt(*arguments: object) -> None:
    """Called after an epoch, it is what Ctrl-C does then."""
    raise KeyboardInterrupt


def test_a_grid_is_every_combination_the_last_flag_the_fastest() -> None:
    plan = sweep.plan({**SMALL, "latent_dim": "4,8", "seed": "0..2"})
    with sweep.recorded(plan) as new:
        (batch,) = sweep.batches(new, plan)
    assert [point.values for point in batch] == [
        {"latent_dim": size, "seed": seed} for size in (4, 8) for seed in (0, 1, 2)
    ]
    assert plan.settings(batch[-1].values) == plan.base.model_copy(update={"latent_dim": 8, "seed": 2})


def test_what_a_machine_would_decide_is_decided_once_for_all_of_them() -> None:
    said = {"seed": "0..1", "source": "cats.zip", "output_dir": "out", "workers": "1000"}
    base = sweep.plan(said).base
    assert base.threads == 1
    assert base.precision in ("fp32", "bf16")
    assert (base.source, base.output_dir) == (str(Path("cats.zip").absolute()), Path("out").absolute())
    assert sweep.plan({**said, "threads": "3"}).base.threads == 3
    assert sweep.plan(said).origins["seed"] == "sweep"


def test_where_the_runs_are_done_decides_nothing_of_what_is_done() -> None:
    said = {**SMALL, "seed": "0..1"}
    here = sweep.plan(said)
    there = sweep.plan({**said, "runner": "dask", "runner_address": "tcp://10.0.0.5:8786", "workers": 7})
    assert here.identity == there.identity
    assert here.identity != sweep.plan({**said, "seed": "0..2"}).identity
    assert here.identity != sweep.plan({**said, "width": 8}).identity


@pytest.mark.parametrize(
    ("said", "trials", "why"),
    [
        ({}, 0, "a sweep needs a setting with several values, like --latent-dim 32,64,128 or --seed 0..4"),
        ({"seed": "0..99999999"}, 0, "these are 100,000,000 combinations, and 1,000 is the most"),
        ({"learning_rate": "0.1..0.5"}, 0, "--learning-rate is 0.1..0.5: only whole numbers can all be tried"),
        ({"width": "4,8"}, -1, "--trials is -1: it must be from 1 to 1,000"),
        ({"width": "4,8", "seed": "0..1"}, 5, "compares losses on the same pictures, which --seed decides"),
        ({}, 5, "a search needs a setting to choose"),
        ({"seed": "0..1", "resume": "20261124-171815"}, 0, "--resume is '20261124-171815': a sweep takes auto"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_one_line_before_anything_is_written(
    said: dict[str, Any], trials: int, why: str
) -> None:
    with pytest.raises(UserError) as error:
        sweep.plan({**SMALL, **said}, trials)
    assert why in str(error.value)
    assert not Path("out").exists()


def test_the_command_says_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        (["--seed", "4..0"], "--seed is '4..0': a range goes from the lower end to the higher"),
        (["--seed", "0..1", "--runner", "slurm"], "--runner is 'slurm': it must be 'process', 'dask' or 'ray'"),
        (["--seed", "0..1", "--address", "tcp://10.0.0.5:1"], "take --runner dask or --runner ray, or no address"),
    ):
        assert main(["sweep", *words]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert why in said.err


def test_each_point_is_a_run_like_any_other_with_scores_and_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    done = whole({"latent_dim": "2,4"})
    assert [point.state for point in done.points()] == ["finished", "finished"]
    for point in done.points():
        found = run.trained(str(point.run), Path("out"))
        assert found.read()["scores"]["pictures"] > 0
        assert files.read_json(found.settings)["latent_dim"] == {"value": point.values["latent_dim"], "from": "sweep"}
        assert (done.runs / str(point.number)).resolve() == found.path.resolve()
    monkeypatch.setenv("CATAE_OUTPUT_DIR", "out")
    assert main(["compare", *(str(point.run) for point in done.points())]) == 0
    assert main(["generate", "--run", str(done.runs / "1"), "--count", "2", "--out", "x.png"]) == 0
    assert files.read_json(done.manifest)["finished"]


def test_a_killed_sweep_goes_on_where_it_was_and_a_finished_one_begins_anew() -> None:
    plan = sweep.plan({**SMALL, "latent_dim": "2,4"})
    with sweep.recorded(plan) as first:
        (batch,) = sweep.batches(first, plan)
        done = do(first, plan, batch[0])
        # The second one was trained, and the sweep killed before it could write that down.
        points.train.fn("", first.path, 2, plan.settings(batch[1].values), plan.origins, None)
    trained = first.run_of(2)
    assert trained
    with sweep.recorded(plan) as second:
        assert second.id == first.id
        ((left,),) = sweep.batches(second, plan)
        assert left.number == 2
        ended = do(second, plan, left)
        second.finish()
    assert (ended.run, trained.read()["attempts"]) == (trained.id, 1)
    assert second.points()[0] == done
    with sweep.recorded(plan) as third:
        assert third.id != first.id


def test_a_run_under_way_goes_on_from_its_checkpoint_to_the_same_weights(caplog: pytest.LogCaptureFixture) -> None:
    said = {**SMALL, "latent_dim": "2,4", "max_epochs": 2}
    through = whole(said)
    plan = sweep.plan({**said, "output_dir": Path("other")})
    with sweep.recorded(plan) as killed:
        asked = plan.settings({"latent_dim": 2, "resume": "never"})
        with suppress(KeyboardInterrupt), run.recorded(asked, plan.origins) as begun:
            killed.link(1, begun)
            images = tasks.read.fn(begun.path, asked)
            tasks.divide.fn(begun.path, images, asked)
            tasks.fit(begun.path, images, asked, interrupt)
    assert begun.read()["state"] == "interrupted"
    with caplog.at_level(logging.INFO, "catae"), sweep.recorded(plan) as on:
        for batch in sweep.batches(on, plan):
            for point in batch:
                do(on, plan, point)
    assert on.points()[0].run == begun.id
    assert "going on after epoch 1" in caplog.text
    assert digests(on) == digests(through)


def test_two_processes_do_not_do_the_same_sweep() -> None:
    plan = sweep.plan({**SMALL, "latent_dim": "2,4"})
    with sweep.recorded(plan), pytest.raises(UserError, match="is being done by another process"), sweep.recorded(plan):
        pass


def test_one_that_fails_is_in_the_leaderboard_with_its_reason_and_the_same_command_tries_it_again() -> None:
    plan = sweep.plan({**SMALL, "learning_rate": "0.001,1e38"})
    with sweep.recorded(plan) as new:
        (batch,) = sweep.batches(new, plan)
        ended = [do(new, plan, point) for point in batch]
    assert [point.state for point in ended] == ["finished", "failed"]
    assert "training has diverged" in str(ended[1].error)
    board = leaderboard.write(new)
    assert board.notes == (f"Run {ended[1].run} (learning_rate 1e+38) failed: {ended[1].error}.",)
    with sweep.recorded(plan) as again:
        assert [[point.number for point in batch] for batch in sweep.batches(again, plan)] == [[2]]


def test_a_search_is_the_same_after_it_was_interrupted_between_and_within_its_batches() -> None:
    pytest.importorskip("optuna", reason="pip install -e .[search]")
    said = {"learning_rate": "0.0001..0.01", "width": "4,6"}
    through = whole(said, trials=4)
    plan = sweep.plan({**SMALL, **said, "output_dir": Path("other")}, trials=4)
    for _ in range(4):  # one run each time
        with sweep.recorded(plan) as new:
            do(new, plan, next(sweep.batches(new, plan))[0])
    assert [point.values for point in new.points()] == [point.values for point in through.points()]
    assert digests(new) == digests(through)
    assert json.loads(new.manifest.read_text())["plan"] == json.loads(through.manifest.read_text())["plan"]


def test_a_hopeless_run_is_given_up_and_says_so() -> None:
    pytest.importorskip("optuna", reason="pip install -e .[search]")
    plan = sweep.plan({**SMALL, "width": "4,8", "max_epochs": 9}, trials=1)
    good = Trial({"width": 8}, dict.fromkeys(range(1, 9), 1e-06), 1e-6)
    with sweep.recorded(plan) as new:
        ((point,),) = sweep.batches(new, plan)
        points.train.fn("", new.path, 1, plan.settings(point.values), plan.origins, [good] * 4)
        ended = new.end(1, None)
    assert ended.state == "pruned"
    assert "given up after epoch 4" in str(ended.error)
    assert run.state(run.find(str(ended.run), Path("out"))) == "pruned"
