"""From what is to be kept to a narrower model: rounding, overrides, refusals."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from pruning_nets import assert_close, logits, network_of, random_keep, random_scores, reduced

from flaxcomp.compress.prune.coupling import Coupling, couple
from flaxcomp.compress.prune.groups import Overrides
from flaxcomp.compress.prune.surgery import is_nested, masked, plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models import registry

RESNET = {"name": "resnet", "layout": "cifar", "depth": 8, "se": 4}
VGG = {"name": "vgg16", **registry.small("vgg16")}
HEADS = {"name": "googlenet", "layout": "cifar", "width_multiplier": 0.0625, "auxiliary": True}
CONDENSED = {"name": "condensenet", "depth": 8, "growth_rate": 4, "groups": 2, "form": "condensed"}
STANDARDISED = {"name": "tf_cifar", "widths": [8, 12, 24, 16], "norm": "none"}


def coupled(model: dict[str, Any], overrides: Overrides | None = None, shape: tuple[int, int, int] = (16, 16, 3)) -> Coupling:
    return couple(model, shape, 10, overrides or Overrides())


@functools.cache
def resnet() -> Coupling:
    return coupled(RESNET)


def first(coupling: Coupling, **counts: int) -> dict[str, Any]:
    """Keep so many first channels; names with two underscores for a slash."""
    return {name.replace("__", "/"): np.arange(count) for name, count in counts.items()}


def test_widths_count_what_is_kept() -> None:
    """Order of widths: stage 1, inside, stage 2, inside, stage 3, inside; shortcut A ties the first channels of all stages."""
    keep = first(resnet(), stem__conv=10, blocks__1__convolutions__1__conv=3, blocks__2__convolutions__0__conv=20)
    cut = plan(resnet(), keep)
    assert cut.model == {**RESNET, "widths": [10, 16, 13, 32, 45, 20]}
    assert cut.kept["blocks/0/se/squeeze"].size == 10 // 4
    assert cut.kept["blocks/1/se/squeeze"].size == 13 // 4


def test_the_best_squeeze_units_stay() -> None:
    scores = {"blocks/0/se/squeeze": np.array([0.1, 3, 2, 0])}
    cut = plan(resnet(), first(resnet(), stem__conv=8), scores)
    np.testing.assert_array_equal(cut.kept["blocks/0/se/squeeze"], [1, 2])


@pytest.mark.parametrize(
    ("model", "shape"), [(RESNET, (16, 16, 3)), (HEADS, (32, 32, 3)), (CONDENSED, (16, 16, 3)), (STANDARDISED, (24, 24, 3))]
)
def test_other_forms_of_the_zoo_are_exact(model: dict[str, Any], shape: tuple[int, int, int]) -> None:
    coupling = coupled(model, shape=shape)
    network = network_of(coupling)
    cut = plan(coupling, random_keep(coupling, 0), random_scores(coupling, 0))
    assert cut.model != model
    assert_close(logits(masked(network, cut), shape), logits(sliced(network, cut), shape))


def test_a_group_may_vanish_where_others_share_its_axes() -> None:
    """What stage 2 adds to stage 1 may go; both stages are as wide then."""
    coupling = resnet()
    cut = plan(coupling, {"blocks/1/convolutions/1/conv": np.zeros(16, bool)})
    assert cut.model["widths"] == [16, 16, 16, 32, 48, 64]
    network = network_of(coupling)
    assert_close(logits(masked(network, cut), (16, 16, 3)), logits(sliced(network, cut), (16, 16, 3)))


def test_a_layer_keeps_its_last_channel() -> None:
    with pytest.raises(UserError, match=r"group blocks/0/convolutions/0/conv: .* would lose its last channel; .* one of 16"):
        plan(resnet(), {"blocks/0/convolutions/0/conv": []})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"stem/conf": [0]}, r"no group of channels is called 'stem/conf'\. Did you mean 'stem/conv'\?"),
        ({"stem/conv": [3, 16]}, r"keep, stem/conv: channels are 0 to 15, got 3 to 16"),
        ({"stem/conv": [-1]}, r"keep, stem/conv: channels are 0 to 15, got -1 to -1"),
        ({"stem/conv": np.ones(4, bool)}, r"keep, stem/conv: it has 16 channels, got 4 booleans"),
        ({"logits": [0, 1]}, r"keep, logits: all its 10 channels must stay \(the logits\), got 2"),
    ],
)
def test_what_cannot_be_kept(keep: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(resnet(), keep)


def test_scores_of_another_length() -> None:
    with pytest.raises(UserError, match=r"scores, stem/conv: a number for each of its 16 channels, got shape \(3,\)"):
        plan(resnet(), {}, {"stem/conv": np.zeros(3)})


def test_without_an_option_for_widths() -> None:
    """The hidden layer of SimpLeNet's teacher is no entry of `widths`: it says so and stays."""
    coupling = coupled({"name": "simplenet_lm"}, shape=(28, 28, 1))
    with pytest.raises(UserError, match=r"all its 1024 channels must stay \(no entry of the model's widths counts them\)"):
        plan(coupling, {"hidden": np.arange(9)})


