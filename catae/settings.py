"""Define every setting of the job once: its type, range, default and purpose.

Each setting is an environment variable with the prefix `CATAE_` and a flag of `catae sweep`. Settings of one run are
flags of `catae train` as well. Flags win over the environment, the environment over `.env`, `.env` over the recipe, and
the recipe over the defaults.
`make docs` generates docs/settings.md and `.env.example` from this file.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from catae.errors import UserError

PREFIX = "CATAE_"
ENV_FILE = Path(".env")

# What each recipe sets instead of the defaults below.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "spec": {},
    "tuned": {"activation": "crelu", "hflip": 0.5, "shift": 1, "affine": 0.5},
}


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


class DataSettings(BaseModel):
    """Which images, and how they are split."""

    source: str = Field(
        "drawn:2000",
        min_length=1,
        description="Source of the images: a folder, a `.zip` or `.tar*` archive, `drawn[:COUNT[:SEED]]` (synthetic "
        "cats), `kaggle:OWNER/NAME`, or `pets:cats` (the cat heads of the Oxford-IIIT Pet dataset).",
    )
    image_size: int = Field(
        64,
        ge=16,
        le=256,
        description="Height and width in pixels, a power of two. Other images are centre-cropped and resized.",
        json_schema_extra={"enum": [16, 32, 64, 128, 256]},
    )
    test_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Fraction of the distinct images held out for the test set.",
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction held out to decide when to stop. At 0 the test images decide.",
    )
    duplicates: Literal["group", "drop"] = Field(
        "group",
        description="Identical, flipped and near-identical images: `group` keeps all of them, on one side of the "
        "split; `drop` keeps one of each group.",
    )
    on_reject: Literal["skip", "fail"] = Field(
        "skip",
        description="Images that cannot be decoded, or whose format is not supported: `skip` reports them and "
        "continues; `fail` stops with an error. More than half is always an error.",
    )
    cache_gb: float = Field(
        20.0,
        gt=0,
        description="Maximum size of the image cache in GB. The least recently used sets are evicted first.",
    )

    @field_validator("image_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        # Every convolution of the encoder halves the image, down to 4x4.
        if value.bit_count() != 1:
            raise ValueError("must be a power of two")
        return value


class ModelSettings(BaseModel):
    """The shape of the autoencoder."""

    latent_dim: int = Field(128, ge=1, le=4096, description="Channels of the 1x1 latent.")
    width: int = Field(
        32, ge=1, le=512, description="Filters of the first convolution. Each further one has twice as many."
    )
    activation: Literal["crelu", "relu"] = Field(
        "relu",
        description="Activation after a convolution: `relu`, or `crelu`, the ReLU of the signal and of its negative.",
    )
    init: Literal["torch", "kaiming", "pca"] = Field(
        "pca",
        description="Initial weights: `pca` (principal components, layer by layer, so that the network starts "
        "linear), `kaiming` (He et al. 2015), or `torch` (PyTorch's default).",
    )


class TrainingSettings(BaseModel):
    """How the network is trained, and when training stops."""

    recipe: Literal["spec", "tuned"] = Field(
        "spec",
        description="Defaults of other settings: `spec` follows the specification to the letter; `tuned` is the best "
        f"known result with the same loss, optimizer and stopping rule, and sets {_words(RECIPES['tuned'])}.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the split, the initial weights, the image order and the samples."
    )
    batch_size: int = Field(64, ge=1, description="Images per optimizer step.")
    learning_rate: float = Field(0.001, gt=0, allow_inf_nan=False, description="Adam's initial learning rate.")
    lr_step_size: int = Field(10, ge=1, description="Epochs between two decays of the learning rate.")
    lr_gamma: float = Field(0.5, gt=0, le=1, description="Factor of each learning rate decay.")
    ema_decay: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, per step. The average is evaluated and "
        "kept. 0 disables it.",
    )
    hflip: float = Field(
        0.0, ge=0, le=1, description="Fraction of train images flipped left to right, chosen again in each epoch."
    )
    shift: int = Field(
        0, ge=0, le=16, description="Maximum random shift of each train image in pixels, chosen again in each epoch."
    )
    affine: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of train images rotated by up to 9 degrees and zoomed by up to 9 %, chosen again in each "
        "epoch.",
    )
    max_epochs: int = Field(100, ge=1, description="Maximum number of epochs.")
    patience: int = Field(3, ge=1, description="Epochs in a row without improvement after which training stops.")
    min_delta: float = Field(
        0.0003,
        ge=0,
        lt=1,
        description="Smallest improvement that counts, as a fraction of the best test loss.",
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, description="Minutes between two checkpoints within an epoch. Each epoch ends with one."
    )
    timeout_minutes: float = Field(
        0.0,
        ge=0,
        description="Maximum training time in minutes under Prefect; 0 means no limit. A run that times out can be "
        "resumed.",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="`auto` resumes the newest interrupted run with the same settings and images, or starts a new "
        "one; `never` starts a new run; a run's id resumes that run, or reports which settings changed.",
    )
    device: Literal["cpu"] = Field("cpu", description="Device to train on.", json_schema_extra={"enum": ["cpu"]})
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Arithmetic of training: `fp32`; `bf16` (bfloat16 with float32 weights); or `auto`, which selects "
        "bf16 where the CPU has instructions for it. Use `fp32` to compare results of different machines.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads to compute with; 0 uses what the machine and `OMP_NUM_THREADS` allow."
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes of `catae train` that train together. Each gets a share of every batch and of the "
        "threads. The result equals that of one process, up to rounding. `catae fit` uses those of `torchrun`.",
    )


class OutputSettings(BaseModel):
    """What is written, and where."""

    output_dir: Path = Field(
        Path("artifacts"),
        description="Folder for runs and the image cache; in a container, a mounted volume.",
    )
    samples: int = Field(64, ge=1, le=1024, description="Number of random images to generate.")
    prior: Literal["randn", "gaussian", "mixture", "neighbours"] = Field(
        "randn",
        description="Default prior of `catae generate`: N(0, I) (`randn`); a Gaussian or a mixture of Gaussians fitted "
        "to the train latents; or train latents moved towards one of their nearest `neighbours`.",
    )
    interpolation_steps: int = Field(50, ge=2, le=1000, description="Images of an interpolation, including both ends.")
    interpolation_pair: str = Field(
        "",
        description="Names of two test images to interpolate, separated by a comma. Empty selects two by seed.",
        json_schema_extra={"pattern": "^([^,]+,[^,]+)?$"},
    )

    tracking: Literal["none", "mlflow", "wandb"] = Field(
        "none",
        description="Experiment tracker to log to as well: `mlflow` or `wandb` (Weights & Biases), each an extra. "
        "Their own variables name the server (`MLFLOW_TRACKING_URI`, `WANDB_*`).",
    )

    @field_validator("interpolation_pair")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if value and len([name for name in value.split(",") if name.strip()]) != 2:
            raise ValueError("must be two names separated by a comma, like cats/1.jpg,cats/2.jpg")
        return value


class SweepSettings(BaseModel):
    """Where the runs of a sweep execute."""

    runner: Literal["process", "dask", "ray"] = Field(
        "process",
        description="Where the runs of `catae sweep` execute: processes of this machine (`process`), a Dask cluster "
        "(`dask`), or a Ray cluster (`ray`). The results are the same.",
    )
    runner_address: str = Field(
        "",
        description="Address of the cluster, like `tcp://10.0.0.5:8786` (Dask) or `ray://10.0.0.5:10001` (Ray). Empty "
        "starts one on this machine for the sweep. All machines of a cluster must see the same output_dir.",
    )
    workers: int = Field(
        2,
        ge=1,
        le=1024,
        description="Number of runs of a sweep at a time. Each gets its share of the CPUs, unless `threads` says "
        "otherwise. An existing cluster uses its own size.",
    )


# Settings that do not affect what is learned: an interrupted run can be resumed with other values of these.
RESUME_SAFE = frozenset(
    (
        "output_dir", "samples", "prior", "interpolation_steps", "interpolation_pair", "source", "on_reject",
        "cache_gb", "resume", "checkpoint_minutes", "timeout_minutes", "processes", "tracking",
        "runner", "runner_address", "workers",
    )
)  # fmt: skip

# Names of settings in earlier versions; an error names the new one.
RENAMED = {"mirror": "hflip", "averaging": "ema_decay"}
# Settings that no longer exist, and what happens instead.
PLAIN_ADAM = "training uses torch.optim.Adam with PyTorch's defaults"
REMOVED = {"amsgrad": PLAIN_ADAM, "weight_decay": PLAIN_ADAM}

RUN: tuple[type[BaseModel], ...] = (DataSettings, ModelSettings, TrainingSettings, OutputSettings)
GROUPS: tuple[type[BaseModel], ...] = (*RUN, SweepSettings)


class Settings(SweepSettings, OutputSettings, TrainingSettings, ModelSettings, DataSettings, BaseSettings):
    """All settings, frozen. Create it with `load`, which explains invalid values to the user."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add what the recipe sets to the values of all sources, which win over it."""
        return {**RECIPES.get(values.get("recipe", DEFAULT_RECIPE), {}), **values}


