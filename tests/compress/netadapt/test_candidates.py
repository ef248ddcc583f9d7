"""The fewest channels that save enough, worked by hand."""

import functools
from typing import Any

import numpy as np
import pytest

from flaxcomp.compress.cost_table import Table
from flaxcomp.compress.costs import Cost, make_cost
from flaxcomp.compress.netadapt.candidates import Candidate, Proposals
from flaxcomp.compress.prune.coupling import Coupling, couple
from flaxcomp.compress.prune.surgery import plan

MODEL: dict[str, Any] = {"name": "simplenet_v1"}
SHAPE = (8, 8, 1)


@functools.cache
def coupling() -> Coupling:
    """SimpLeNet-v1 at 8x8: 5x5x3, pool, 5x5x6, pool, dense 10. 64 x 25 x 3 = 4800, 16 x 25 x 3 x 6 = 7200, 4 x 6 x 10 = 240.

    A channel of the first layer is worth 1600 + 2400 = 4000, one of the second 1200 + 40 = 1240.
    """
    return couple(MODEL, SHAPE, 10)


def macs() -> Cost:
    return make_cost("macs", coupling())


def scores() -> dict[str, np.ndarray]:
    first, second = (group.name for group in coupling().free)
    return {first: np.array([0.2, 0.1, 0.3]), second: np.array([5.0, 1.0, 4.0, 0.0, 3.0, 2.0])}


def proposals(kept: dict[str, np.ndarray] | None = None) -> Proposals:
    return Proposals(coupling(), macs(), {**plan(coupling(), {}).kept, **(kept or {})}, scores())


def second(wanted: float, *, small: bool = False, kept: dict[str, np.ndarray] | None = None) -> Candidate | None:
    return proposals(kept).of(coupling().free[1], wanted, small=small)


@pytest.mark.parametrize(("wanted", "removed"), [(1, 1), (1240, 1), (1241, 2), (2480, 2), (3000, 3), (6200, 5)])
def test_the_fewest_channels_that_save_it(wanted: float, removed: int) -> None:
    candidate = second(wanted)
    assert candidate is not None
    assert (candidate.removed, candidate.saved, candidate.cost) == (removed, 1240 * removed, 12240 - 1240 * removed)
    assert candidate.cut.model == {**MODEL, "widths": [3, 6 - removed]}


def test_those_of_smallest_score_go() -> None:
    candidate = second(2000)
    assert candidate is not None
    assert candidate.cut.kept[candidate.group].tolist() == [0, 2, 4, 5]


def test_a_layer_that_cannot_save_it_has_no_candidate() -> None:
    assert second(6201) is None


def test_but_a_small_one_if_wanted() -> None:
    candidate = second(6201, small=True)
    assert candidate is not None
    assert (candidate.removed, candidate.saved) == (5, 6200)


def test_the_last_channel_stays() -> None:
    name = coupling().free[1].name
    assert second(1, kept={name: np.array([4], np.int32)}, small=True) is None


def test_what_is_left_of_other_layers_counts() -> None:
    """With one channel left in the first layer one of the second is worth 400 + 40."""
    first, name = (group.name for group in coupling().free)
    kept = {first: np.array([2], np.int32), name: np.array([0, 3, 5], np.int32)}
    candidate = second(441, kept=kept)
    assert candidate is not None
    assert (candidate.removed, candidate.saved) == (2, 880)
    assert candidate.cut.kept[name].tolist() == [0]
    assert candidate.cut.kept[first].tolist() == [2]


def test_a_staircase_is_climbed_to_its_edge() -> None:
    """A table where 6 and 5 channels cost the same, as 4 to 2 do: two must go to save anything, five to save more."""
    stairs = {3: 2.0, 6: 4.0, 1: 1.0, 2: 2.0, 4: 2.0, 5: 4.0}
    table = Table("t", {
        "conv 5x5/1 8x8x1 -> 8x8x3": 1.0,
        **{f"conv 5x5/1 4x4x3 -> 4x4x{n}": ms for n, ms in stairs.items()},
        **{f"dense {4 * n} -> 10": 0.0 for n in stairs},
    })  # fmt: skip
    latency = make_cost("latency", coupling(), table)
    offered = Proposals(coupling(), latency, plan(coupling(), {}).kept, scores())
    group = coupling().free[1]
    counts = {wanted: offered.of(group, wanted, small=False) for wanted in (0.5, 2.0, 2.5)}
    assert {wanted: None if each is None else each.removed for wanted, each in counts.items()} == {0.5: 2, 2.0: 2, 2.5: 5}
