"""What bitmaps take out of networks of several kinds: masked equals sliced, and what is tied goes together or not at all."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.subset.channels import Channels
from flaxcomp.compress.subset.search import Reduction
from flaxcomp.compress.subset.smaller import Smaller
from flaxcomp.compress.subset.subject import Subject, state_of
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.models.counting import count
from flaxcomp.sweep.spec import Dataset
from flaxcomp.train.restore import with_weights

CLASSES, BATCH = 5, 4
MODELS: list[tuple[dict[str, Any], int]] = [
    ({"name": "tf_mnist", "widths": [6, 8, 12]}, 8),
    ({"name": "tf_cifar", "widths": [6, 8, 12, 10]}, 12),
    ({"name": "tf_cifar", "widths": [6, 8, 12, 10], "norm": "none"}, 12),
    (registry.small("resnet"), 16),
    (registry.small("googlenet"), 16),
    (registry.small("densenet"), 16),
]
IDS = ["mnist", "cifar", "cifar-none", "resnet", "googlenet", "densenet"]


def whole(model: dict[str, Any], size: int) -> tuple[nnx.Module, DatasetInfo]:
    """A network in eval mode whose biases and statistics are not trivial, and a data set of its size."""
    shape = (size, size, 3)
    network = registry.build(model, shape, CLASSES, nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state: Any = nnx.state(network, (nnx.Param, nnx.BatchStat))
    nnx.update(network, jax.tree.map(lambda a: a + jnp.asarray(rng.uniform(0, 0.3, a.shape), a.dtype), state))
    network.eval()
    info = DatasetInfo("noise", CLASSES, shape, tuple("abcde"), BATCH, 1, (0.5,) * 3, (0.2,) * 3, "noise", "none")
    return network, info


def reduction(model: dict[str, Any], size: int, *, partial: bool = True) -> tuple[Reduction, DatasetInfo]:
    """Thresholds that take most positions of about a third of all channels, and some of the others."""
    network, info = whole(model, size)
    subject = Subject(network, Dataset(name="noise"), info, BATCH)
    rng = np.random.default_rng(1)
    heat = {}
    for output in subject.traced.outputs:
        strength = rng.permutation(np.linspace(0, 1, output.shape[-1])) ** 2 + 0.05
        heat[output.layer] = (rng.uniform(0.3, 1, output.shape) * strength).astype(np.float32)
    channels = Channels(couple(model, info.image_shape, CLASSES), subject.traced.outputs)
    thresholds = {layer: float(np.quantile(maps, 0.4)) for layer, maps in heat.items()}
    return Reduction(network, subject, channels, heat, partial, thresholds), info


def logits(subject: Subject, state: Any, masks: Any, info: DatasetInfo) -> np.ndarray:
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (BATCH, *info.image_shape)), jnp.uint8)
    return next(iter(subject.logits(state, masks, images, np.arange(BATCH, dtype=np.int32))))


@pytest.mark.parametrize(("model", "size"), MODELS, ids=IDS)
def test_masked_equals_sliced(model: dict[str, Any], size: int) -> None:
    before, info = reduction(model, size)
    after = Smaller.of(before)
    state, masks = before.carried_out(before.thresholds)
    # Channels that surgery had to keep, for a multiple or a tie, are masked at all positions: the same function.
    searched = logits(before.subject, state, masks, info)

    carried = after.model
    built = with_weights(abstract(carried, info.image_shape, CLASSES), after.weights)
    built.eval()
    leaving = logits(Subject(built, Dataset(name="noise"), info, BATCH), state_of(built), {}, info)
    np.testing.assert_allclose(leaving, searched, atol=1e-5 * max(1, np.abs(searched).max()))
    intact = logits(before.subject, state_of(before.network), before.subject.no_masks(), info)
    assert np.abs(searched - intact).max() > 1e-3 * np.abs(intact).max()

    sizes = count(after.cut.model, info.image_shape, CLASSES)
    assert sizes.trainable_params < count(model, info.image_shape, CLASSES).trainable_params
    assert after.masks


@pytest.mark.parametrize(("model", "size"), MODELS[:2], ids=IDS[:2])
def test_without_bitmaps_only_channels_go(model: dict[str, Any], size: int) -> None:
    before, info = reduction(model, size, partial=False)
    after = Smaller.of(before)
    state, masks = before.carried_out(before.thresholds)
    assert all(mask.all() for mask in masks.values())
    assert after.model == after.cut.model
    assert sum(removed.part for removed in after.removed.values()) == 0
    left = Subject(after.network, Dataset(name="noise"), info, BATCH)
    searched = logits(before.subject, state, masks, info)
    np.testing.assert_allclose(logits(left, state_of(after.network), left.no_masks(), info), searched, atol=1e-4)


def test_normalisation_over_neighbours_holds_channels() -> None:
    """Local response normalisation sees a channel's neighbours: none may go, so those that nobody needs are masked."""
    after = Smaller.of(reduction(*MODELS[1])[0])
    assert [after.removed[layer].whole for layer in ("conv1", "conv2")] == [0, 0]
    assert after.removed["local3"].whole > 0
    assert after.held > 0
    whole_only, _ = reduction(*MODELS[1], partial=False)
    assert [whole_only.candidates(layer).size for layer in whole_only.heat] == [1, 1, 12, 10]
    free = Smaller.of(reduction(*MODELS[2])[0])
    assert all(free.removed[layer].whole > 0 for layer in ("conv1", "conv2", "local3"))
    assert free.held == 0


def test_a_channel_tied_by_a_skip_goes_when_no_layer_of_the_sum_needs_it() -> None:
    before, _ = reduction(*MODELS[3])
    group = next(group for group in before.channels.coupling.free if group.name == "stem/conv")
    tied = {axis.leaf.removesuffix("/kernel"): ids.ravel() for axis, ids in group.members.items() if axis.role == "out"}
    assert len(tied) > 1
    before.heat = {layer: np.ones_like(maps) for layer, maps in before.heat.items()}
    for layer, ids in tied.items():
        before.heat[layer][..., ids[0]] = 0
        before.heat[layer][..., ids[1]] = layer == "stem/conv"
    before.thresholds = dict.fromkeys(tied, 0.5)
    after = Smaller.of(before)
    assert [after.removed[layer].whole for layer in tied] == [1] * len(tied)
    assert after.held == len(tied) - 1  # nothing is needed of the second channel but in the stem
    areas = {layer: before.heat[layer][..., 0].size for layer in tied}
    assert {layer: after.removed[layer].part for layer in tied} == {**areas, "stem/conv": 0}


def test_a_group_never_loses_its_last_channel() -> None:
    before, _ = reduction(*MODELS[0])
    before.heat = {layer: np.where(maps == maps.max(), maps, 0) for layer, maps in before.heat.items()}
    before.thresholds = {layer: float(maps.max()) for layer, maps in before.heat.items()}
    after = Smaller.of(before)
    assert after.cut.model["widths"] == [1, 1, 1]
    assert [removed.part for removed in after.removed.values()] == [63, 15, 0]