DEFAULT_RECIPE = str(Settings.model_fields["recipe"].default)


def defaults(recipe: str) -> dict[str, Any]:
    """Return the value of each setting that is not set, by name."""
    unset = {name: field.default for name, field in Settings.model_fields.items()}
    return {**unset, **RECIPES.get(recipe, {}), "recipe": recipe}


def default_in_words(name: str) -> str:
    """Return the default of a setting, and those of other recipes: '`relu`; `crelu` with recipe `tuned`'."""
    default = str(Settings.model_fields[name].default)
    others = [f"`{each[name]}` with recipe `{recipe}`" for recipe, each in RECIPES.items() if name in each]
    return "; ".join([f"`{default}`" if default else "", *others])


def hyperparameters(settings: Settings) -> dict[str, Any]:
    """Return the settings that determine what is learned, as plain values."""
    return {name: value for name, value in settings.model_dump(mode="json").items() if name not in RESUME_SAFE}


def describe(name: str) -> str:
    """Return the description of a setting, with its range."""
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
    """Resolve the settings.

    Args:
        given: values by name; they win over the environment, `.env` and the defaults. None counts as not given.
        flags: names of flags that differ from their setting's name, for error messages.

    Raises:
        UserError: a value is invalid, or a name is unknown; the message says which, and where it was set.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    for name in given:
        if name not in Settings.model_fields:
            raise UserError(f"{name!r} is not a setting{_nearest(name, list(Settings.model_fields))}")
    _refuse_unknown_variables()
    try:
        return Settings(**given)
    except ValidationError as error:
        came_from = origins(given)
        raise UserError("; ".join(_explain(detail, came_from, flags or {}) for detail in error.errors())) from error


def origins(given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return where each setting was set: 'given', 'environment', '.env', 'recipe' or 'default'."""
    passed = {name: value for name, value in (given or {}).items() if value is not None}
    environment = _named(os.environ)
    file = _named(_env_file())
    recipe = RECIPES.get((file | environment | passed).get("recipe", DEFAULT_RECIPE), {})

    def origin(name: str) -> str:
        places = {
            "given": name in passed,
            "environment": name in environment,
            ".env": name in file,
            "recipe": name in recipe,
            "default": True,
        }
        return next(place for place, holds in places.items() if holds)

    return {name: origin(name) for name in Settings.model_fields}


