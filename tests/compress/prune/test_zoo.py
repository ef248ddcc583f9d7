"""Every architecture of the zoo, in its small form: what is cut off equals what is set to zero."""

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from pruning_nets import assert_close, logits, network_of, random_keep, random_scores, reduced

from flaxcomp.compress.prune.coupling import Coupling, couple, evaluated
from flaxcomp.compress.prune.follow import INPUT, LOGITS, leaves_of
from flaxcomp.compress.prune.groups import FIXED
from flaxcomp.compress.prune.surgery import Cut, masked, plan, sliced
from flaxcomp.models import registry
from flaxcomp.models.counting import count

NAMES = registry.names()
NEIGHBOURS = "reduce_window_sum mixes neighbouring channels"  # local response normalisation
# Groups that stay, but for those of the input and the logits. Everything else of the zoo can be cut exactly.
FROZEN = {"tf_cifar": {"conv1": NEIGHBOURS, "conv2": NEIGHBOURS}, "simplenet_lm": {"hidden": FIXED}}
ROUNDED = {"condensenet", "nasnet_a", "shufflenet_v1", "shufflenet_v2", "simplenet_v4", "simplenet_v5"}  # parts of equal size


@functools.cache
def coupled(name: str) -> Coupling:
    model = reduced(name)
    return couple(model, model["input_shape"], model["num_classes"])


@functools.cache
def cut_of(name: str) -> Cut:
    coupling = coupled(name)
    return plan(coupling, random_keep(coupling, seed=len(name)), random_scores(coupling, seed=1))


@functools.cache
def network(name: str) -> Any:
    return network_of(coupled(name))


def program(network: nnx.Module, shape: tuple[int, int, int]) -> str:
    """What the network computes, shapes included."""
    graph, state = nnx.split(network)
    return str(
        jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, jax.ShapeDtypeStruct((1, *shape), np.float32))
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_and_why(name: str) -> None:
    frozen = {group.name: group.frozen for group in coupled(name).groups if group.frozen not in (None, INPUT, LOGITS)}
    assert frozen == FROZEN.get(name, {})
    ends = [group for group in coupled(name).groups if group.frozen in (INPUT, LOGITS)]
    assert sorted(group.size for group in ends) == sorted([reduced(name)["input_shape"][2], 10])
    assert all(name in FROZEN for _ in coupled(name).notes)


@pytest.mark.parametrize("name", NAMES)
def test_every_width_counts_channels(name: str) -> None:
    coupling = coupled(name)
    assert tuple(entry.width for entry in coupling.entries) == registry.default_widths(coupling.model)
    for entry in coupling.entries:
        assert 1 in entry.axes.values()
    for group in coupling.free:
        assert group.widths or "squeeze" in group.name, "only the middle of a Squeeze-and-Excitation is derived"


@pytest.mark.parametrize("name", NAMES)
def test_every_channel_has_its_places(name: str) -> None:
    """Each position of an axis with channels belongs to one channel; channels are where their arrays end in kernels."""
    coupling = coupled(name)
    seen: dict[Any, list[int]] = {}
    for group in coupling.groups:
        for axis, positions in group.members.items():
            assert len(positions) == group.size
            seen.setdefault(axis, []).extend(positions.ravel().tolist())
    for axis, positions in seen.items():
        size = coupling.shapes[axis.leaf][axis.axis]
        if axis.block is not None and axis.role == "out":
            size //= coupling.grouped[axis.leaf, axis.axis]
        assert sorted(positions) == list(range(size))


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_equals_set_to_zero(name: str) -> None:
    cut, built, shape = cut_of(name), network(name), coupled(name).input_shape
    narrow = sliced(built, cut)
    assert_close(logits(masked(built, cut), shape), logits(narrow, shape))
    shapes = {path: leaf.shape for path, leaf in leaves_of(narrow).items()}
    fresh = couple(cut.model, shape, 10)
    assert shapes == fresh.shapes, "the copied weights have the shapes of a fresh network of these widths"
    counts = count(cut.model, shape, 10)
    assert sum(math.prod(s) for s in shapes.values()) == counts.params
    assert program(narrow, shape) == program(evaluated(cut.model, shape, 10), shape), (
        "so its multiply-adds are those of a fresh one"
    )
    before = count(coupled(name).model, shape, 10)
    assert counts.params < before.params
    assert counts.macs < before.macs


@pytest.mark.parametrize("name", NAMES)
def test_what_was_asked_for_stays(name: str) -> None:
    """Where nothing must be rounded, each group keeps exactly what was asked for; derived ones what the network has."""
    coupling, cut = coupled(name), cut_of(name)
    keep = random_keep(coupling, seed=len(name))
    for group in coupling.groups:
        if group.frozen is not None:
            assert cut.kept[group.name].size == group.size
        elif group.widths and name not in ROUNDED:
            np.testing.assert_array_equal(cut.kept[group.name], np.flatnonzero(keep[group.name]))
    for entry, width in zip(coupling.entries, cut.model.get("widths", ()), strict=False):
        assert width <= entry.width


@pytest.mark.parametrize("name", NAMES)
def test_ratio_0_is_the_identity(name: str) -> None:
    coupling, built = coupled(name), network(name)
    cut = plan(coupling, {})
    assert cut.model == coupling.model
    assert all(np.array_equal(cut.kept[group.name], np.arange(group.size)) for group in coupling.groups)
    for other in (sliced(built, cut), masked(built, cut)):
        jax.tree.map(np.testing.assert_array_equal, leaves_of(other), leaves_of(built))
