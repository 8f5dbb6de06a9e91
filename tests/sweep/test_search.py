"""What the search promises: it learns from earlier runs, keeps to what is asked for, and can be asked again."""

from typing import Any

import pytest

from catae.sweep import search
from catae.sweep.search import Trial
from catae.sweep.search_space import Choice, Span

pytest.importorskip("optuna", reason="pip install -e .[search]")

OVER: dict[str, Choice] = {"learning_rate": Span(0.0001, 0.1), "width": Span(4, 64), "init": ["torch", "pca"]}


def ended(values: dict[str, Any], *losses: float) -> Trial:
    """A run that came to its end with these losses."""
    return Trial(values, dict(enumerate(losses, 1)), min(losses))


def test_what_is_proposed_is_what_was_asked_for_and_the_same_whenever_it_is_asked() -> None:
    first = search.propose(OVER, [], 8, seed=3)
    assert len(first) == 8
    for values in first:
        assert 0.0001 <= values["learning_rate"] <= 0.1
        assert isinstance(values["width"], int)
        assert 4 <= values["width"] <= 64
        assert values["init"] in ("torch", "pca")
    assert search.propose(OVER, [], 8, seed=3) == first
    assert search.propose(OVER, [], 8, seed=4) != first


def test_later_proposals_are_nearer_to_the_best_of_the_earlier_ones() -> None:
    earlier: list[Trial] = []
    for _ in range(15):
        for values in search.propose({"shift": Span(0, 1000)}, earlier, 2, seed=0):
            earlier.append(ended(values, 0.1 + abs(values["shift"] - 700) / 1000))
    far = [abs(trial.values["shift"] - 700) for trial in earlier]
    assert sum(far[-10:]) / 10 < 0.5 * sum(far[:10]) / 10


def test_runs_that_failed_count_as_the_worst() -> None:
    earlier = [Trial({"shift": value}, {}, None) for value in range(500, 1000, 40)]
    earlier += [ended({"shift": value}, 0.1) for value in range(0, 500, 40)]
    proposed = search.propose({"shift": Span(0, 1000)}, earlier, 10, seed=0)
    assert sum(values["shift"] < 500 for values in proposed) >= 8


def test_nothing_is_tried_twice_and_the_search_is_over_when_all_has_been_tried() -> None:
    few: dict[str, Choice] = {"width": [4, 8], "init": ["torch", "pca"]}
    first = search.propose(few, [], 3, seed=0)
    assert len({repr(values) for values in first}) == 3
    earlier = [ended(values, 0.1) for values in first]
    (last,) = search.propose(few, earlier, 3, seed=0)
    assert last not in first
    assert search.propose(few, [*earlier, ended(last, 0.1)], 3, seed=0) == []


GOOD = [ended({}, 0.5, 0.4, 0.3, 0.2, 0.1) for _ in range(4)]


def test_a_run_is_given_up_when_its_best_loss_is_above_the_median_of_the_earlier_ones() -> None:
    assert search.should_prune({1: 0.5, 2: 0.45, 3: 0.42, 4: 0.41}, GOOD)
    assert not search.should_prune({1: 0.9, 2: 0.5, 3: 0.2, 4: 0.15}, GOOD)
    assert not search.should_prune({1: 0.9, 2: 0.1, 3: 0.5, 4: 0.6}, GOOD)  # its best counts


def test_a_run_is_not_given_up_in_its_first_epochs_nor_while_few_runs_have_ended() -> None:
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0}, GOOD)
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}, GOOD[:3])
    given_up = Trial({}, {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}, None)
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}, [given_up] * 9)
