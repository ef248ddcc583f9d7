"""GoogLeNet against torchvision's, Caffe's and the paper's sizes, and its auxiliary heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "googlenet"
PAPER = {"name": NAME, "norm": "none", "large_kernel": 5}


@pytest.mark.parametrize(("options", "params"), [
    ({}, 6_624_904),  # torchvision's GoogLeNet_Weights: num_params
    ({"auxiliary": True}, 13_004_888),  # torchvision's googlenet(aux_logits=True)
    ({"norm": "none", "large_kernel": 5}, 6_998_552),  # the paper's table 1 with biases, Caffe's bvlc_googlenet
    ({"norm": "none", "large_kernel": 5, "auxiliary": True}, 13_378_280),  # the same with both heads
])  # fmt: skip
def test_published_sizes(options: dict[str, object], params: int) -> None:
    assert trainable({"name": NAME, **options}) == params


def test_multiply_adds() -> None:
    shape, classes = (224, 224, 3), 1000
    assert count({"name": NAME}, shape, classes).macs == pytest.approx(1.498e9, abs=0.5e6)  # torchvision: _ops
    stem = 112 * 112 * 64 * 147 + 56 * 56 * (64 * 64 + 192 * 576)
    modules = count(PAPER, shape, classes).macs - stem - 1024 * 1000
    assert modules == pytest.approx(1107e6, rel=0.01)  # table 1: 128 304 73 88 100 119 170 54 71; Distill-Net's total
    heads = {**PAPER, "auxiliary": True}
    assert count(heads, shape, classes).macs == count(PAPER, shape, classes).macs  # they do not run in evaluation


@pytest.mark.parametrize("model", [{"name": NAME}, {**PAPER, "auxiliary": True}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def _module(c_in: int, widths: tuple[int, ...], large: int, extra: int) -> int:
    """Parameters of a module; `extra` ones a channel besides the kernels."""
    only, reduce3, out3, reduce5, out5, pooled = widths
    kernels = c_in * (only + reduce3 + reduce5 + pooled) + 9 * reduce3 * out3 + large**2 * reduce5 * out5
    return kernels + extra * sum(widths)


@pytest.mark.parametrize(("norm", "large"), [("batch", 3), ("batch", 5), ("none", 5)])
def test_narrower_widths(norm: str, large: int) -> None:
    modules = [tuple(2 + (7 * i + 3 * j) % 5 for j in range(6)) for i in range(9)]
    model = {**small(NAME), "norm": norm, "large_kernel": large, "widths": (7, *(w for module in modules for w in module))}
    assert len(default_widths(model)) == 55
    extra = 2 if norm == "batch" else 1
    total, c_in = 27 * 7 + extra * 7, 7
    for widths in modules:
        total += _module(c_in, widths, large, extra)
        c_in = widths[0] + widths[2] + widths[4] + widths[5]
    assert trainable(model) == total + (c_in + 1) * 10


def test_forward() -> None:
    check_forward(small(NAME))


@pytest.mark.parametrize("layout", ["imagenet", "cifar"])
def test_pixels_of_each_stage(layout: str) -> None:
    side = 224 if layout == "imagenet" else 32
    model = {"name": NAME, "layout": layout, "width_multiplier": 0.0625, "input_shape": (side, side, 3), "num_classes": 10}
    sides: list[int] = []

    class Watch(nnx.Module):
        def __init__(self, inner: nnx.Module) -> None:
            self.inner = inner

        def __call__(self, x: jax.Array) -> jax.Array:
            sides.append(x.shape[1])
            return self.inner(x)

    def forward() -> jax.Array:
        built = network(model)
        for name in ("3a", "4a", "5a"):
            built.inceptions[name] = Watch(built.inceptions[name])
        return built(jnp.zeros((1, side, side, 3)))

    assert nnx.eval_shape(forward).shape == (1, 10)
    assert sides == ([28, 14, 7] if layout == "imagenet" else [32, 16, 8])


def test_auxiliary_heads_run_in_training_only() -> None:
    model = {**small(NAME), "auxiliary": True}
    built = network(model)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    wanted = built(x)
    assert wanted.shape == (2, 10)
    built.train()
    logits, auxiliary = built(x, rngs=nnx.Rngs(dropout=1))
    assert [a.shape for a in (logits, *auxiliary)] == [(2, 10)] * 3
    assert not np.allclose(*auxiliary)
    assert registry.config_of({"name": NAME}).auxiliary_weight == 0.3
    plain = network(small(NAME))
    plain.train()
    assert plain(x, rngs=nnx.Rngs(dropout=1)).shape == (2, 10)


@pytest.mark.parametrize(("options", "message"), [
    ({"widths": (64, 64)}, "57 widths .*, got 2"),
    ({"layout": "cifar", "auxiliary": True, "widths": (8,) * 55}, "59 widths .*, got 55"),
    ({"input_shape": (14, 32, 3)}, "layout imagenet.* at least 15, got 14x32"),
    ({"input_shape": (64, 64, 3), "auxiliary": True}, "average 5x5 pixels .* got 4x4"),
    ({"large_kernel": 7}, "model.large_kernel of googlenet"),
    ({"norm": "lrn"}, "model.norm of googlenet"),
    ({"auxiliary": True, "auxiliary_weight": -0.1}, "model.auxiliary_weight of googlenet"),
    ({"auxiliary_weight": 0.1}, "model.auxiliary_weight of googlenet: only auxiliary true has it, got auxiliary false"),
    ({"layout": "embedded"}, "model.layout of googlenet"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, **options}))
