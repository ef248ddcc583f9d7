"""What may stand for a convolution: the same shapes, exact counts, channels that are coupled and cut as those of any layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.surgery import masked, plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.models.replacements import make_convolution
from small_networks import check_forward, network, structure, trainable

KERAS: dict[str, Any] = {"name": "keras_cifar", "widths": [4, 5, 6, 7, 8], "input_shape": (16, 14, 3), "num_classes": 10}
VGG: dict[str, Any] = {
    "name": "vgg16",
    "layout": "cifar",
    "width_multiplier": 0.125,
    "input_shape": (32, 32, 3),
    "num_classes": 10,
}
MIXED = ("residual", "depthwise_separable", "conv", "residual")
VGG_MIXED = (*MIXED, "depthwise_separable", *["conv"] * 8)
MODELS = [{**KERAS, "kinds": list(MIXED)}, {**VGG, "num_classes": 10, "kinds": list(VGG_MIXED)}]


@pytest.mark.parametrize("kind", ["conv", "residual", "depthwise_separable"])
@pytest.mark.parametrize(("padding", "lost"), [("SAME", 0), ("VALID", 2)])
@pytest.mark.parametrize("norm", [False, True])
def test_all_take_and_give_the_same_shapes(kind: Any, padding: str, lost: int, norm: bool) -> None:
    init = nnx.initializers.glorot_uniform()

    def forward(x: jax.Array) -> jax.Array:
        layer: Any = make_convolution(kind, 3, 5, padding=padding, norm=norm, kernel_init=init, rngs=nnx.Rngs(0))
        layer.eval()
        y: jax.Array = layer(x)
        return y

    assert jax.eval_shape(forward, jnp.zeros((2, 9, 8, 3))).shape == (2, 9 - lost, 8 - lost, 5)


def test_a_residual_block_adds_the_middle_of_its_input() -> None:
    """With kernels that pass the middle pixel on: twice the input where it is positive, and the input where it is not."""
    block: Any = make_convolution(
        "residual", 2, 2, padding="VALID", kernel_init=nnx.initializers.zeros_init(), rngs=nnx.Rngs(0)
    )
    identity = np.zeros((3, 3, 2, 2), np.float32)
    identity[1, 1] = np.eye(2)
    block.first.kernel.set_value(jnp.asarray(identity))
    block.second.kernel.set_value(jnp.asarray(identity))
    block.shortcut.kernel.set_value(jnp.asarray(identity[1:2, 1:2]))
    x = jax.random.normal(jax.random.key(0), (1, 6, 5, 2))
    middle = np.asarray(x)[:, 1:-1, 1:-1]
    np.testing.assert_allclose(block(x), np.maximum(middle, 0) + middle, atol=1e-6)


def test_a_separable_pair_is_a_convolution_of_rank_one() -> None:
    pair: Any = make_convolution("depthwise_separable", 3, 4, kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(0))
    one: Any = make_convolution("conv", 3, 4, kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(1))
    deep, point = pair.depthwise.kernel.get_value(), pair.pointwise.kernel.get_value()
    one.kernel.set_value(deep[:, :, 0, :, None] * point[0, 0])
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    np.testing.assert_allclose(pair(x), one(x), atol=1e-6)


def test_counts_are_exact() -> None:
    c1, c2, c3, c4, fc = KERAS["widths"]
    residual = [9 * 3 * c1 + c1 + (9 * c1 + 1) * c1 + 3 * c1, 9 * c3 * c4 + c4 + (9 * c4 + 1) * c4 + c3 * c4]
    pixels = ((16 - 2) // 2 - 2) // 2 * (((14 - 2) // 2 - 2) // 2)
    others = [9 * c1 + (c1 + 1) * c2, (9 * c2 + 1) * c3, (pixels * c4 + 1) * fc, (fc + 1) * 10]
    assert trainable(MODELS[0]) == sum(residual + others)


@pytest.mark.parametrize("model", [KERAS, VGG], ids=["keras_cifar", "vgg16"])
def test_plain_kinds_are_the_network_itself(model: dict[str, Any]) -> None:
    plain = {**model, "kinds": ["conv"] * (4 if model is KERAS else 13)}
    assert registry.canonical(plain) == registry.canonical(model)
    assert structure(plain) == structure(model)


@pytest.mark.parametrize("model", MODELS, ids=["keras_cifar", "vgg16"])
def test_forward_and_widths(model: dict[str, Any]) -> None:
    check_forward(model)
    counts = count(model, model["input_shape"], 10)
    wider = {**model, "widths": [2 * width for width in registry.default_widths(model) or ()]}
    assert count(wider, model["input_shape"], 10).trainable_params > 2 * counts.trainable_params


@pytest.mark.parametrize("model", MODELS, ids=["keras_cifar", "vgg16"])
def test_sliced_equals_masked(model: dict[str, Any]) -> None:
    coupling = couple(model, model["input_shape"], 10)
    assert not coupling.notes
    assert len(coupling.entries) == len(registry.default_widths(model) or ())
    built, draw = network(model), np.random.default_rng(0)
    keep = {group.name: draw.random(group.size) < 0.6 for group in coupling.free}
    for kept in keep.values():
        kept[0] = True
    cut = plan(coupling, keep)
    x = jax.random.normal(jax.random.key(1), (3, *model["input_shape"]))
    whole, small = masked(built, cut)(x), sliced(built, cut)(x)  # type: ignore[operator]
    np.testing.assert_allclose(small, whole, atol=1e-5 * max(1.0, float(np.abs(whole).max())))
    assert np.ptp(small) > 0


@pytest.mark.parametrize("kinds", [["conv"] * 3, ["conv", "conv", "conv", "dense"]])
def test_impossible_kinds(kinds: list[str]) -> None:
    with pytest.raises(UserError, match=r"model\.kinds"):
        registry.config_of({**KERAS, "kinds": kinds})
