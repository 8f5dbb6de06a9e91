"""The form in which a run is asked for: settings, in their groups, each of which can be left empty.

It is made from `catae.settings`, where alone names, descriptions and ranges stand. What is left empty is decided
where and when the run starts, by its environment: a default in the form would be fixed when it is deployed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetCoreSchemaHandler, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from catae import settings

Given = Mapping[str, Any]
NOTHING: Given = {}  # and not None, which the UI would send for a form that is left empty, and the server refuse


@dataclass(frozen=True)
class Form:
    """Makes a form of a parameter: `Annotated[Given, Form("name", group)]`. The flow gets what was filled in.

    Attributes:
        name: of the form, where Prefect shows it.
        group: whose fields it has.
        only: the names of those fields that it has; all, where there are none.
    """

    name: str
    group: type[BaseModel]
    only: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic checks a parameter by, and Prefect's server and its UI, which get it as a JSON schema."""
        fields = {name: self.field(name) for name in self.only or self.group.model_fields}
        form = create_model(self.name, __base__=_Form, __doc__=self.group.__doc__, **fields)
        return core_schema.no_info_after_validator_function(_filled_in, handler.generate_schema(form))

    def field(self, name: str) -> Any:
        """A field as pydantic's `create_model` takes it."""
        return _optional(name, self.group.model_fields[name])


class _Form(BaseModel, extra="forbid"):
    @model_validator(mode="before")
    @classmethod
    def _empty_is_not_given(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if value is not None}
        return {} if values is None else values


def _optional(name: str, field: FieldInfo) -> Any:
    """A field of a form as pydantic's `create_model` takes it."""

    def schema(made: dict[str, Any]) -> None:
        del made["default"]
        made.update(field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {})

    variable, default = settings.PREFIX + name.upper(), f", or {field.default}" if str(field.default) else ""
    description = f"{settings.describe(name)} Left empty: {variable} of where the run starts{default}.".replace("`", "")
    title = name.replace("_", " ").capitalize()
    return (
        Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation,
        Field(None, title=title, description=description, json_schema_extra=schema),
    )


def _filled_in(form: _Form) -> dict[str, Any]:
    return form.model_dump(mode="json", exclude_unset=True)


@dataclass(frozen=True)
class Texts(Form):
    """Makes a form whose fields take what a flag of `catae sweep` says: a value, several, or a range."""

    def field(self, name: str) -> Any:
        """A text, whatever the setting is."""
        title, field = name.replace("_", " ").capitalize(), self.group.model_fields[name]
        description = f"{field.description} Several values with commas between them, or a range of numbers like 0..4."
        schema = {"examples": [f"{field.default}"]}
        return (str, Field(None, title=title, description=description.replace("`", ""), json_schema_extra=schema))


SWEPT = tuple(name for group in settings.RUN for name in group.model_fields if name not in settings.HARMLESS)
SPREAD = tuple(settings.SweepSettings.model_fields)

Data = Annotated[Given, Form("Data", settings.DataSettings)]
Model = Annotated[Given, Form("Model", settings.ModelSettings)]
Training = Annotated[Given, Form("Training", settings.TrainingSettings)]
Pictures = Annotated[Given, Form("Pictures", settings.PictureSettings)]
Over = Annotated[Given, Texts("Over", settings.Settings, SWEPT)]
Trials = Annotated[int, Field(ge=0, le=1000)]
Spread = Annotated[Given, Form("Spread", settings.SweepSettings)]
Samples = Annotated[Given, Form("Samples", settings.Settings, ("samples", "seed", "prior"))]
Walk = Annotated[Given, Form("Walk", settings.Settings, ("interpolation_steps", "seed"))]
PictureFile = Annotated[str, Field(pattern=r"^(.*\.(png|gif))?$")]


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
