"""Every setting of the job, once: its type, its range, its default, and why.

Each is an environment variable with the prefix `CATAE_` and a flag of `catae sweep`; those of one run are flags of
`catae train` as well. Flags win over the
environment, the environment over `.env`, `.env` over the defaults. The tables in README.md and `.env.example`
are made from this file: `make docs`.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from catae.errors import UserError

PREFIX = "CATAE_"
ENV_FILE = Path(".env")


class DataSettings(BaseModel):
    """Which pictures, and how they are divided."""

    source: str = Field(
        "drawn:2000",
        min_length=1,
        description="Where the pictures come from: a folder, a `.zip` or `.tar*` archive, `drawn[:COUNT[:SEED]]` (cat "
        "faces drawn by code), `kaggle:OWNER/NAME`, or `pets:cats` (the cats' heads of the Oxford-IIIT pets).",
    )
    image_size: int = Field(
        64,
        ge=16,
        le=256,
        description="Height and width in pixels, a power of two; other pictures are centre-cropped and resized to it.",
        json_schema_extra={"enum": [16, 32, 64, 128, 256]},
    )
    test_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the distinct pictures that is kept out of training, for the test.",
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share that is kept out of training to decide when to stop; at 0 the test pictures decide it.",
    )
    duplicates: Literal["group", "drop"] = Field(
        "group",
        description="Copies of a picture, identical, mirrored or nearly: `group` keeps them all, on the same side of "
        "the split; `drop` keeps one of each.",
    )
    on_reject: Literal["skip", "fail"] = Field(
        "skip",
        description="Files that can't be decoded: `skip` leaves them out and reports them; `fail` makes them an error. "
        "More than half of them are an error anyway.",
    )
    cache_gb: float = Field(
        20.0,
        gt=0,
        description="Decoded pictures are kept for later runs in at most so many GB; the ones that were used the "
        "longest ago go first.",
    )

    @field_validator("image_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        # Every convolution of the encoder halves the picture, down to 4x4.
        if value.bit_count() != 1:
            raise ValueError("must be a power of two")
        return value


class ModelSettings(BaseModel):
    """The shape of the autoencoder."""

    latent_dim: int = Field(128, ge=1, le=4096, description="Channels of the 1x1 code between the two halves.")
    width: int = Field(
        32, ge=1, le=512, description="Filters of the first convolution; each further one has twice as many."
    )
    activation: Literal["crelu", "relu"] = Field(
        "crelu",
        description="What follows a convolution: the ReLU of what it gives and that of its negative (`crelu`), or the "
        "former alone (`relu`).",
    )
    init: Literal["torch", "kaiming", "pca"] = Field(
        "pca",
        description="The weights that training starts from: principal components, layer by layer, which make the net "
        "linear at first (`pca`); He et al.'s for ReLU (`kaiming`); or PyTorch's default (`torch`).",
    )


class TrainingSettings(BaseModel):
    """How the weights are found, and when the search ends."""

    seed: int = Field(0, ge=0, lt=2**63, description="Decides the split, the first weights, the order and the samples.")
    batch_size: int = Field(64, ge=1, description="Pictures in a step of the optimizer.")
    learning_rate: float = Field(0.001, gt=0, allow_inf_nan=False, description="Adam's step size at the start.")
    amsgrad: bool = Field(
        True,
        description="Whether Adam's steps never grow longer because gradients have been small for a while (AMSGrad), "
        "which a net that is nearly linear can't stand.",
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        allow_inf_nan=False,
        description="At each step the weights shrink by this share of the learning rate, so that the net learns less "
        "by heart (decoupled weight decay).",
    )
    lr_step_size: int = Field(10, ge=1, description="Epochs after which the learning rate falls.")
    lr_gamma: float = Field(0.5, gt=0, le=1, description="What the learning rate is multiplied by when it falls.")
    averaging: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="What is evaluated and kept is a moving average of the weights; at each step it keeps this share "
        "of itself. Where the loss shoots up, training goes on from it. At 0 no average is taken.",
    )
    mirror: float = Field(
        0.5, ge=0, le=1, description="Share of the train pictures that is turned left to right, others in each epoch."
    )
    shift: int = Field(
        1, ge=0, le=16, description="Pixels by which each train picture is moved at most, elsewhere in each epoch."
    )
    max_epochs: int = Field(100, ge=1, description="Training ends after this many epochs at the latest.")
    patience: int = Field(
        3, ge=1, description="Training ends after this many epochs in a row that are no better than the best."
    )
    min_delta: float = Field(
        0.0003,
        ge=0,
        lt=1,
        description="An epoch is better only if its test loss is below the best by more than this share of it.",
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Within a long epoch the state is saved every so many minutes, besides at its end."
    )
    timeout_minutes: float = Field(
        0.0,
        ge=0,
        description="Under Prefect, training that takes longer than so many minutes is ended, and can be gone on with; "
        "0 lets it take as long as it will.",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="`auto` goes on with the newest run that was interrupted, if its settings and its pictures are the "
        "same, and starts a new one otherwise; `never` always starts a new one; a run's id goes on with that one, or "
        "says what has changed.",
    )
    device: Literal["cpu"] = Field(
        "cpu", description="Where the arithmetic is done.", json_schema_extra={"enum": ["cpu"]}
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Arithmetic of training: `fp32`; `bf16`, which is bfloat16 with float32 weights; or `auto`, which "
        "takes bf16 where the CPU has instructions for it. Results of different machines are compared in `fp32`.",
    )
    threads: int = Field(0, ge=0, le=1024, description="Threads for the arithmetic; 0 takes what the machine allows.")
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes of `catae train` that train together, each on its share of every batch, with its share "
        "of the threads. They learn what one does, to rounding. `catae fit` has those that `torchrun` starts.",
    )


class PictureSettings(BaseModel):
    """What is written, and where."""

    output_dir: Path = Field(
        Path("artifacts"),
        description="The folder for runs and decoded pictures: a mounted volume, in a container.",
    )
    samples: int = Field(64, ge=1, le=1024, description="How many random pictures to generate.")
    prior: Literal["randn", "gaussian", "mixture", "neighbours"] = Field(
        "randn",
        description="What `catae generate` draws latents from, if not told: N(0, I); a Gaussian, or a mixture of "
        "them, fitted to the train pictures' latents; or these latents, each moved towards one of its `neighbours`.",
    )
    interpolation_steps: int = Field(50, ge=2, le=1000, description="Pictures in a walk, both ends included.")
    interpolation_pair: str = Field(
        "",
        description="Names of two test pictures to walk between, with a comma between them; empty takes two by seed.",
        json_schema_extra={"pattern": "^([^,]+,[^,]+)?$"},
    )

    tracking: Literal["none", "mlflow", "wandb"] = Field(
        "none",
        description="Where the run is told as well: `mlflow` or `wandb` (Weights & Biases), each an extra; where their "
        "servers are, their own variables say (`MLFLOW_TRACKING_URI`, `WANDB_*`).",
    )

    @field_validator("interpolation_pair")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if value and len([name for name in value.split(",") if name.strip()]) != 2:
            raise ValueError("must be two names with a comma between them, like cats/1.jpg,cats/2.jpg")
        return value


class SweepSettings(BaseModel):
    """Where the runs of a sweep are done."""

    runner: Literal["process", "dask", "ray"] = Field(
        "process",
        description="What the runs of `catae sweep` are done by: processes of this machine (`process`), a Dask "
        "cluster (`dask`), or a Ray cluster (`ray`). The results are the same.",
    )
    runner_address: str = Field(
        "",
        description="The cluster's, like `tcp://10.0.0.5:8786` of Dask or `ray://10.0.0.5:10001` of Ray; empty starts "
        "one on this machine, for as long as the sweep lasts. All machines of a cluster must see the same output_dir.",
    )
    workers: int = Field(
        2,
        ge=1,
        le=1024,
        description="How many runs of a sweep there are at once. Each has its share of the CPUs that this process may "
        "use, unless `threads` says otherwise; of a cluster that was there before, its own size decides.",
    )


# Settings that don't change what is learned: with others, an interrupted run can be gone on with.
HARMLESS = frozenset(
    (
        "output_dir", "samples", "prior", "interpolation_steps", "interpolation_pair", "source", "on_reject",
        "cache_gb", "resume", "checkpoint_minutes", "timeout_minutes", "processes", "tracking",
        "runner", "runner_address", "workers",
    )
)  # fmt: skip

RUN: tuple[type[BaseModel], ...] = (DataSettings, ModelSettings, TrainingSettings, PictureSettings)  # of one run
GROUPS: tuple[type[BaseModel], ...] = (*RUN, SweepSettings)


class Settings(SweepSettings, PictureSettings, TrainingSettings, ModelSettings, DataSettings, BaseSettings):
    """All of the settings, frozen. Made with `load`, which speaks to the user of what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )


