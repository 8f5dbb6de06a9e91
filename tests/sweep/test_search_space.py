"""The flags of a sweep."""

from typing import Any

import pytest

from catae.errors import UserError
from catae.sweep import search_space
from catae.sweep.search_space import Range


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("latent_dim", "32,64, 128", [32, 64, 128]),
        ("latent_dim", "64", [64]),
        ("latent_dim", 64, [64]),
        ("latent_dim", "64,64", [64]),
        ("seed", "0..4", Range(0, 4)),
        ("seed", "4..4", [4]),
        ("learning_rate", "1e-4..0.01", Range(0.0001, 0.01)),
        ("image_size", "16..64", [16, 32, 64]),
        ("recipe", "spec,tuned", ["spec", "tuned"]),
        ("init", "torch,pca", ["torch", "pca"]),
        ("source", "../cats,old.zip", ["../cats,old.zip"]),
        ("interpolation_pair", "a.jpg,b.jpg", ["a.jpg,b.jpg"]),
    ],
)
def test_a_flag_is_one_value_several_or_a_range(name: str, text: Any, expected: Any) -> None:
    assert search_space.parse(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("seed", "4..0", "--seed is '4..0': a range starts at its lower end, like 0..4"),
        ("seed", "-1..4", "--seed is '-1': it must be greater than or equal to 0"),
        ("latent_dim", "32,,64", "--latent-dim is '': it must be a valid integer"),
        ("latent_dim", "32,many", "--latent-dim is 'many': it must be a valid integer"),
        ("init", "pca,zeros", "--init is 'zeros': it must be 'torch', 'kaiming' or 'pca'"),
        ("latnt_dim", "32", "'latnt_dim' is not a setting: did you mean latent_dim"),
    ],
)
def test_an_invalid_flag_is_one_line(name: str, text: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        search_space.parse(name, text)
    assert reason in str(error.value)


def test_only_ranges_of_whole_numbers_can_be_listed() -> None:
    assert list(search_space.list_values("seed", Range(0, 4))) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="a grid accepts ranges of whole numbers only"):
        search_space.list_values("learning_rate", Range(0.1, 0.5))


def test_a_range_of_a_decade_or_more_uses_a_log_scale() -> None:
    assert Range(0.0001, 0.01).log
    assert Range(16, 512).log
    assert not Range(0.3, 0.9).log
    assert not Range(0, 16).log
