"""Summarize a run from its files: state, settings, training and scores."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from catae.errors import UserError
from catae.run import Run
from catae.system import files


class SettingValue(BaseModel):
    """The value of a setting in `settings.json`."""

    value: Any


class TrainingSummary(BaseModel):
    """How a run's training ended, as in `run.json`."""

    epochs: int
    best_epoch: int
    best_loss: float
    monitor: str
    seconds: float
    precision: str


class ModelScores(BaseModel):
    """The reconstruction scores of the model, or of a baseline, on the test images."""

    l1: float
    psnr: float
    ssim: float


class ScoreSummary(BaseModel):
    """The scores of a run's model and of PCA, and the number of test images they are based on."""

    pictures: int
    model: ModelScores
    pca: ModelScores


class MachineSummary(BaseModel):
    """What a run was computed on."""

    cpu: str


class SplitSummary(BaseModel):
    """The names of a run's test images, as in `split.json`."""

    test: list[str]


class RunSummary(BaseModel, frozen=True):
    """A run, finished or not.

    Attributes:
        data: the digest of its images, once they are read.
        test: the names of its test images, once they are split.
    """

    id: str
    folder: Path
    state: str
    error: str | None = None
    settings: dict[str, Any]
    machine: MachineSummary
    data: str | None
    test: tuple[str, ...]
    training: TrainingSummary | None = None
    scores: ScoreSummary | None = None


def summarize_run(summarized: Run) -> RunSummary:
    """Read the summary of a run.

    Raises:
        UserError: a file is missing or damaged.
    """
    manifest = summarized.read()
    try:
        settings = TypeAdapter(dict[str, SettingValue]).validate_python(files.read_json(summarized.settings))
        split = summarized.split
        test = SplitSummary.model_validate(files.read_json(split)).test if split.exists() else []
        facts = {name: manifest.get(name) for name in ("error", "machine", "training", "scores")}
        return RunSummary(
            id=summarized.id,
            folder=summarized.path,
            state=summarized.state(),
            settings={name: setting.value for name, setting in settings.items()},
            data=manifest.get("digests", {}).get("data"),
            test=tuple(test),
            **facts,
        )
    except (ValidationError, AttributeError) as error:
        raise UserError(f"{summarized.path} is damaged, or another version of catae wrote it") from error
