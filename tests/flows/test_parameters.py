"""The form, as pydantic and Prefect take it; what a server does with it is in test_deployments.py."""

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from catae.inference import interpolate as walks
from catae.settings import RESUME_SAFE, DataSettings, ModelSettings, OutputSettings, TrainingSettings, describe
from flows import parameters
from flows.generate import generate
from flows.interpolate import interpolate
from flows.sweep import catae_sweep
from flows.train import catae

FORMS = {"Data": DataSettings, "Model": ModelSettings, "Training": TrainingSettings, "Pictures": OutputSettings}


def forms(flow: Any) -> dict[str, dict[str, Any]]:
    """The forms of a flow as Prefect's UI gets them: for each, its fields by name."""
    return {name: form["properties"] for name, form in parameter_schema(flow).definitions.items()}


def test_every_setting_is_a_field_in_the_form_of_its_group_with_its_description_and_no_default() -> None:
    shown = forms(catae)
    assert {name: list(form) for name, form in shown.items()} == {
        name: list(group.model_fields) for name, group in FORMS.items()
    }
    for form in shown.values():
        for name, field in form.items():
            assert describe(name).replace("`", "") in field["description"]
            assert f"CATAE_{name.upper()}" in field["description"]
            assert "default" not in field  # it would be the one of the day of the deployment
            assert "anyOf" not in field  # which the UI shows as a choice of types


def test_a_walk_can_be_asked_for_on_every_way_that_there_is() -> None:
    assert parameter_schema(interpolate).properties["path"]["enum"] == list(walks.PATHS)


def test_a_form_that_is_left_empty_is_one_that_the_server_takes() -> None:
    for flow in (catae, catae_sweep, generate, interpolate):
        schema = parameter_schema(flow)
        left = {name: parameter["default"] for name, parameter in schema.properties.items()}
        assert validate(left, schema.model_dump()) == []


def test_choices_are_selects_and_ranges_are_told() -> None:
    shown = {name: field for form in forms(catae).values() for name, field in form.items()}
    assert shown["image_size"]["enum"] == [16, 32, 64, 128, 256]
    assert shown["init"]["enum"] == ["torch", "kaiming", "pca"]
    assert shown["device"]["enum"] == ["cpu"]
    assert (shown["latent_dim"]["minimum"], shown["latent_dim"]["maximum"]) == (1, 4096)
    assert (shown["lr_gamma"]["exclusiveMinimum"], shown["lr_gamma"]["maximum"]) == (0, 1)
    assert [len(form) for form in (*forms(generate).values(), *forms(interpolate).values())] == [3, 2]


def test_the_flow_gets_what_was_filled_in_as_plain_values() -> None:
    got = catae.validate_parameters(
        {"data": {"source": "cats.zip", "image_size": "32", "test_fraction": None}, "pictures": {}, "model": None}
    )
    assert got == {"data": {"source": "cats.zip", "image_size": 32}, "model": {}, "training": {}, "pictures": {}}
    assert parameters.given(*got.values()) == {"source": "cats.zip", "image_size": 32}


def test_a_sweep_is_asked_for_in_texts_of_which_each_setting_that_decides_what_is_learned_has_one() -> None:
    shown = forms(catae_sweep)
    assert set(shown) == {"Over", "Spread", *FORMS}
    assert set(shown["Over"]) == {name for form in FORMS for name in shown[form]} - RESUME_SAFE
    assert {field["type"] for field in shown["Over"].values()} == {"string"}
    got = catae_sweep.validate_parameters({"over": {"seed": "0..4"}, "spread": {"workers": "3"}, "trials": 7})
    assert (got["over"], got["spread"], got["trials"]) == ({"seed": "0..4"}, {"workers": 3}, 7)


def test_flags_are_sorted_into_the_forms() -> None:
    given = {"seed": "3", "source": "cats.zip", "samples": "4", "width": "8"}
    sorted_ = parameters.sorted_into_forms(given)
    assert sorted_ == {
        "data": {"source": "cats.zip"}, "model": {"width": "8"}, "training": {"seed": "3"}, "pictures": {"samples": "4"}
    }  # fmt: skip
    assert parameters.given(*catae.validate_parameters(sorted_).values()) == {
        "source": "cats.zip", "width": 8, "seed": 3, "samples": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"data": {"image_size": 8}}, "data.image_size: Input should be greater than or equal to 16"),
        ({"training": {"learning_rate": "nan"}}, "training.learning_rate: Input should be a finite number"),
        ({"model": {"widht": 3}}, "model.widht: Extra inputs are not permitted"),
        ({"model": 3}, "model: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterTypeError, match=said):
        catae.validate_parameters(bad)
