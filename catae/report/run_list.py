"""List the runs in an output folder: `catae runs`."""

import logging
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from catae import settings
from catae.data import sources
from catae.errors import UserError
from catae.report import tables
from catae.report.run_summary import RunSummary, summarize_run
from catae.report.tables import NONE, Table
from catae.run import Run
from catae.settings import RESUME_SAFE
from catae.system.text import count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedRun:
    """One line of the list.

    Attributes:
        source: what it was trained on.
        recipe: its defaults; empty for a run of an earlier version, which has none.
        settings: the hyperparameters that differ from the recipe's defaults.
        epochs: trained so far; None before training ends.
        l1: of the test images' reconstructions, pixels in [-1, 1]; None before they are scored.
        pca_l1: the same of PCA with as many components as the latent has channels.
        images: the number of test images that both are based on.
        seconds: of training.
    """

    id: str
    state: str
    source: str
    recipe: str
    settings: dict[str, Any]
    epochs: int | None
    l1: float | None
    pca_l1: float | None
    images: int | None
    seconds: float | None


def list_runs(output_dir: Path) -> list[ListedRun]:
    """Return the runs in `output_dir`, newest first. A damaged one is logged and left out."""
    listed = []
    for path in sorted((output_dir / "runs").glob("*/run.json"), reverse=True):
        try:
            listed.append(_line(summarize_run(Run(path.parent))))
        except UserError as error:
            logger.warning("%s; it is left out", error)
    return listed


def _line(run: RunSummary) -> ListedRun:
    recipe = run.settings.get("recipe", "")
    defaults = settings.defaults(recipe)
    changed = {
        name: value
        for name, value in run.settings.items()
        if name in defaults and name not in RESUME_SAFE and value != defaults[name]
    }
    return ListedRun(
        id=run.id,
        state=run.state,
        source=sources.label(run.settings["source"]),
        recipe=recipe,
        settings=changed,
        epochs=run.training.epochs if run.training else None,
        l1=run.scores.model.l1 if run.scores else None,
        pca_l1=run.scores.pca.l1 if run.scores else None,
        images=run.scores.pictures if run.scores else None,
        seconds=run.training.seconds if run.training else None,
    )


def run_table(runs: list[ListedRun]) -> Table:
    """Return the runs as a table."""
    scores = ("epochs", "test L1", "PCA", "images", "time")
    return Table(
        title="Runs",
        columns=(
            *map(tables.column, ("run", "state", "source, recipe and settings")),
            *(tables.column(name, numeric=True) for name in scores),
        ),
        rows=tuple(
            tables.row(
                run.id,
                run.state,
                ", ".join(filter(None, [run.source, run.recipe, *(f"{k} {v}" for k, v in run.settings.items())])),
                NONE if run.epochs is None else str(run.epochs),
                NONE if run.l1 is None else f"{run.l1:.4f}",
                NONE if run.pca_l1 is None else f"{run.pca_l1:.4f}",
                NONE if run.images is None else f"{run.images:,}",
                NONE if run.seconds is None else str(timedelta(seconds=round(run.seconds))),
            )
            for run in runs
        ),
        note=f"{count(len(runs), 'run')}. L1 of pixels in [-1, 1] on so many test images, next to PCA's.",
    )


def to_json(runs: list[ListedRun]) -> list[dict[str, Any]]:
    """Return the runs as JSON values."""
    return [asdict(run) for run in runs]
