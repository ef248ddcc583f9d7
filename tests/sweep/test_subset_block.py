"""The block `subset`: what it refuses, and what of it makes another trial."""

from typing import Any

import msgspec
import pytest

from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.subset import Subset, check, effective, numbers, removed_count

LABELS = ("airplane", "bird", "cat", "dog", "frog", "horse", "ship", "truck", "car", "deer")
FACTS = Facts(LABELS, {"name": "tf_cifar"}, images=1000)


def block(**options: Any) -> Subset:
    return msgspec.convert(options, Subset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["cat", "bort"]}, r"subset\.classes must be names or numbers .*'bort'\. Did you mean 'bird'|Known"),
        ({"classes": ["cat", 10]}, r"subset\.classes must be names, or numbers from 0 to 9, got 10"),
        ({"classes": ["cat", 2]}, r"subset\.classes must be different classes, got 'cat' twice"),
        ({"remove_fraction": 0.04}, r"subset\.remove_fraction must remove one class at least .* got 0\.04, which removes 0"),
        ({"remove_fraction": 0.96}, r"leave one of 10, got 0\.96, which removes 10"),
    ],
)
def test_impossible_classes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(block(**options), FACTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `classes` to keep or `remove_fraction`, got none"),
        ({"classes": ["cat"], "remove_fraction": 0.5}, "got both"),
        ({"classes": []}, "length >= 1"),
        ({"remove_fraction": 1.0}, "< 1"),
        ({"remove_fraction": 0.5, "max_accuracy_loss": 1.5}, "<= 1"),
        ({"remove_fraction": 0.5, "steps": 0}, ">= 1"),
        ({"remove_fraction": 0.5, "then": "scratch"}, "unknown field `then`"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        block(**options)


def test_what_changes_nothing_makes_no_other_trial() -> None:
    assert effective(block(remove_fraction=0)) is None
    assert effective(block(remove_fraction=0.5, class_seed=3)) == block(remove_fraction=0.5, class_seed=3)
    assert effective(block(classes=["dog", 3, "cat"], class_seed=3)) == block(classes=[3, "cat", "dog"])
    check(block(classes=list(range(10))), FACTS)  # all: a network reduced to what any of its classes needs


def test_names_and_numbers_are_the_same_classes() -> None:
    assert numbers(["dog", 0, "bird"], LABELS) == (0, 1, 3)
    digits = tuple("0123456789")
    assert numbers(["7", 2], digits) == (2, 7)


@pytest.mark.parametrize(("fraction", "gone"), [(0.1, 1), (0.3, 3), (0.25, 3), (0.7, 7), (0.8, 8)])
def test_shares_are_rounded_to_the_nearest(fraction: float, gone: int) -> None:
    assert removed_count(fraction, 10) == gone
