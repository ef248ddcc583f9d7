"""From scores to what is kept: the smallest cut that is enough, of the whole narrower network's cost."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_nets import random_scores, reduced

from flaxcomp.compress.costs import make_cost, prunable
from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.select import NORMALIZATIONS, by_rank, normalised, per_saved, select
from flaxcomp.compress.prune.surgery import Cut, is_nested, plan
from flaxcomp.errors import UserError
from flaxcomp.models.counting import count


@functools.cache
def whole(name: str) -> Cut:
    model = {"name": "simplenet_v1", "input_shape": (8, 8, 1)} if name == "simplenet_v1" else reduced(name)
    return plan(couple(model, model["input_shape"], 10), {})


def chosen(name: str, scores: Any, of: str, ratio: float) -> Any:
    cost = make_cost(of, whole(name).coupling)
    return select(scores, cost, (1 - ratio) * cost.total(whole(name)), whole(name))


def test_the_least_go_and_their_number_is_what_the_ratio_asks_for() -> None:
    """SimpLeNet-v1 has 3 and 6 channels; 4 of 9 is the first number that is 0.4 at least."""
    scores = {"convolutions/0": np.array([5.0, 0.1, 6.0]), "convolutions/1": np.array([0.2, 9, 0.3, 8, 0.4, 7])}
    names = [group.name for group in whole("simplenet_v1").coupling.free]
    scores = dict(zip(names, scores.values(), strict=True))
    choice = chosen("simplenet_v1", scores, "channels", 0.4)
    assert [choice.cut.kept[name].tolist() for name in names] == [[0, 2], [1, 3, 5]]
    assert choice.cut.model["widths"] == [2, 3]
    assert (choice.threshold, choice.cost) == (0.4, 5)
    none = chosen("simplenet_v1", scores, "channels", 0.0)
    assert (none.threshold, none.cut.model) == (None, whole("simplenet_v1").coupling.model)


@pytest.mark.parametrize(
    ("name", "of"),
    [("simplenet_v1", "channels"), ("simplenet_v1", "params"), ("simplenet_v1", "macs"), ("resnet", "channels"),
     ("resnet", "macs"), ("shufflenet_v1", "params")],
)  # fmt: skip
def test_the_cut_is_enough_and_one_channel_less_would_not_be(name: str, of: str) -> None:
    """By the counts of networks that are built; widths of ShuffleNet are rounded up to its groups."""
    scores = random_scores(whole(name).coupling, 0)
    cost = make_cost(of, whole(name).coupling)
    bound = 0.45 * cost.total(whole(name))
    choice = select(scores, cost, bound, whole(name))
    counts = count(choice.cut.model, whole(name).coupling.input_shape, 10)
    real = {"params": counts.trainable_params, "macs": counts.macs, "channels": choice.cost}[of]
    assert choice.cost == real <= bound
    order = sorted((value, name, i) for name, values in scores.items() for i, value in enumerate(values))
    groups = {group.name for group in prunable(whole(name).coupling)}
    gone = {
        (group, i) for group in groups for i in np.setdiff1d(np.arange(len(scores[group])), choice.cut.kept[group]).tolist()
    }
    at_bound = next(entry for entry in order if entry[0] == choice.threshold)
    keep = {
        g: [i for i in range(len(v)) if v[i] >= at_bound[0] or i == int(np.argmax(v))] for g, v in scores.items() if g in groups
    }
    assert cost.total(plan(whole(name).coupling, keep, scores)) > bound
    assert max(scores[group][i] for group, i in gone) <= choice.threshold


def test_what_is_kept_is_nested_and_no_layer_loses_its_last() -> None:
    scores = random_scores(whole("resnet").coupling, 1)
    cuts = [chosen("resnet", scores, "channels", ratio).cut.kept for ratio in (0.9, 0.6, 0.3, 0.0)]
    assert all(is_nested(less, more) for less, more in itertools.pairwise(cuts))
    assert all(channels.size for cut in cuts for channels in cut.values())
    assert all(scores[group].argmax() in cuts[0][group] for group in scores if "squeeze" not in group)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), ratios=st.lists(st.floats(0, 0.8), min_size=2, max_size=3))
def test_larger_ratios_take_the_same_and_more(seed: int, ratios: list[float]) -> None:
    scores = {group.name: np.random.default_rng(seed).random(group.size) for group in whole("simplenet_v1").coupling.free}
    choices = [chosen("simplenet_v1", scores, "params", ratio) for ratio in sorted(ratios, reverse=True)]
    assert all(is_nested(less.cut.kept, more.cut.kept) for less, more in itertools.pairwise(choices))
    assert all(less.cost <= more.cost for less, more in itertools.pairwise(choices))


def test_later_steps_go_on_from_what_is_left() -> None:
    scores = random_scores(whole("resnet").coupling, 2)
    cost = make_cost("macs", whole("resnet").coupling)
    total = cost.total(whole("resnet"))
    first = select(scores, cost, 0.8 * total, whole("resnet"))
    upside_down = {name: -values for name, values in scores.items()}
    second = select(upside_down, cost, 0.5 * total, whole("resnet"), first.cut.kept)
    assert is_nested(second.cut.kept, first.cut.kept)
    assert second.cost <= 0.5 * total


def test_a_bound_that_no_network_reaches() -> None:
    scores = random_scores(whole("simplenet_v1").coupling, 0)
    with pytest.raises(UserError, match=r"the channels cannot fall to 1\.8: 2 are left where every layer keeps its last"):
        chosen("simplenet_v1", scores, "channels", 0.8)


def test_infinite_scores_stay() -> None:
    first, second = (group.name for group in whole("simplenet_v1").coupling.free)
    choice = chosen("simplenet_v1", {first: np.full(3, np.inf), second: np.arange(6.0)}, "channels", 0.5)
    assert (choice.cut.kept[first].size, choice.cut.kept[second].tolist()) == (3, [5])


@pytest.mark.parametrize(
    ("how", "expected"),
    [("none", [3, 4]), ("mean", [6 / 7, 8 / 7]), ("max", [0.75, 1]), ("l2", [0.6, 0.8])],
)
def test_normalisation(how: str, expected: list[float]) -> None:
    scores = {"a": np.array([3.0, 4.0]), "zero": np.zeros(2), "stays": np.full(2, np.inf)}
    result = normalised(scores, how)
    np.testing.assert_allclose(result["a"], expected)
    np.testing.assert_array_equal(result["zero"], [0, 0])
    assert np.isinf(result["stays"]).all()
    assert how in NORMALIZATIONS
    later = normalised({"a": np.array([0.0, 3.0, 0.0, 4.0])}, how, {"a": np.array([1, 3])})  # two have gone
    np.testing.assert_allclose(later["a"][[1, 3]], expected)


def test_scores_per_saved_cost() -> None:
    result = per_saved({"a": np.array([2.0, 4.0]), "free": np.array([1.0])}, {"a": 4.0, "free": 0.0}, whole=100.0)
    np.testing.assert_allclose(result["a"], [0.5, 1])
    assert result["free"][0] > 1e6  # what saves nothing goes last


def test_ranks_take_the_same_share_of_every_group() -> None:
    scores = {name: 10.0**i * values for i, (name, values) in enumerate(random_scores(whole("resnet").coupling, 3).items())}
    ranked = by_rank(scores)
    assert sorted(ranked["stem/conv"]) == [(i + 0.5) / 16 for i in range(16)]
    assert np.argmin(ranked["stem/conv"]) == np.argmin(scores["stem/conv"])
    kept = chosen("resnet", ranked, "channels", 0.5).cut.kept
    for group in prunable(whole("resnet").coupling):
        assert abs(kept[group.name].size - group.size / 2) <= 1