def _env_file() -> Mapping[str, str | None]:
    """Return the variables in `.env`, or none if the file is missing."""
    try:
        return dotenv_values(ENV_FILE, encoding="utf-8") if ENV_FILE.is_file() else {}
    except OSError as error:
        raise UserError(
            f"cannot read {ENV_FILE.resolve()}: {error.strerror}; fix its permissions, or move it"
        ) from error
    except ValueError as error:
        raise UserError(f"{ENV_FILE.resolve()} is not valid UTF-8: {error}; save it as UTF-8") from error


def _named(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the non-empty `CATAE_` variables by the name of their setting."""
    upper = {name.upper(): value for name, value in variables.items()}
    return {n.removeprefix(PREFIX).lower(): v for n, v in upper.items() if n.startswith(PREFIX) and v}


def _refuse_unknown_variables() -> None:
    """Raise for unknown variables: a misspelt one would otherwise be ignored."""
    for place, variables in ((".env", _env_file()), ("the environment", os.environ)):
        for name in _named(variables):
            if name not in Settings.model_fields:
                known = [PREFIX + known.upper() for known in Settings.model_fields]
                variable = PREFIX + name.upper()
                raise UserError(f"{variable}, in {place}, is not a setting{_nearest(variable, known)}")


def _nearest(name: str, known: list[str]) -> str:
    """Return a suggestion: what replaced an old setting, or else the most similar name."""
    bare = name.upper().removeprefix(PREFIX).lower()
    if bare in REMOVED:
        return f": it was removed; {REMOVED[bare]}"
    if new := RENAMED.get(bare):
        return f": it is now {new if name.islower() else PREFIX + new.upper()}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f": did you mean {near[0]}?" if near else ""


def _explain(detail: Any, came_from: Mapping[str, str], flags: Mapping[str, str]) -> str:
    """Return one line for one of pydantic's errors, in terms of flags and variables."""
    name = str(detail["loc"][0])
    place = {"given": flags.get(name, f"--{name.replace('_', '-')}"), "default": name}.get(
        came_from[name], f"{PREFIX}{name.upper()} (in {came_from[name]})"
    )
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message if message.startswith("must") else f"must be {message}"
    default = default_in_words(name).replace("`", "")
    return f"{place} is {detail['input']!r}: it {message}; the default is {default}"
