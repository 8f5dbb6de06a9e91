"""Which settings to try next, and which runs to give up, by what earlier runs came to: with Optuna.

Both are functions of the earlier runs and the seed alone, and nothing is kept between two calls: so a search goes on
after it was killed as if nothing had happened, and is the same on every runner. The price is that runs at work at the
same time don't know of each other: they are chosen together, and judged by those before them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catae.errors import TrialPruned, UserError
from catae.run import Run
from catae.sweep.search_space import Choice, Span
from catae.system import rng
from catae.training import tensorboard
from catae.training.metrics import Epoch

UNJUDGED = 4  # runs that end by themselves before any is given up
WARMING_UP = 3  # epochs in which none is given up: the first ones say more of the first weights than of the settings
TRIES = 100  # to find combinations that have not been tried; where there are few, the search draws the same again

Losses = Mapping[int, float]  # of the pictures that decide, after each epoch


@dataclass(frozen=True)
class Trial:
    """An earlier run: what it was given, its losses, and its best one, if it came to an end."""

    values: Mapping[str, Any]
    losses: Losses
    best: float | None


def require() -> None:
    """Sees to it that Optuna is there.

    Raises:
        UserError: it is not.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("--trials needs Optuna: pip install 'catae[search]', or leave it out") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(over: Mapping[str, Choice], earlier: Sequence[Trial], count: int, seed: int) -> list[dict[str, Any]]:
    """What to try next, by the tree of Parzen estimators (Bergstra et al. 2011, "Algorithms for Hyper-Parameter
    Optimization").

    Args:
        over: the choices, by the name of the setting.
        earlier: the runs that have ended, in the order of their numbers. One that failed counts as the worst.
        count: how many to propose, to be tried at once.
        seed: decides, with `earlier`, what is proposed.

    Returns:
        At most `count` combinations that have not been tried; fewer, or none, if there are no others.
    """
    import optuna

    sampler = optuna.samplers.TPESampler(
        seed=rng.number(seed, f"search after {len(earlier)} runs") % 2**32, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    distributions = {name: _distribution(choice) for name, choice in over.items()}
    for trial in earlier:
        study.add_trial(_told(trial, distributions))
    tried, proposed = [dict(trial.values) for trial in earlier], list[dict[str, Any]]()
    for _ in range(TRIES):
        values = study.ask(distributions).params
        if values not in (*tried, *proposed):
            proposed.append(values)
        if len(proposed) == count:
            break
    return proposed


def should_prune(losses: Losses, earlier: Sequence[Trial]) -> bool:
    """Whether a run's best loss is above the median of what the earlier runs that ended by themselves had by then.

    So Golovin et al. 2017, "Google Vizier" (section 3.2.2), with the median of the losses themselves, as Optuna has it.
    """
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNJUDGED, n_warmup_steps=WARMING_UP + 1)
    study = optuna.create_study(pruner=pruner)
    for trial in earlier:
        study.add_trial(_told(trial, {}))
    asked = study.ask()
    for epoch, loss in losses.items():
        asked.report(loss, epoch)
    return asked.should_prune()


def watching(run: Run, earlier: Sequence[Trial], told: Callable[[Epoch, int], None]) -> Callable[[Epoch, int], None]:
    """What is to be called after each epoch of a run of a search; it passes the epoch on to `told`.

    Raises:
        TrialPruned: by the epochs before an interruption, as later by each further one: the run is to be given up.
    """
    losses = dict(judged(run))

    def judge() -> None:
        if losses and should_prune(losses, earlier):
            last = max(losses)
            raise TrialPruned(f"given up after epoch {last}: half of the earlier runs had a lower loss by then")

    def after_epoch(epoch: Epoch, max_epochs: int) -> None:
        told(epoch, max_epochs)
        losses.update(judged(run))
        judge()

    judge()
    return after_epoch


def judged(run: Run) -> Losses:
    """The losses that decide in a run, as its log has them: on the validation pictures, where it has some, or on the
    test pictures. A run that hasn't come to its first epoch has none."""
    if not (run.events / tensorboard.SCALARS).is_dir():
        return {}
    scalars = tensorboard.read_scalars(run.events)
    return scalars.get("loss/validation", scalars.get("loss/test", {}))


def _distribution(choice: Choice) -> Any:
    """A choice as Optuna has it."""
    from optuna import distributions

    if not isinstance(choice, Span):
        return distributions.CategoricalDistribution(choice)
    if choice.whole:
        return distributions.IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log)


def _told(trial: Trial, distributions: Mapping[str, Any]) -> Any:
    """An earlier run as Optuna has it. What was given up or failed is pruned: without losses it is the worst of all."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.PRUNED if trial.best is None else TrialState.COMPLETE,
        value=trial.best,
        params={name: trial.values[name] for name in distributions},
        distributions=dict(distributions),
        intermediate_values=dict(trial.losses),
    )
