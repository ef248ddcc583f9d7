"""Which channels go together, in networks small enough to know it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.follow import INPUT, LOGITS
from flaxcomp.compress.prune.groups import IGNORED, LONE, Group, Grouping, Overrides, couple_network
from flaxcomp.errors import UserError
from flaxcomp.models.layers import BatchNorm, Conv, Dense, channel_shuffle, flatten, global_avg_pool

SHAPE = (8, 8, 3)


class Net(nnx.Module):
    """Layers by name, and a function from them and the images to logits."""

    def __init__(self, run: Callable[[Any, jax.Array], jax.Array], **layers: nnx.Module) -> None:
        self.run = run
        self.layers = nnx.Dict(layers)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.run(self.layers, x)


def conv(c_in: int, c_out: int, size: int = 3, groups: int = 1) -> Conv:
    return Conv(c_in, c_out, (size, size), feature_group_count=groups, rngs=nnx.Rngs(0))


def dense(c_in: int, c_out: int) -> Dense:
    return Dense(c_in, c_out, rngs=nnx.Rngs(0))


def pooled(layers: Any, x: jax.Array) -> jax.Array:
    return layers.logits(flatten(global_avg_pool(x)))


NO_OVERRIDES = Overrides()


def grouping(run: Callable[[Any, jax.Array], jax.Array], overrides: Overrides = NO_OVERRIDES, **layers: nnx.Module) -> Grouping:
    return couple_network(nnx.eval_shape(lambda: Net(run, **layers)), SHAPE, overrides)


def axes(group: Group) -> set[str]:
    return {str(axis).removeprefix("layers/") for axis in group.members}


def test_a_chain_with_batch_norm() -> None:
    found = grouping(
        lambda n, x: pooled(n, nnx.relu(n.bn(n.a(x)))), a=conv(3, 8), bn=BatchNorm(8, rngs=nnx.Rngs(0)), logits=dense(8, 5)
    )
    assert [(group.name, group.size, group.frozen) for group in found.groups] == [
        ("layers/a input", 3, INPUT), ("layers/a", 8, None), ("layers/logits", 5, LOGITS)
    ]  # fmt: skip
    assert axes(found["layers/a"]) == {
        "a/kernel.3", "a/bias.0", "bn/scale.0", "bn/bias.0", "bn/mean.0", "bn/var.0", "logits/kernel.0"
    }  # fmt: skip


def test_an_addition_ties_and_a_concatenation_does_not() -> None:
    def run(n: Any, x: jax.Array) -> jax.Array:
        a = n.a(x)
        return pooled(n, jnp.concatenate([a + n.b(a), n.c(a)], -1))

    found = grouping(run, a=conv(3, 4), b=conv(4, 4), c=conv(4, 6), logits=dense(10, 5))
    assert {"a/kernel.3", "b/kernel.3", "b/kernel.2", "c/kernel.2", "logits/kernel.0"} <= axes(found["layers/a"])
    assert [group.size for group in found.free] == [4, 6]
    at_logits = [axis for axis in found["layers/c"].members if axis.leaf == "layers/logits/kernel"]
    np.testing.assert_array_equal(found["layers/c"].members[at_logits[0]].ravel(), np.arange(4, 10))


def test_flattened_channels_have_a_row_for_each_pixel() -> None:
    found = grouping(lambda n, x: n.logits(flatten(n.a(x))), a=conv(3, 4), logits=dense(256, 5))
    places = next(ids for axis, ids in found["layers/a"].members.items() if axis.leaf == "layers/logits/kernel")
    np.testing.assert_array_equal(places[1], np.arange(1, 256, 4))


def test_one_output_is_not_depthwise() -> None:
    """Others take a convolution of one output, or of one input, for a depthwise one and tie both sides."""
    found = grouping(lambda n, x: pooled(n, n.c(n.b(n.a(x)))), a=conv(3, 6), b=conv(6, 1), c=conv(1, 4), logits=dense(4, 5))
    assert [(group.name, group.size) for group in found.free] == [("layers/a", 6), ("layers/b", 1), ("layers/c", 4)]
    assert axes(found["layers/a"]) == {"a/kernel.3", "a/bias.0", "b/kernel.2"}


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_ties_in_and_out(multiplier: int) -> None:
    run = lambda n, x: pooled(n, n.b(n.a(x)))  # noqa: E731
    found = grouping(run, a=conv(3, 4), b=conv(4, 4 * multiplier, groups=4), logits=dense(4 * multiplier, 5))
    (group,) = found.free
    assert group.size == 4
    assert axes(group) == {"a/kernel.3", "a/bias.0", "b/kernel.3", "b/bias.0", "logits/kernel.0"}
    (at_b,) = [ids for axis, ids in group.members.items() if axis.role == "depthwise"]
    np.testing.assert_array_equal(at_b, np.arange(4 * multiplier).reshape(4, multiplier))


def test_grouped_convolutions_tie_positions_over_groups() -> None:
    run = lambda n, x: pooled(n, n.b(n.a(x)))  # noqa: E731
    found = grouping(run, a=conv(3, 6), b=conv(6, 4, groups=2), logits=dense(4, 5))
    before, after = found.free
    assert (before.size, after.size) == (3, 2)
    at_a = next(ids for axis, ids in before.members.items() if axis.role == "out")
    np.testing.assert_array_equal(at_a, [[0, 3], [1, 4], [2, 5]])
    assert not found.apart


def test_a_shuffle_between_grouped_convolutions_lets_groups_choose() -> None:
    """Tied over the groups, all 6 channels would be one: 0-3, 1-4, 2-5 and, dealt out as 0 3 1 4 2 5, 0-4, 3-2, 1-5."""

    def run(n: Any, x: jax.Array) -> jax.Array:
        return pooled(n, n.c(channel_shuffle(n.b(n.a(x)), 2)))

    layers = {"a": conv(3, 4), "b": conv(4, 6, groups=2), "c": conv(6, 4, groups=2), "logits": dense(4, 5)}
    found = grouping(run, **layers)
    assert found.apart == {("layers/b/kernel", 3), ("layers/c/kernel", 2)}
    assert sorted(group.size for group in found.free if group.name.startswith("layers/b")) == [1, 1, 2, 2]


def test_a_split_leaves_each_part_its_consumers() -> None:
    def run(n: Any, x: jax.Array) -> jax.Array:
        one, other = jnp.split(n.a(x), [2], -1)
        return pooled(n, jnp.concatenate([one, n.b(other)], -1))

    found = grouping(run, a=conv(3, 6), b=conv(4, 4), logits=dense(6, 5))
    assert [(group.name, group.size) for group in found.free] == [("layers/a", 2), ("layers/a#2", 4), ("layers/b", 4)]


UNKNOWN = {
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "sort": lambda x: jnp.sort(x, 1),
    "reduce_sum": lambda x: x - x.mean(-1, keepdims=True),
    "reduce_window_sum": lambda x: nnx.avg_pool(x[..., None], (1, 1, 3), (1, 1, 1), "SAME")[..., 0],
}


@pytest.mark.parametrize("primitive", UNKNOWN)
def test_what_is_not_followed_is_frozen(primitive: str) -> None:
    run = lambda n, x: pooled(n, n.b(UNKNOWN[primitive](n.a(x))))  # noqa: E731
    found = grouping(run, a=conv(3, 6), b=conv(6, 4), logits=dense(4, 5))
    assert [group.name for group in found.free] == ["layers/b"]
    assert all(primitive in (group.frozen or "") for group in found.groups if group.name == "layers/a")
    assert len(found.notes) == 1
    assert primitive in found.notes[0]


def test_weights_that_are_not_plain() -> None:
    """A kernel less its mean over inputs (weight standardisation) cannot lose inputs; its outputs are free."""

    def run(n: Any, x: jax.Array) -> jax.Array:
        kernel = n.b.kernel.get_value()
        kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
        y = jax.lax.conv_general_dilated(n.a(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return pooled(n, y * n.b.bias.get_value())

    found = grouping(run, a=conv(3, 6), b=conv(6, 4), logits=dense(4, 5))
    assert [group.name for group in found.free] == ["layers/b"]
    assert axes(found["layers/b"]) == {"b/kernel.3", "b/bias.0", "logits/kernel.0"}
    assert "reduce_sum" in (found["layers/a"].frozen or "")


def test_a_kernel_may_lose_its_axes_of_size_1() -> None:
    """A 1x1 convolution as a matrix product; where another reshape makes an axis uncertain, its channels stay."""
    found = grouping(
        lambda n, x: pooled(n, n.a(x) @ n.b.kernel.get_value()[0, 0]), a=conv(3, 6), b=conv(6, 4, 1), logits=dense(4, 5)
    )
    assert [(group.name, group.size) for group in found.free] == [("layers/a", 6), ("layers/b", 4)]
    assert axes(found["layers/b"]) == {"b/kernel.3", "logits/kernel.0"}
    assert found["layers/b#2"].frozen == LONE, "its bias, which this program does not use"
    mixed = grouping(
        lambda n, x: pooled(n, n.a(x) @ n.b.kernel.get_value().reshape(6, 6)),
        a=conv(3, 6),
        b=conv(3, 12, 1),
        logits=dense(6, 5),
    )
    assert not mixed.free
    assert "belongs to a parameter that is reshaped" in mixed.notes


def test_a_gather_by_known_indices_is_followed() -> None:
    picked = np.array([3, 0, 0])
    found = grouping(lambda n, x: pooled(n, n.a(x)[..., picked]), a=conv(3, 4), logits=dense(3, 5))
    places = [ids.tolist() for group in found.free for axis, ids in group.members.items() if "logits" in axis.leaf]
    assert sorted(places) == [[[0]], [[1, 2]]]
    unused = [group for group in found.free if not any("logits" in axis.leaf for axis in group.members)]
    assert [group.size for group in unused] == [2]


def test_a_gather_by_an_index_in_the_state_is_frozen() -> None:
    """As CondenseNet's condensed layers have: other channels there are another index, which no width tells."""
    model = {"name": "condensenet", "depth": 8, "growth_rate": 4, "groups": 2, "form": "condensed"}
    coupling = couple(model, (16, 16, 3), 10)
    assert "index that is part of the network's state" in (coupling["stem"].frozen or "")
    free = ["blocks/0/0/conv1/conv", "blocks/1/0/conv1/conv", "blocks/2/0/conv1/conv", "blocks/2/0/conv2/conv"]
    assert [group.name for group in coupling.free] == free


