"""A sweep: every combination once, and an exact resume after a kill."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from catae import run
from catae.__main__ import main
from catae.errors import UserError
from catae.pipeline import lifecycle, stages
from catae.sweep import leaderboard, state
from catae.sweep.plan import Plan, plan_sweep
from catae.sweep.search import PastTrial
from catae.sweep.state import Sweep, Trial, open_sweep
from catae.system import files
from flows.sweep import run_trial

SMALL: dict[str, Any] = {
    "source": "drawn:60", "image_size": 32, "latent_dim": 4, "width": 4, "max_epochs": 1, "threads": 1,
    "output_dir": Path("out"),
}  # fmt: skip


def do(new: Sweep, plan: Plan, trial: Trial) -> Trial:
    """Run a trial in this process, as a worker does."""
    earlier = new.before(trial) if plan.max_trials else None
    error = None
    try:
        run_trial.fn("", new.path, trial.number, *plan.resolve(trial.values), earlier)
    except UserError as caught:
        error = str(caught)
    return new.end(trial.number, error)


def whole(said: Mapping[str, Any], trials: int = 0) -> Sweep:
    """Run a whole sweep."""
    plan = plan_sweep({**SMALL, **said}, trials)
    with open_sweep(plan) as new:
        for batch in state.batches(new, plan):
            for trial in batch:
                do(new, plan, trial)
        new.finish()
    return new


def digests(done: Sweep) -> list[Any]:
    """Return the digests and scores of a sweep's runs."""
    runs = [done.run_of(trial.number) for trial in done.trials()]
    return [(manifest["digests"], manifest["scores"]) for each in runs if each and (manifest := each.read())]


def interrupt(*arguments: object) -> None:
    """Act like Ctrl-C after an epoch."""
    raise KeyboardInterrupt


def test_a_grid_varies_the_last_flag_fastest() -> None:
    plan = plan_sweep({**SMALL, "latent_dim": "4,8", "seed": "0..2"})
    with open_sweep(plan) as new:
        (batch,) = state.batches(new, plan)
    assert [trial.values for trial in batch] == [
        {"latent_dim": size, "seed": seed} for size in (4, 8) for seed in (0, 1, 2)
    ]
    resolved, _ = plan.resolve(batch[-1].values)
    assert resolved == plan.base.model_copy(update={"latent_dim": 8, "seed": 2})


def test_paths_threads_and_precision_are_resolved_once_for_all_workers() -> None:
    said = {"seed": "0..1", "source": "cats.zip", "output_dir": "out", "workers": "1000"}
    base = plan_sweep(said).base
    assert base.threads == 1
    assert base.precision in ("fp32", "bf16")
    assert (base.source, base.output_dir) == (str(Path("cats.zip").absolute()), Path("out").absolute())
    assert plan_sweep({**said, "threads": "3"}).base.threads == 3
    assert plan_sweep(said).origins["seed"] == "sweep"


def test_a_swept_recipe_supplies_the_defaults_of_each_run() -> None:
    plan = plan_sweep({**SMALL, "recipe": "spec,tuned", "shift": 2})
    (spec, from_spec), (tuned, from_tuned) = (plan.resolve({"recipe": recipe}) for recipe in ("spec", "tuned"))
    assert (spec.recipe, spec.activation, spec.hflip, spec.shift) == ("spec", "relu", 0.0, 2)
    assert (tuned.recipe, tuned.activation, tuned.hflip, tuned.shift) == ("tuned", "crelu", 0.5, 2)
    assert spec.model_dump(exclude={"recipe", "activation", "hflip", "affine"}) == tuned.model_dump(
        exclude={"recipe", "activation", "hflip", "affine"}
    )
    assert [origins[name] for origins in (from_spec, from_tuned) for name in ("recipe", "activation", "shift")] == [
        "sweep", "default", "given", "sweep", "recipe", "given"
    ]  # fmt: skip


def test_identity_does_not_depend_on_the_runner() -> None:
    said = {**SMALL, "seed": "0..1"}
    here = plan_sweep(said)
    there = plan_sweep({**said, "runner": "dask", "runner_address": "tcp://10.0.0.5:8786", "workers": 7})
    assert here.identity == there.identity
    assert here.identity != plan_sweep({**said, "seed": "0..2"}).identity
    assert here.identity != plan_sweep({**said, "width": 8}).identity


@pytest.mark.parametrize(
    ("said", "trials", "why"),
    [
        ({}, 0, "a sweep needs a setting with several values, like --latent-dim 32,64,128 or --seed 0..4"),
        ({"seed": "0..99999999"}, 0, "the grid has 100,000,000 combinations, and the limit is 1,000"),
        ({"learning_rate": "0.1..0.5"}, 0, "--learning-rate is 0.1..0.5: a grid accepts ranges of whole numbers only"),
        ({"width": "4,8"}, -1, "--trials is -1: it must be from 1 to 1,000"),
        ({"width": "4,8", "seed": "0..1"}, 5, "compares losses on the same images, and --seed changes them"),
        ({}, 5, "a search needs a setting to choose"),
        ({"seed": "0..1", "resume": "20261124-171815"}, 0, "--resume is '20261124-171815': a sweep accepts auto"),
    ],
)
def test_an_invalid_sweep_is_one_line_and_writes_nothing(said: dict[str, Any], trials: int, why: str) -> None:
    with pytest.raises(UserError) as error:
        plan_sweep({**SMALL, **said}, trials)
    assert why in str(error.value)
    assert not Path("out").exists()


