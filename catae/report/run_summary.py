"""A run in a few facts, as its files tell of it: how it stands, its settings, what training took, its scores."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from catae.errors import UserError
from catae.run import Run
from catae.system import files


class Setting(BaseModel):
    """A setting of a run, as in `settings.json`."""

    value: Any


class Training(BaseModel):
    """How a run's training ended: some of `run.json`."""

    epochs: int
    best_epoch: int
    best_loss: float
    monitor: str
    seconds: float
    precision: str


class Restorer(BaseModel):
    """How well something restores the test pictures."""

    l1: float
    psnr: float
    ssim: float


class Scores(BaseModel):
    """The scores of a run's model, and of PCA, on its test pictures."""

    pictures: int
    model: Restorer
    pca: Restorer


class Machine(BaseModel):
    """What a run was computed on."""

    cpu: str


class Parts(BaseModel):
    """The names of a run's test pictures, as in `split.json`."""

    test: list[str]


class Summary(BaseModel, frozen=True):
    """A run, as far as it has come.

    Attributes:
        data: the digest of its pictures, once they are read.
        test: the names of its test pictures, once they are chosen.
    """

    id: str
    folder: Path
    state: str
    error: str | None = None
    settings: dict[str, Any]
    machine: Machine
    data: str | None
    test: tuple[str, ...]
    training: Training | None = None
    scores: Scores | None = None


def read(of: Run) -> Summary:
    """A run's facts.

    Raises:
        UserError: a file is missing or damaged.
    """
    manifest = of.read()
    try:
        settings = TypeAdapter(dict[str, Setting]).validate_python(files.read_json(of.settings))
        test = Parts.model_validate(files.read_json(of.split)).test if of.split.exists() else []
        facts = {name: manifest.get(name) for name in ("error", "machine", "training", "scores")}
        return Summary(
            id=of.id,
            folder=of.path,
            state=of.state(),
            settings={name: setting.value for name, setting in settings.items()},
            data=manifest.get("digests", {}).get("data"),
            test=tuple(test),
            **facts,
        )
    except (ValidationError, AttributeError) as error:
        raise UserError(f"{of.path} doesn't hold what a run of this version does") from error
