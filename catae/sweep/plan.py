"""Plan a sweep: the settings that all runs share, and those in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from catae import settings
from catae.data import sources
from catae.errors import UserError
from catae.settings import Settings, hyperparameters
from catae.sweep import search, search_space
from catae.sweep.search_space import Choice
from catae.system import hardware

MAX_RUNS = 1000  # more are a typing error
# These decide which images a loss is computed on. A search compares losses, and would select the easy images.
IMAGE_SETTINGS = ("seed", "image_size", "test_fraction", "validation_fraction", "duplicates")


@dataclass(frozen=True)
class Plan:
    """What a sweep tries.

    Attributes:
        base: the settings that all runs share.
        origins: where each of them was set.
        over: the settings in which runs differ, and their values.
        max_trials: how many runs a search may try; 0 tries every combination.
    """

    base: Settings
    origins: Mapping[str, str]
    over: Mapping[str, Choice]
    max_trials: int

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything that determines the results.

        It does not depend on the runner. A search learns from the runs before, so that the number of parallel runs is
        part of its identity.
        """
        shared = {name: value for name, value in hyperparameters(self.base).items() if name not in self.over}
        return {
            "settings": shared | {"source": self.base.source},
            "over": {name: search_space.to_json(choice) for name, choice in self.over.items()},
            "trials": self.max_trials,
            "at_once": self.base.workers if self.max_trials else None,
        }

    def resolve(self, values: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
        """Return the settings of the run with these values, and where each was set."""
        if "recipe" not in values:
            return self.base.model_copy(update=dict(values)), dict(self.origins)
        unset = {name for name, origin in self.origins.items() if origin in ("recipe", "default")}
        recipe = settings.RECIPES[values["recipe"]]
        defaults = {name: value for name, value in settings.defaults(values["recipe"]).items() if name in unset}
        origins = {name: "recipe" if name in recipe else "default" for name in unset}
        return self.base.model_copy(update={**defaults, **values}), {**self.origins, **origins}


def plan_sweep(given: Mapping[str, Any], max_trials: int = 0) -> Plan:
    """Resolve the flags of a sweep.

    Args:
        given: a value, or the text of a flag, by the name of the setting; see `search_space.parse`.
        max_trials: how many runs a search may try; 0 tries every combination.

    Raises:
        UserError: a value is out of range, there is nothing to choose from, or there are too many combinations.
    """
    choices = {name: search_space.parse(name, value) for name, value in given.items() if value is not None}
    over = {name: choice for name, choice in choices.items() if not search_space.is_single(choice)}
    single = {name: search_space.list_values(name, choices[name])[0] for name in choices if name not in over}
    requested = settings.load(single)
    base = requested.model_copy(
        update={
            # A worker of a cluster runs in another directory, perhaps on another machine. Threads and precision
            # affect the bits, and must be the same everywhere.
            "source": sources.absolute(requested.source),
            "output_dir": requested.output_dir.expanduser().absolute(),
            "threads": requested.threads or max(1, hardware.usable_cpus() // requested.workers),
            "precision": hardware.precision(requested.precision)[0],
        }
    )
    if requested.resume not in ("auto", "never"):
        raise UserError(f"--resume is {requested.resume!r}: a sweep accepts auto, which resumes it, or never")
    changed = [
        name for name in Settings.model_fields if name in over or getattr(base, name) != getattr(requested, name)
    ]
    origins = settings.origins(given) | dict.fromkeys([*over, *changed], "sweep")
    if max_trials:
        _check_search(over, max_trials)
    else:
        _check_grid(over)
    return Plan(base, origins, over, max_trials)


def _check_grid(over: Mapping[str, Choice]) -> None:
    if not over:
        raise UserError("a sweep needs a setting with several values, like --latent-dim 32,64,128 or --seed 0..4")
    number = prod(len(search_space.list_values(name, choice)) for name, choice in over.items())
    if number > MAX_RUNS:
        raise UserError(f"the grid has {number:,} combinations, and the limit is {MAX_RUNS:,}; search with --trials")


def _check_search(over: Mapping[str, Choice], max_trials: int) -> None:
    if not 1 <= max_trials <= MAX_RUNS:
        raise UserError(f"--trials is {max_trials}: it must be from 1 to {MAX_RUNS:,}")
    if not over:
        raise UserError("a search needs a setting to choose, like --learning-rate 0.0001..0.01 or --width 16,32")
    for name in IMAGE_SETTINGS:
        if name in over:
            raise UserError(
                f"--trials compares losses on the same images, and {search_space.flag(name)} changes them: "
                "give it one value, or omit --trials"
            )
    search.require_optuna()
