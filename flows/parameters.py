"""The forms of the flows' parameters: the settings, in groups. Each field may be left empty.

The forms are made from `catae.settings`, the only place with names, descriptions and ranges. A field that is left empty
takes its value from the environment where the run starts: a default in the form would be fixed at deployment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetCoreSchemaHandler, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from catae import settings

Given = Mapping[str, Any]
EMPTY: Given = {}  # not None: the UI would send it for an empty form, and the server would refuse it


def _typed(name: str, field: FieldInfo) -> Any:
    """Return a field that accepts the values of a setting."""
    default = f", or {words}" if (words := settings.default_in_words(name)) else ""
    if_empty = f"If empty: {settings.PREFIX}{name.upper()} from the environment of the run{default}."
    annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
    return _optional(annotation, name, f"{settings.describe(name)} {if_empty}", extra)


def _text(name: str, field: FieldInfo) -> Any:
    """Return a field that accepts the text of a flag of `catae sweep`."""
    several = "One value, several separated by commas, or a range of numbers like 0..4."
    return _optional(str, name, f"{settings.describe(name)} {several}", {})


def _optional(annotation: Any, name: str, description: str, extra: Mapping[str, Any]) -> Any:
    """Return a field of a form, as pydantic's `create_model` takes it."""

    def schema(made: dict[str, Any]) -> None:
        del made["default"]
        made.update(extra)

    title = name.replace("_", " ").capitalize()
    return annotation, Field(None, title=title, description=description.replace("`", ""), json_schema_extra=schema)


@dataclass(frozen=True)
class Form:
    """Turn a parameter into a form: `Annotated[Given, Form("name", group)]`. The flow receives the filled fields.

    Attributes:
        name: of the form, as Prefect shows it.
        group: the settings whose fields it has.
        only: the names of these fields; all fields of the group if empty.
        field: makes a field of the form from a setting.
    """

    name: str
    group: type[BaseModel]
    only: tuple[str, ...] = ()
    field: Callable[[str, FieldInfo], Any] = _typed

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that pydantic, Prefect's server and its UI validate the parameter with."""
        fields = {
            name: self.field(name, self.group.model_fields[name]) for name in self.only or self.group.model_fields
        }
        form = create_model(self.name, __base__=_Form, __doc__=self.group.__doc__, **fields)
        return core_schema.no_info_after_validator_function(_filled_in, handler.generate_schema(form))


class _Form(BaseModel, extra="forbid"):
    @model_validator(mode="before")
    @classmethod
    def _empty_is_not_given(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if value is not None}
        return {} if values is None else values


def _filled_in(form: _Form) -> dict[str, Any]:
    return form.model_dump(mode="json", exclude_unset=True)


SWEPT = tuple(name for group in settings.RUN for name in group.model_fields if name not in settings.RESUME_SAFE)
EXECUTION = tuple(settings.SweepSettings.model_fields)

Data = Annotated[Given, Form("Data", settings.DataSettings)]
Model = Annotated[Given, Form("Model", settings.ModelSettings)]
Training = Annotated[Given, Form("Training", settings.TrainingSettings)]
Output = Annotated[Given, Form("Output", settings.OutputSettings)]
Over = Annotated[Given, Form("Over", settings.Settings, SWEPT, _text)]
Trials = Annotated[int, Field(ge=0, le=1000)]
Execution = Annotated[Given, Form("Execution", settings.SweepSettings)]
Samples = Annotated[Given, Form("Samples", settings.Settings, ("samples", "seed", "prior"))]
Steps = Annotated[Given, Form("Steps", settings.Settings, ("interpolation_steps", "seed"))]
PathShape = Literal["linear", "spherical"]  # the keys of `latent.interpolation.PATHS`
ImageFile = Annotated[str, Field(pattern=r"^(.*\.(png|gif))?$")]
AnimationFile = Annotated[str, Field(pattern=r"^(.*\.(png|gif|webp))?$")]


def merge(*forms: Given) -> dict[str, Any]:
    """Return the filled fields of all forms, by the name of the setting."""
    return {name: value for form in forms for name, value in form.items()}


def to_forms(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort settings by name into the forms of the flow's parameters."""
    groups = dict(zip(("data", "model", "training", "output"), settings.RUN, strict=True))
    return {
        parameter: {name: value for name, value in values.items() if name in group.model_fields}
        for parameter, group in groups.items()
    }