def decisive(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is learned, as plain values."""
    return {name: value for name, value in settings.model_dump(mode="json").items() if name not in HARMLESS}


def describe(name: str) -> str:
    """What a setting decides, and its range."""
    field = Settings.model_fields[name]
    signs = {"ge": "at least {:g}", "gt": "above {:g}", "le": "at most {:g}", "lt": "below {:g}"}
    limits = [
        text.format(getattr(limit, sign))
        for sign, text in signs.items()
        for limit in field.metadata
        if hasattr(limit, sign)
    ]
    return f"{field.description} {', '.join(limits).capitalize()}{'.' if limits else ''}".strip()


def load(given: Mapping[str, Any] | None = None, flags: Mapping[str, str] | None = None) -> Settings:
    """The settings as resolved.

    Args:
        given: by name, what wins over the environment, `.env` and the defaults; None is not given.
        flags: by name, the flags that were called otherwise than the setting, to speak of them as the user does.

    Raises:
        UserError: a value is out of its range, or a name is no setting; says which, and from where.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    for name in given:
        if name not in Settings.model_fields:
            raise UserError(f"{name!r} is no setting{_nearest(name, list(Settings.model_fields))}")
    _refuse_unknown_variables()
    try:
        return Settings(**given)
    except ValidationError as error:
        came_from = origins(given)
        raise UserError("; ".join(_explain(detail, came_from, flags or {}) for detail in error.errors())) from error


def origins(given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Where each setting's value comes from: 'given', 'environment', '.env' or 'default'."""
    said = {name for name, value in (given or {}).items() if value is not None}
    environment = _named(os.environ)
    file = _named(_env_file())

    def origin(name: str) -> str:
        places = {
            "given": name in said,
            "environment": name in environment,
            ".env": name in file,
            "default": True,
        }
        return next(place for place, holds in places.items() if holds)

    return {name: origin(name) for name in Settings.model_fields}


def _env_file() -> Mapping[str, str | None]:
    """What `.env` says; nothing if there is none."""
    try:
        return dotenv_values(ENV_FILE, encoding="utf-8") if ENV_FILE.is_file() else {}
    except OSError as error:
        raise UserError(
            f"{ENV_FILE.resolve()} can't be read: {error.strerror}; give the right to, or move it"
        ) from error
    except ValueError as error:
        raise UserError(f"{ENV_FILE.resolve()} is no text in UTF-8: {error}; write it anew") from error


def _named(variables: Mapping[str, str | None]) -> dict[str, str]:
    """The `CATAE_` variables that say something, by the name of the setting."""
    upper = {name.upper(): value for name, value in variables.items()}
    return {n.removeprefix(PREFIX).lower(): v for n, v in upper.items() if n.startswith(PREFIX) and v}


def _refuse_unknown_variables() -> None:
    """A misspelt variable would otherwise be a setting silently not made."""
    for place, variables in ((".env", _env_file()), ("the environment", os.environ)):
        for name in _named(variables):
            if name not in Settings.model_fields:
                known = [PREFIX + known.upper() for known in Settings.model_fields]
                variable = PREFIX + name.upper()
                raise UserError(f"{variable}, in {place}, is no setting{_nearest(variable, known)}")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f": did you mean {near[0]}?" if near else ""


def _explain(detail: Any, came_from: Mapping[str, str], flags: Mapping[str, str]) -> str:
    """One line of pydantic's findings, in the user's words."""
    name = str(detail["loc"][0])
    place = {"given": flags.get(name, f"--{name.replace('_', '-')}"), "default": name}.get(
        came_from[name], f"{PREFIX}{name.upper()} (in {came_from[name]})"
    )
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message if message.startswith("must") else f"must be {message}"
    return f"{place} is {detail['input']!r}: it {message}; the default is {Settings.model_fields[name].default!s}"