def test_round_to() -> None:
    coupling = coupled(VGG, Overrides(round_to=(("convolutions/*", 8), ("hidden/0", 5))), (32, 32, 3))
    keep = {name: np.arange(9) for name in ("convolutions/4", "convolutions/7", "hidden/0")}
    widths = plan(coupling, keep).model["widths"]
    assert (widths[4], widths[7], widths[13]) == (16, 16, 10)
    cut = plan(coupling, {"convolutions/4": np.arange(1, 32, 3)}, {"convolutions/4": np.arange(32.0)})
    np.testing.assert_array_equal(np.setdiff1d(cut.kept["convolutions/4"], np.arange(1, 32, 3)), [24, 26, 27, 29, 30])


def test_equal_count() -> None:
    coupling = coupled(VGG, Overrides(equal_count=(("convolutions/2", "convolutions/3"),)), (32, 32, 3))
    cut = plan(coupling, {"convolutions/2": [0, 5, 9], "convolutions/3": [1]})
    assert cut.model["widths"][2:4] == [3, 3]
    np.testing.assert_array_equal(cut.kept["convolutions/3"], [0, 1, 2])


def test_tie_cuts_both() -> None:
    pair = ("convolutions/2/kernel.3", "convolutions/3/kernel.3")
    coupling = coupled(VGG, Overrides(tie=(pair,)), (32, 32, 3))
    cut = plan(coupling, {"convolutions/2": [0, 5, 9]})
    assert cut.model["widths"][2:4] == [3, 3]
    network = network_of(coupling)
    assert_close(logits(masked(network, cut), (32, 32, 3)), logits(sliced(network, cut), (32, 32, 3)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["shufflenet_v1", "shufflenet_v2", "condensenet"])
def test_parts_of_equal_size(name: str, seed: int) -> None:
    """Splits, shuffles, groups, halves: whatever is asked for, an exact network comes out, not much wider."""
    model = reduced(name)
    coupling = couple(model, model["input_shape"], 10)
    keep = random_keep(coupling, seed, share=0.5)
    cut = plan(coupling, keep, random_scores(coupling, seed))
    network = network_of(coupling)
    assert_close(logits(masked(network, cut), coupling.input_shape), logits(sliced(network, cut), coupling.input_shape))
    counted = [group for group in coupling.free if group.widths]
    asked, got = (sum(np.sum(keep[g.name]) for g in counted), sum(cut.kept[g.name].size for g in counted))
    assert asked <= got < 1.25 * asked


def test_widths_are_what_the_models_check_takes() -> None:
    """CondenseNet's inputs must divide by its condensation factor, which the program does not show."""
    model = reduced("condensenet")
    coupling = couple(model, model["input_shape"], 10)
    assert plan(coupling, {"stem": np.arange(5)}).model["widths"][0] == 6


def test_kept_sets_are_nested() -> None:
    """The same scores and fewer channels: what stays is a part of what stayed, also where units are derived."""
    scores = random_scores(resnet(), 3)
    cuts = []
    for count in (3, 7, 12, 16):
        best = {g.name: np.argsort(-scores[g.name])[: max(1, g.size * count // 16)] for g in resnet().free}
        cuts.append(plan(resnet(), best, scores).kept)
    assert all(is_nested(less, more) for less, more in itertools.pairwise(cuts))
    assert not is_nested(cuts[1], cuts[0])


@pytest.mark.parametrize("name", ["resnet", "shufflenet_v1"])
def test_a_cut_network_is_cut_again(name: str) -> None:
    """A model that gives its own `widths` is a model like any other: each of them counts channels, and fewer can be kept."""
    model = reduced(name)
    cut = plan(couple(model, model["input_shape"], 10), random_keep(couple(model, model["input_shape"], 10), 0))
    again = couple(cut.model, model["input_shape"], 10)
    assert [entry.width for entry in again.entries] == cut.model["widths"]
    network = network_of(again)
    narrower = plan(again, random_keep(again, 1), random_scores(again, 1))
    assert sum(narrower.model["widths"]) < sum(cut.model["widths"])
    assert_close(logits(masked(network, narrower), again.input_shape), logits(sliced(network, narrower), again.input_shape))


DEPTHWISE = {"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 4}


def test_depthwise_layers_may_be_left_with_one_channel() -> None:
    """And are what they were when the narrow network is coupled anew."""
    coupling = coupled(DEPTHWISE, shape=(8, 8, 1))
    network = network_of(coupling)
    cut = plan(coupling, {"stem/conv": [5], "blocks/0/pointwise/conv": [2]})
    assert cut.model["widths"] == [1, 1, 8, 16]
    assert_close(logits(sliced(network, cut), (8, 8, 1)), logits(masked(network, cut), (8, 8, 1)))
    again = coupled(cut.model, shape=(8, 8, 1))
    assert [group.key for group in again.groups] == [group.key for group in coupling.groups]
    assert [entry.width for entry in again.entries] == [1, 1, 8, 16]


def test_grouped_convolutions_of_one_channel_each_are_not_depthwise_ones() -> None:
    """Coupled anew."""
    coupling = coupled({"name": "shufflenet_v1", **registry.small("shufflenet_v1")}, shape=(32, 32, 3))
    narrow = plan(coupling, {group.name: [0] for group in coupling.free if group.widths})
    again = coupled(narrow.model, shape=(32, 32, 3))
    assert again.grouped == coupling.grouped
    network, cut = network_of(again), plan(again, random_keep(again, 0))
    assert_close(logits(sliced(network, cut), (32, 32, 3)), logits(masked(network, cut), (32, 32, 3)))
