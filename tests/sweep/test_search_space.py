"""What the flags of a sweep may say."""

from typing import Any

import pytest

from catae.errors import UserError
from catae.sweep import search_space
from catae.sweep.search_space import Span


@pytest.mark.parametrize(
    ("name", "said", "meant"),
    [
        ("latent_dim", "32,64, 128", [32, 64, 128]),
        ("latent_dim", "64", [64]),
        ("latent_dim", 64, [64]),
        ("latent_dim", "64,64", [64]),
        ("seed", "0..4", Span(0, 4)),
        ("seed", "4..4", [4]),
        ("learning_rate", "1e-4..0.01", Span(0.0001, 0.01)),
        ("image_size", "16..64", [16, 32, 64]),
        ("amsgrad", "true,false", [True, False]),
        ("init", "torch,pca", ["torch", "pca"]),
        ("source", "../cats,old.zip", ["../cats,old.zip"]),
        ("interpolation_pair", "a.jpg,b.jpg", ["a.jpg,b.jpg"]),
    ],
)
def test_a_flag_is_one_value_or_several_or_a_range_and_a_path_is_a_path(name: str, said: Any, meant: Any) -> None:
    assert search_space.parse(name, said) == meant


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("seed", "4..0", "--seed is '4..0': a range goes from the lower end to the higher, like 0..4"),
        ("seed", "-1..4", "--seed is '-1': it must be greater than or equal to 0"),
        ("latent_dim", "32,,64", "--latent-dim is '': it must be a valid integer"),
        ("latent_dim", "32,many", "--latent-dim is 'many': it must be a valid integer"),
        ("init", "pca,zeros", "--init is 'zeros': it must be 'torch', 'kaiming' or 'pca'"),
        ("latnt_dim", "32", "'latnt_dim' is not a setting: did you mean latent_dim"),
    ],
)
def test_what_can_not_be_meant_is_one_line_with_the_flag(name: str, said: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        search_space.parse(name, said)
    assert why in str(error.value)


def test_every_value_of_a_range_of_whole_numbers_can_be_tried_and_not_of_real_ones() -> None:
    assert list(search_space.listed("seed", Span(0, 4))) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"--learning-rate is 0\.1\.\.0\.5: only whole numbers can all be tried"):
        search_space.listed("learning_rate", Span(0.1, 0.5))


def test_a_range_of_a_decade_or_more_is_searched_on_a_log_scale() -> None:
    assert Span(0.0001, 0.01).log
    assert Span(16, 512).log
    assert not Span(0.3, 0.9).log
    assert not Span(0, 16).log
