"""The form in which a run is asked for: settings, in their groups, each of which can be left empty.

It is made from `catae.settings`, where alone names, descriptions and ranges stand. What is left empty is decided
where and when the run starts, by its environment: a default in the form would be fixed when it is deployed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetCoreSchemaHandler, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from catae import settings

Given = Mapping[str, Any]
NOTHING: Given = {}  # and not None, which the UI would send for a form that is left empty, and the server refuse


def _typed(name: str, field: FieldInfo) -> Any:
    """A field that takes what the setting does."""
    default = f", or {field.default}" if str(field.default) else ""
    left_empty = f"Left empty: {settings.PREFIX}{name.upper()} of where the run starts{default}."
    annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
    return _optional(annotation, name, f"{settings.describe(name)} {left_empty}", extra)


def _text(name: str, field: FieldInfo) -> Any:
    """A field that takes what a flag of `catae sweep` says."""
    several = "One value, several with commas between them, or a range of numbers like 0..4."
    return _optional(str, name, f"{settings.describe(name)} {several}", {})


def _optional(annotation: Any, name: str, description: str, extra: Mapping[str, Any]) -> Any:
    """A field of a form as pydantic's `create_model` takes it."""

    def schema(made: dict[str, Any]) -> None:
        del made["default"]
        made.update(extra)

    title = name.replace("_", " ").capitalize()
    return annotation, Field(None, title=title, description=description.replace("`", ""), json_schema_extra=schema)


@dataclass(frozen=True)
class Form:
    """Makes a form of a parameter: `Annotated[Given, Form("name", group)]`. The flow gets what was filled in.

    Attributes:
        name: of the form, where Prefect shows it.
        group: whose fields it has.
        only: the names of those fields that it has; all, where there are none.
        field: makes a field of the form of a setting.
    """

    name: str
    group: type[BaseModel]
    only: tuple[str, ...] = ()
    field: Callable[[str, FieldInfo], Any] = _typed

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic checks a parameter by, and Prefect's server and its UI, which get it as a JSON schema."""
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
SPREAD = tuple(settings.SweepSettings.model_fields)

Data = Annotated[Given, Form("Data", settings.DataSettings)]
Model = Annotated[Given, Form("Model", settings.ModelSettings)]
Training = Annotated[Given, Form("Training", settings.TrainingSettings)]
Pictures = Annotated[Given, Form("Pictures", settings.OutputSettings)]
Over = Annotated[Given, Form("Over", settings.Settings, SWEPT, _text)]
Trials = Annotated[int, Field(ge=0, le=1000)]
Spread = Annotated[Given, Form("Spread", settings.SweepSettings)]
Samples = Annotated[Given, Form("Samples", settings.Settings, ("samples", "seed", "prior"))]
Walk = Annotated[Given, Form("Walk", settings.Settings, ("interpolation_steps", "seed"))]
Way = Literal["linear", "spherical"]  # the keys of `walks.PATHS`
PictureFile = Annotated[str, Field(pattern=r"^(.*\.(png|gif))?$")]
WalkFile = Annotated[str, Field(pattern=r"^(.*\.(png|gif|webp))?$")]


def given(*forms: Given) -> dict[str, Any]:
    """What was filled in, by the name of the setting."""
    return {name: value for form in forms for name, value in form.items()}


def sorted_into_forms(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by name, as the flow's parameters take them."""
    groups = dict(zip(("data", "model", "training", "pictures"), settings.RUN, strict=True))
    return {
        parameter: {name: value for name, value in values.items() if name in group.model_fields}
        for parameter, group in groups.items()
    }
