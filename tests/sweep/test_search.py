"""The search: it learns from earlier trials, stays in range, and is repeatable."""

from typing import Any

import pytest

from catae.sweep import search
from catae.sweep.search import PastTrial
from catae.sweep.search_space import Choice, Range

pytest.importorskip("optuna", reason="pip install -e .[search]")

OVER: dict[str, Choice] = {"learning_rate": Range(0.0001, 0.1), "width": Range(4, 64), "init": ["torch", "pca"]}


def ended(values: dict[str, Any], *losses: float) -> PastTrial:
    """Return a finished trial with these losses."""
    return PastTrial(values, dict(enumerate(losses, 1)), min(losses))


def test_proposals_are_in_range_and_repeatable() -> None:
    first = search.propose(OVER, [], 8, seed=3)
    assert len(first) == 8
    for values in first:
        assert 0.0001 <= values["learning_rate"] <= 0.1
        assert isinstance(values["width"], int)
        assert 4 <= values["width"] <= 64
        assert values["init"] in ("torch", "pca")
    assert search.propose(OVER, [], 8, seed=3) == first
    assert search.propose(OVER, [], 8, seed=4) != first


def test_later_proposals_are_closer_to_the_best_earlier_ones() -> None:
    earlier: list[PastTrial] = []
    for _ in range(15):
        for values in search.propose({"shift": Range(0, 1000)}, earlier, 2, seed=0):
            earlier.append(ended(values, 0.1 + abs(values["shift"] - 700) / 1000))
    far = [abs(trial.values["shift"] - 700) for trial in earlier]
    assert sum(far[-10:]) / 10 < 0.5 * sum(far[:10]) / 10


def test_failed_trials_rank_last() -> None:
    earlier = [PastTrial({"shift": value}, {}, None) for value in range(500, 1000, 40)]
    earlier += [ended({"shift": value}, 0.1) for value in range(0, 500, 40)]
    proposed = search.propose({"shift": Range(0, 1000)}, earlier, 10, seed=0)
    assert sum(values["shift"] < 500 for values in proposed) >= 8


def test_nothing_is_tried_twice() -> None:
    few: dict[str, Choice] = {"width": [4, 8], "init": ["torch", "pca"]}
    first = search.propose(few, [], 3, seed=0)
    assert len({repr(values) for values in first}) == 3
    earlier = [ended(values, 0.1) for values in first]
    (last,) = search.propose(few, earlier, 3, seed=0)
    assert last not in first
    assert search.propose(few, [*earlier, ended(last, 0.1)], 3, seed=0) == []


GOOD = [ended({}, 0.5, 0.4, 0.3, 0.2, 0.1) for _ in range(4)]


def test_a_trial_is_pruned_when_its_best_loss_is_above_the_median() -> None:
    assert search.should_prune({1: 0.5, 2: 0.45, 3: 0.42, 4: 0.41}, GOOD)
    assert not search.should_prune({1: 0.9, 2: 0.5, 3: 0.2, 4: 0.15}, GOOD)
    assert not search.should_prune({1: 0.9, 2: 0.1, 3: 0.5, 4: 0.6}, GOOD)  # its best counts


def test_no_trial_is_pruned_in_its_first_epochs_or_among_few_trials() -> None:
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0}, GOOD)
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}, GOOD[:3])
    pruned = PastTrial({}, {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}, None)
    assert not search.should_prune({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}, [pruned] * 9)
