"""Search for good settings with Optuna: propose the next trials, and prune those that fall behind.

Both are functions of the earlier trials and the seed alone. Nothing else is kept between two calls, so that a search
resumes after a kill with the same results, and gives the same results on every runner. The price: trials that run at
the same time do not know of each other. They are proposed together, and compared with the trials before them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catae.errors import TrialPruned, UserError
from catae.run import Run
from catae.sweep.search_space import Choice, Range
from catae.system import rng
from catae.training import tensorboard
from catae.training.metrics import Epoch

STARTUP_TRIALS = 4  # trials that must finish before any is pruned
WARMUP_EPOCHS = 3  # epochs without pruning: the first ones say more about the initial weights than the settings
MAX_DRAWS = 100  # attempts to find untried combinations; where there are few, the sampler repeats itself

Losses = Mapping[int, float]  # the monitored loss after each epoch


@dataclass(frozen=True)
class PastTrial:
    """An earlier trial: its values, its losses, and its best loss if it finished."""

    values: Mapping[str, Any]
    losses: Losses
    best: float | None


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("--trials needs Optuna: pip install 'catae[search]', or omit --trials") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(over: Mapping[str, Choice], earlier: Sequence[PastTrial], count: int, seed: int) -> list[dict[str, Any]]:
    """Propose the next trials with the tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for
    Hyper-Parameter Optimization").

    Args:
        over: the choices, by the name of the setting.
        earlier: the trials that have ended, in the order of their numbers. A failed one counts as the worst.
        count: how many to propose, to run in parallel.
        seed: determines the result, together with `earlier`.

    Returns:
        At most `count` untried combinations; fewer, or none, if there are no others.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(
        seed=rng.number(seed, f"search after {len(earlier)} runs") % 2**32, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    distributions = {name: _distribution(choice) for name, choice in over.items()}
    for trial in earlier:
        study.add_trial(_to_optuna(trial, distributions))
    tried, proposed = [dict(trial.values) for trial in earlier], list[dict[str, Any]]()
    for _ in range(MAX_DRAWS):
        values = study.ask(distributions).params
        if values not in (*tried, *proposed):
            proposed.append(values)
        if len(proposed) == count:
            break
    return proposed


def should_prune(losses: Losses, earlier: Sequence[PastTrial]) -> bool:
    """Return whether a trial's best loss is above the median of the finished trials' losses at the same epoch.

    This is the median stopping rule of Golovin et al. 2017, "Google Vizier" (section 3.2.2), with the median of the
    losses themselves, as in Optuna.
    """
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_EPOCHS + 1)
    study = optuna.create_study(pruner=pruner)
    for past in earlier:
        study.add_trial(_to_optuna(past, {}))
    trial = study.ask()
    for epoch, loss in losses.items():
        trial.report(loss, epoch)
    return trial.should_prune()


def prune_after_epoch(
    run: Run, earlier: Sequence[PastTrial], report: Callable[[Epoch, int], None]
) -> Callable[[Epoch, int], None]:
    """Return a function to call after each epoch of a trial; it calls `report`, and prunes the trial if it is behind.

    Raises:
        TrialPruned: now, by the epochs before an interruption, or later, by a further epoch.
    """
    losses = dict(monitored_losses(run))

    def check() -> None:
        if losses and should_prune(losses, earlier):
            last = max(losses)
            raise TrialPruned(f"pruned after epoch {last}: half of the earlier runs had a lower loss by then")

    def after_epoch(epoch: Epoch, max_epochs: int) -> None:
        report(epoch, max_epochs)
        losses.update(monitored_losses(run))
        check()

    check()
    return after_epoch


def monitored_losses(run: Run) -> Losses:
    """Return a run's logged losses on the validation images, or else on the test images; empty before epoch 1."""
    if not (run.events / tensorboard.SCALARS).is_dir():
        return {}
    scalars = tensorboard.read_scalars(run.events)
    return scalars.get("loss/validation", scalars.get("loss/test", {}))


def _distribution(choice: Choice) -> Any:
    """Return a choice as an Optuna distribution."""
    from optuna import distributions

    if not isinstance(choice, Range):
        return distributions.CategoricalDistribution(choice)
    if choice.is_integer:
        return distributions.IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log)


def _to_optuna(trial: PastTrial, distributions: Mapping[str, Any]) -> Any:
    """Return a past trial as Optuna's. Pruned and failed ones are pruned there: without losses they rank last."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.PRUNED if trial.best is None else TrialState.COMPLETE,
        value=trial.best,
        params={name: trial.values[name] for name in distributions},
        distributions=dict(distributions),
        intermediate_values=dict(trial.losses),
    )
