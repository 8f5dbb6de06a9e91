from pathlib import Path

import pytest
from pydantic import ValidationError

from catae import settings
from catae.errors import UserError


def test_what_is_given_wins_over_the_environment_the_environment_over_the_file_and_the_file_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("CATAE_SEED=1\nCATAE_WIDTH=1\nCATAE_PATIENCE=1\nPREFECT_API_URL=\n")
    monkeypatch.setenv("CATAE_SEED", "2")
    monkeypatch.setenv("CATAE_WIDTH", "2")

    resolved = settings.load({"seed": 3})
    came_from = settings.origins({"seed": 3})

    assert (resolved.seed, resolved.width, resolved.patience, resolved.batch_size) == (3, 2, 1, 64)
    assert {name: came_from[name] for name in ("seed", "width", "patience", "batch_size")} == {
        "seed": "given",
        "width": "environment",
        "patience": ".env",
        "batch_size": "default",
    }


def test_a_recipe_supplies_defaults_and_an_explicit_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().recipe == "spec"
    names = set(settings.RECIPES["tuned"])
    Path(".env").write_text("CATAE_RECIPE=tuned\n")
    monkeypatch.setenv("CATAE_SHIFT", "2")
    resolved, came_from = settings.load({"hflip": 0.0}), settings.origins({"hflip": 0.0})
    assert (resolved.recipe, resolved.activation, resolved.shift, resolved.hflip) == ("tuned", "crelu", 2, 0.0)
    assert {name for name, origin in came_from.items() if origin == "recipe"} == names - {"shift", "hflip"}
    monkeypatch.setenv("CATAE_RECIPE", "spec")  # wins over .env
    assert settings.load().activation == "relu"
    assert "recipe" not in settings.origins().values()
    monkeypatch.setenv("CATAE_RECIPE", "best")
    with pytest.raises(UserError, match=r"CATAE_RECIPE \(in environment\) is 'best': it must be 'spec' or 'tuned'"):
        settings.load()


def test_no_recipe_changes_what_the_specification_fixes() -> None:
    fixed = {
        "image_size", "test_fraction", "batch_size", "latent_dim", "learning_rate", "lr_step_size", "lr_gamma",
        "patience", "device",
    }  # fmt: skip
    for recipe in settings.RECIPES:
        assert not fixed & settings.RECIPES[recipe].keys()
        assert settings.load({"recipe": recipe}).model_dump() == settings.defaults(recipe)


@pytest.mark.parametrize("old", ["amsgrad", "weight_decay"])
def test_the_error_for_a_removed_setting_says_so(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    with pytest.raises(UserError, match=f"'{old}' is not a setting: it was removed; training uses torch.optim.Adam"):
        settings.load({old: "0"})
    monkeypatch.setenv(f"CATAE_{old.upper()}", "0")
    with pytest.raises(UserError, match=f"CATAE_{old.upper()}, in the environment, .*it was removed"):
        settings.load()


def test_the_defaults_are_those_of_the_specification() -> None:
    resolved = settings.load()
    assert resolved.model_dump() == resolved.model_dump() | {
        "image_size": 64,
        "test_fraction": 0.1,
        "batch_size": 64,
        "latent_dim": 128,
        "learning_rate": 0.001,
        "lr_step_size": 10,
        "lr_gamma": 0.5,
        "patience": 3,
        "min_delta": 0.0003,
        "interpolation_steps": 50,
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CATAE_BATCH_SIZE", "many", "CATAE_BATCH_SIZE (in environment) is 'many': it must be a valid integer"),
        ("CATAE_LEARNING_RATE", "nan", "must be a finite number"),
        ("CATAE_TEST_FRACTION", "1", "must be less than 1"),
        ("CATAE_IMAGE_SIZE", "60", "must be a power of two"),
        ("CATAE_INIT", "zeros", "must be 'torch', 'kaiming' or 'pca'"),
        ("CATAE_DEVICE", "cuda", "must be 'cpu'"),
        ("CATAE_INTERPOLATION_PAIR", "one", "must be two names"),
        ("CATAE_BATCHSIZE", "64", "is not a setting: did you mean CATAE_BATCH_SIZE?"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_it_must_be(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as error:
        settings.load()
    assert said in str(error.value)
    assert variable in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_variable_in_the_file_is_an_error_that_says_where() -> None:
    Path(".env").write_text("CATAE_SEEED=1\n")
    with pytest.raises(UserError, match=r"CATAE_SEEED, in \.env, is not a setting: did you mean CATAE_SEED\?"):
        settings.load()


@pytest.mark.parametrize(("old", "new"), [("mirror", "hflip"), ("averaging", "ema_decay")])
def test_the_error_for_a_renamed_setting_gives_the_new_name(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    with pytest.raises(UserError, match=f"'{old}' is not a setting: it is now {new}$"):
        settings.load({old: "0.5"})
    monkeypatch.setenv(f"CATAE_{old.upper()}", "0.5")
    with pytest.raises(UserError, match=f"CATAE_{old.upper()}, in the environment, .* now CATAE_{new.upper()}$"):
        settings.load()


def test_a_flag_that_is_wrong_is_named_as_a_flag() -> None:
    with pytest.raises(UserError, match="--max-epochs is 0"):
        settings.load({"max_epochs": 0})
    with pytest.raises(UserError, match="'max_epoch' is not a setting: did you mean max_epochs"):
        settings.load({"max_epoch": 1})


def test_empty_variables_and_flags_that_were_not_given_leave_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATAE_SEED", "")
    assert settings.load({"width": None}) == settings.Settings()
    assert settings.origins({"width": None})["seed"] == "default"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        settings.load().seed = 1


def test_a_hostile_env_file_is_told_and_runs_nothing() -> None:
    for content in (b"CATAE_SEED=\xff\xfe", b"\x00\x80" * 1000):
        Path(".env").write_bytes(content)
        with pytest.raises(UserError, match=r"\.env is not valid UTF-8"):
            settings.load()
    for content in (b"CATAE_SEED=$(touch pwned)", b"CATAE_SEED=`touch pwned`", b"export CATAE_SEED='1; touch pwned'"):
        Path(".env").write_bytes(content)
        with pytest.raises(UserError, match=r"CATAE_SEED \(in \.env\) is '.*touch pwned"):
            settings.load()
    Path(".env").write_bytes(b"=\n===\n\x00\n" + b"A" * 1_000_000 + b"\nCATAE_SEED=7\n")
    assert settings.load().seed in (0, 7)
    assert not Path("pwned").exists()