def test_the_command_reports_invalid_flags_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        (["--seed", "4..0"], "--seed is '4..0': a range starts at its lower end"),
        (["--seed", "0..1", "--runner", "slurm"], "--runner is 'slurm': it must be 'process', 'dask' or 'ray'"),
        (["--seed", "0..1", "--address", "tcp://10.0.0.5:1"], "choose --runner dask or --runner ray, or remove"),
    ):
        assert main(["sweep", *words]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert why in said.err


def test_each_trial_is_an_ordinary_run_with_scores_and_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    done = whole({"latent_dim": "2,4"})
    assert [trial.state for trial in done.trials()] == ["finished", "finished"]
    for trial in done.trials():
        found = run.find_trained_run(str(trial.run), Path("out"))
        assert found.read()["scores"]["pictures"] > 0
        assert files.read_json(found.settings)["latent_dim"] == {"value": trial.values["latent_dim"], "from": "sweep"}
        assert (done.runs / str(trial.number)).resolve() == found.path.resolve()
    monkeypatch.setenv("CATAE_OUTPUT_DIR", "out")
    assert main(["compare", *(str(trial.run) for trial in done.trials())]) == 0
    assert main(["generate", "--run", str(done.runs / "1"), "--count", "2", "--out", "x.png"]) == 0
    assert files.read_json(done.manifest)["finished"]


def test_a_killed_sweep_resumes_and_a_finished_one_starts_again() -> None:
    plan = plan_sweep({**SMALL, "latent_dim": "2,4"})
    with open_sweep(plan) as first:
        (batch,) = state.batches(first, plan)
        done = do(first, plan, batch[0])
        # The second trial finished, and the sweep was killed before it could record that.
        run_trial.fn("", first.path, 2, *plan.resolve(batch[1].values), None)
    trained = first.run_of(2)
    assert trained
    with open_sweep(plan) as second:
        assert second.id == first.id
        ((left,),) = state.batches(second, plan)
        assert left.number == 2
        ended = do(second, plan, left)
        second.finish()
    assert (ended.run, trained.read()["attempts"]) == (trained.id, 1)
    assert second.trials()[0] == done
    with open_sweep(plan) as third:
        assert third.id != first.id


def test_an_interrupted_trial_resumes_to_the_same_weights(caplog: pytest.LogCaptureFixture) -> None:
    said = {**SMALL, "latent_dim": "2,4", "max_epochs": 2}
    through = whole(said)
    plan = plan_sweep({**said, "output_dir": Path("other")})
    with open_sweep(plan) as killed:
        asked, _ = plan.resolve({"latent_dim": 2, "resume": "never"})
        with suppress(KeyboardInterrupt), lifecycle.open_run(asked, plan.origins) as begun:
            killed.link(1, begun)
            for stage in (stages.read, stages.split, partial(stages.train, after_epoch=interrupt)):
                stage(begun, asked)
    assert begun.read()["state"] == "interrupted"
    with caplog.at_level(logging.INFO, "catae"), open_sweep(plan) as on:
        for batch in state.batches(on, plan):
            for trial in batch:
                do(on, plan, trial)
    assert on.trials()[0].run == begun.id
    assert "resuming after epoch 1" in caplog.text
    assert digests(on) == digests(through)


def test_two_processes_cannot_work_on_the_same_sweep() -> None:
    plan = plan_sweep({**SMALL, "latent_dim": "2,4"})
    with open_sweep(plan), pytest.raises(UserError, match="another process is working on"), open_sweep(plan):
        pass


def test_a_failed_trial_is_listed_with_its_reason_and_tried_again() -> None:
    plan = plan_sweep({**SMALL, "learning_rate": "0.001,1e38"})
    with open_sweep(plan) as new:
        (batch,) = state.batches(new, plan)
        ended = [do(new, plan, trial) for trial in batch]
    assert [trial.state for trial in ended] == ["finished", "failed"]
    assert "training diverged" in str(ended[1].error)
    board = leaderboard.write_leaderboard(new)
    assert board.notes == (f"Run {ended[1].run} (learning_rate 1e+38) failed: {ended[1].error}.",)
    with open_sweep(plan) as again:
        assert [[trial.number for trial in batch] for batch in state.batches(again, plan)] == [[2]]


def test_an_interrupted_search_proposes_the_same_trials() -> None:
    pytest.importorskip("optuna", reason="pip install -e .[search]")
    said = {"learning_rate": "0.0001..0.01", "width": "4,6"}
    through = whole(said, trials=4)
    plan = plan_sweep({**SMALL, **said, "output_dir": Path("other")}, max_trials=4)
    for _ in range(4):  # one run each time
        with open_sweep(plan) as new:
            do(new, plan, next(state.batches(new, plan))[0])
    assert [trial.values for trial in new.trials()] == [trial.values for trial in through.trials()]
    assert digests(new) == digests(through)
    assert json.loads(new.manifest.read_text())["plan"] == json.loads(through.manifest.read_text())["plan"]


def test_a_trial_that_falls_behind_is_pruned_with_a_reason() -> None:
    pytest.importorskip("optuna", reason="pip install -e .[search]")
    plan = plan_sweep({**SMALL, "width": "4,8", "max_epochs": 9}, max_trials=1)
    good = PastTrial({"width": 8}, dict.fromkeys(range(1, 9), 1e-06), 1e-6)
    with open_sweep(plan) as new:
        ((trial,),) = state.batches(new, plan)
        run_trial.fn("", new.path, 1, *plan.resolve(trial.values), [good] * 4)
        ended = new.end(1, None)
    assert ended.state == "pruned"
    assert "pruned after epoch 4" in str(ended.error)
    assert run.find_run(str(ended.run), Path("out")).state() == "pruned"