def test_auxiliary_heads_are_read_in_training_mode() -> None:
    """They do not run in eval mode, and see the channels of the module before them all the same."""
    model = {"name": "googlenet", "layout": "cifar", "width_multiplier": 0.0625, "auxiliary": True}
    coupling = couple(model, (32, 32, 3), 10)
    assert "heads/4a/conv/conv/kernel.2" in {str(axis) for axis in coupling["inceptions/4a/branch1/conv"].members}
    assert coupling["heads/4a/hidden"].widths
    assert coupling["heads/4a/logits"].frozen == LOGITS


def test_nothing_to_follow() -> None:
    with pytest.raises(UserError, match=r"no convolution or dense layer whose channels could be followed"):
        grouping(lambda n, x: flatten(x) * n.bn.scale.get_value()[0], bn=BatchNorm(3, rngs=nnx.Rngs(0)))


LAYERS = {"a": (3, 8), "b": (8, 8)}


def chain(overrides: Overrides) -> Grouping:
    layers = {name: conv(*ends) for name, ends in LAYERS.items()}
    return grouping(lambda n, x: pooled(n, n.b(n.a(x))), overrides, **layers, logits=dense(8, 5))


def test_overrides_ignore_and_tie() -> None:
    found = chain(Overrides(ignore=("layers/a",)))
    assert [group.name for group in found.free] == ["layers/b"]
    assert found["layers/a"].frozen == IGNORED
    found = chain(Overrides(tie=(("layers/a/kernel.3", "layers/b/kernel.3"),)))
    assert [(group.name, group.size) for group in found.free] == [("layers/a", 8)]
    assert {"a/kernel.3", "b/kernel.2", "b/kernel.3"} <= axes(found["layers/a"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (Overrides(ignore=("layers/z*",)), r"ignore: 'layers/z\*' matches no group"),
        (
            Overrides(equal_count=(("layers/a", "layers/x"),)),
            r"equal_count: 'layers/x' matches no group.*Did you mean '",
        ),
        (Overrides(round_to=(("layers/a", 0),)), r"round_to: a multiple must be 1 at least, got 0 for 'layers/a'"),
        (
            Overrides(tie=(("layers/a/kernel.3", "layers/b/kernel.9"),)),
            r"tie: no axis with channels is called '.*kernel.9'",
        ),
        (Overrides(tie=(("layers/a/kernel.3", "layers/a/kernel.2"),)), r"tie: both axes must have as many channels.* 8 .* 3"),
    ],
)
def test_overrides_that_mean_nothing(overrides: Overrides, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chain(overrides)


def test_a_group_of_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"no group of channels is called 'layer/a'\. Did you mean 'layers/a'"):
        chain(Overrides())["layer/a"]
