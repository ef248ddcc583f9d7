"""Each criterion against an example worked by hand, and what holds for all of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.compress.prune import criteria
from flaxcomp.compress.prune.criteria import Evidence
from flaxcomp.compress.prune.select import NORMALIZATIONS
from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.criteria import criteria as listed

# Two channels made by two layers that a sum ties: of 2 and of 1 weights each.
FILTERS = (np.array([[3.0, -4.0], [1.0, 0.0]]), np.array([[12.0], [-2.0]]))
# Three images, two channels.
GRADIENTS = np.array([[1.0, -2.0], [-1.0, 0.0], [4.0, 2.0]])


def evidence(size: int = 2, **found: Any) -> Evidence:
    return Evidence(size=size, random=np.random.default_rng(0), **found)


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [
        ("l1", {"filters": FILTERS}, [3 + 4 + 12, 1 + 0 + 2]),
        ("l2", {"filters": FILTERS}, [13, np.sqrt(5)]),  # 9 + 16 + 144 = 169
        ("uniform", {"filters": FILTERS}, [13, np.sqrt(5)]),
        ("fpgm", {"filters": (np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]),)}, [5, 10, 5]),
        ("fpgm", {"filters": FILTERS}, [np.sqrt(4 + 16 + 196)] * 2),  # (2, -4, 14) apart
        ("batch_norm_scale", {"scales": (np.array([-0.5, 0.1]), np.array([0.25, -0.75]))}, [0.5, 0.75]),
        ("activation", {"activations": np.array([[1.0, 4.0], [3.0, 0.0]])}, [2, 2]),
        ("taylor", {"gradients": GRADIENTS}, [(1 + 1 + 4) / 3, (2 + 0 + 2) / 3]),
        ("fisher", {"gradients": GRADIENTS}, [(1 + 1 + 16) / 6, (4 + 0 + 4) / 6]),
    ],
)
def test_worked_by_hand(name: str, found: dict[str, Any], expected: list[float]) -> None:
    scores = criteria.load(name).score(evidence(len(expected), **found))
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_random_depends_on_its_seed_alone() -> None:
    score = criteria.load("random").score
    one, same, other = (score(Evidence(size=5, random=np.random.default_rng(seed))) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert ((one >= 0) & (one < 1)).all()


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "batch_norm_scale"])
def test_a_group_without_what_is_needed_stays(name: str) -> None:
    assert np.isinf(criteria.load(name).score(evidence(3))).all()


# What all criteria of weights, activations and gradients have in common.

_NUMBERS = st.integers(0, 2**32 - 1)
_GATHERED: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "filters": lambda rng, size: {"filters": (rng.normal(size=(size, 6)), rng.normal(size=(size, 3)))},
    "scales": lambda rng, size: {"scales": (rng.normal(size=size), rng.normal(size=size))},
    "activations": lambda rng, size: {"activations": rng.random((4, size))},
    "gradients": lambda rng, size: {"gradients": rng.normal(size=(4, size))},
}
_DEGREES = {"fisher": 2}  # with what power of the evidence a score grows
WITHOUT_CHANCE = [name for name in criteria.names() if criteria.load(name).NEEDS != "nothing"]


def _changed(found: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: tuple(map(change, value)) if isinstance(value, tuple) else change(value) for name, value in found.items()}


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
@given(seed=_NUMBERS, size=st.integers(1, 8), factor=st.floats(1e-3, 1e3))
def test_scores_follow_their_channels_and_scale(name: str, seed: int, size: int, factor: float) -> None:
    criterion, rng = criteria.load(name), np.random.default_rng(seed)
    found = _GATHERED[criterion.NEEDS](rng, size)
    order = rng.permutation(size)
    along = 1 if criterion.NEEDS in ("activations", "gradients") else 0
    scores = criterion.score(evidence(size, **found))
    moved = criterion.score(evidence(size, **_changed(found, lambda a: np.take(a, order, along))))
    np.testing.assert_allclose(moved, scores[order], rtol=1e-9, atol=1e-12)
    scaled = criterion.score(evidence(size, **_changed(found, lambda a: factor * a)))
    np.testing.assert_allclose(scaled, factor ** _DEGREES.get(name, 1) * scores, rtol=1e-9)
    assert (scores >= 0).all()


@pytest.mark.parametrize("name", criteria.names())
def test_every_criterion_says_what_it_is(name: str) -> None:
    criterion = criteria.load(name)
    assert criterion.NORMALIZE in NORMALIZATIONS
    assert (listed()[name].needs, listed()[name].normalize) == (criterion.NEEDS, criterion.NORMALIZE)
    assert listed()[name].by_layer == (getattr(criterion, "SCOPE", "") == "layer")
    assert (criterion.__doc__ or "").strip()
    assert criterion.score.__doc__


def test_the_published_criteria_are_there() -> None:
    wanted = {"random", "uniform", "l1", "l2", "activation", "taylor", "fisher", "batch_norm_scale", "fpgm"}
    assert wanted <= set(criteria.names()) == set(listed())


def test_an_unknown_criterion_is_named() -> None:
    with pytest.raises(UserError, match=r"no pruning criterion is called 'fischer'\. Did you mean 'fisher'"):
        criteria.load("fischer")
