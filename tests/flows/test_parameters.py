"""The forms, as pydantic and Prefect validate them; test_deployments.py tests them on a server."""

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from catae.latent.interpolation import PATHS
from catae.settings import RESUME_SAFE, DataSettings, ModelSettings, OutputSettings, TrainingSettings, describe
from flows import parameters
from flows.generate import generate
from flows.interpolate import interpolate
from flows.sweep import catae_sweep
from flows.train import catae

FORMS = {"Data": DataSettings, "Model": ModelSettings, "Training": TrainingSettings, "Output": OutputSettings}


def forms(flow: Any) -> dict[str, dict[str, Any]]:
    """Return the forms of a flow as Prefect's UI gets them: the fields of each, by name."""
    return {name: form["properties"] for name, form in parameter_schema(flow).definitions.items()}


def test_every_setting_is_a_field_of_its_groups_form_without_a_default() -> None:
    shown = forms(catae)
    assert {name: list(form) for name, form in shown.items()} == {
        name: list(group.model_fields) for name, group in FORMS.items()
    }
    for form in shown.values():
        for name, field in form.items():
            assert describe(name).replace("`", "") in field["description"]
            assert f"CATAE_{name.upper()}" in field["description"]
            assert "default" not in field  # it would be fixed at deployment
            assert "anyOf" not in field  # the UI would show a choice of types


def test_interpolation_offers_every_path() -> None:
    assert parameter_schema(interpolate).properties["path"]["enum"] == list(PATHS)


def test_the_server_accepts_empty_forms() -> None:
    for flow in (catae, catae_sweep, generate, interpolate):
        schema = parameter_schema(flow)
        defaults = {name: parameter["default"] for name, parameter in schema.properties.items()}
        assert validate(defaults, schema.model_dump()) == []


def test_choices_are_enums_and_ranges_are_in_the_schema() -> None:
    shown = {name: field for form in forms(catae).values() for name, field in form.items()}
    assert shown["image_size"]["enum"] == [16, 32, 64, 128, 256]
    assert shown["init"]["enum"] == ["torch", "kaiming", "pca"]
    assert shown["device"]["enum"] == ["cpu"]
    assert (shown["latent_dim"]["minimum"], shown["latent_dim"]["maximum"]) == (1, 4096)
    assert (shown["lr_gamma"]["exclusiveMinimum"], shown["lr_gamma"]["maximum"]) == (0, 1)
    assert [len(form) for form in (*forms(generate).values(), *forms(interpolate).values())] == [3, 2]


def test_the_flow_receives_filled_fields_as_plain_values() -> None:
    validated = catae.validate_parameters(
        {"data": {"source": "cats.zip", "image_size": "32", "test_fraction": None}, "output": {}, "model": None}
    )
    assert validated == {"data": {"source": "cats.zip", "image_size": 32}, "model": {}, "training": {}, "output": {}}
    assert parameters.merge(*validated.values()) == {"source": "cats.zip", "image_size": 32}


def test_a_sweep_varies_every_hyperparameter_given_as_text() -> None:
    shown = forms(catae_sweep)
    assert set(shown) == {"Over", "Execution", *FORMS}
    assert set(shown["Over"]) == {name for form in FORMS for name in shown[form]} - RESUME_SAFE
    assert {field["type"] for field in shown["Over"].values()} == {"string"}
    validated = catae_sweep.validate_parameters({"over": {"seed": "0..4"}, "execution": {"workers": "3"}, "trials": 7})
    assert (validated["over"], validated["execution"], validated["trials"]) == ({"seed": "0..4"}, {"workers": 3}, 7)


def test_flags_are_sorted_into_the_forms() -> None:
    given = {"seed": "3", "source": "cats.zip", "samples": "4", "width": "8"}
    filled = parameters.to_forms(given)
    assert filled == {
        "data": {"source": "cats.zip"}, "model": {"width": "8"}, "training": {"seed": "3"}, "output": {"samples": "4"}
    }  # fmt: skip
    assert parameters.merge(*catae.validate_parameters(filled).values()) == {
        "source": "cats.zip", "width": 8, "seed": 3, "samples": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"data": {"image_size": 8}}, "data.image_size: Input should be greater than or equal to 16"),
        ({"training": {"learning_rate": "nan"}}, "training.learning_rate: Input should be a finite number"),
        ({"model": {"widht": 3}}, "model.widht: Extra inputs are not permitted"),
        ({"model": 3}, "model: Input should be a valid dictionary"),
    ],
)
def test_an_invalid_value_is_reported_with_its_field(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterTypeError, match=message):
        catae.validate_parameters(bad)
