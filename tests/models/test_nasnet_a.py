"""NASNet-A against keras's counts and function, and the paper's multiply-adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "nasnet_a"
LARGE = {"cells": 6, "filters": 4032, "stem": 96, "skip_reduction": True, "input_shape": (331, 331, 3)}


def test_published_sizes() -> None:
    counts = count({"name": NAME}, (224, 224, 3), 1000)
    assert (counts.params, counts.trainable_params) == (5_326_716, 5_289_978)  # keras.applications.NASNetMobile
    assert counts.macs == pytest.approx(564e6, rel=0.01)  # paper, table 3, and the README of its code


@pytest.mark.slow
def test_published_size_of_the_large_net() -> None:
    assert trainable({"name": NAME, **LARGE}) == 88_753_150  # keras.applications.NASNetLarge


@pytest.mark.slow
def test_published_size_on_cifar() -> None:
    model = {"name": NAME, "layout": "cifar", "cells": 6, "filters": 768, "input_shape": (32, 32, 3), "num_classes": 10}
    assert trainable(model) == pytest.approx(3.3e6, rel=0.015)  # paper, table 1


@pytest.mark.parametrize("model", [{"name": NAME}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    widths = list(default_widths(model))
    assert widths == [12, *[4] * 8, *[8] * 7, *[8] * 8, *[16] * 7, *[16] * 8]
    widths[4] = 3  # inner channels of the first cell's first separable convolution, 5x5
    lost = 4 + 2 + 25 + 4  # pointwise from 4 channels, batch norm, depthwise, pointwise to 4 channels
    assert trainable(model) - trainable({**model, "widths": widths}) == lost
    narrow = {**model, "widths": [max(2, width - 1 - i % 2) for i, width in enumerate(widths)]}
    assert jax.eval_shape(lambda: network(narrow)(jnp.zeros((2, 32, 32, 3)))).shape == (2, 10)


def test_forward() -> None:
    check_forward(small(NAME))


def test_drop_path_is_scheduled() -> None:
    net = network(small(NAME))
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    net.train()
    dropper = net._dropper(0.5, 0.5, nnx.Rngs(dropout=0))
    values = np.unique(dropper(jnp.ones((400, 1, 1, 1))))
    np.testing.assert_allclose(values, [0, 1 / 0.75])
    with pytest.raises(ValueError, match="needs rngs"):
        net._dropper(0.5, 1.0, None)
    net.eval()
    np.testing.assert_array_equal(net._dropper(0.5, 1.0, None)(x), x)


def _copy(theirs: object, ours: nnx.Module) -> None:
    """keras's weights, batch statistics drawn anew, into our network, by keras's names."""
    rng = np.random.default_rng(0)

    def norm(name: str, bn: nnx.Module) -> None:
        layer = theirs.get_layer(name)
        values = [rng.uniform(low, high, layer.gamma.shape) for low, high in ((0.5, 1.5), (-0.2, 0.5), (-0.1, 0.1), (0.5, 1.5))]
        layer.set_weights(values)
        for variable, value in zip((bn.scale, bn.bias, bn.mean, bn.var), values, strict=True):
            variable.set_value(jnp.asarray(value, jnp.float32))

    def conv(name: str, *convs: nnx.Module) -> None:
        kernels = theirs.get_layer(name).get_weights()
        for one, kernel in zip(convs, kernels, strict=True):
            depthwise = kernel.shape[:2] != (1, 1)
            one.kernel.set_value(jnp.asarray(kernel.swapaxes(2, 3) if depthwise and len(kernels) == 2 else kernel))

    conv("stem_conv1", ours.stem)
    norm("stem_bn1", ours.bn)
    ids = ["stem_1", "stem_2", *map(str, range(4)), "reduce_4", *map(str, range(5, 9)), "reduce_8", *map(str, range(9, 13))]
    for cell, key in zip(ours.cells, ids, strict=True):
        kind = "normal" if hasattr(cell, "left2") else "reduction"
        if cell.adjust is not None and hasattr(cell.adjust, "even"):
            conv(f"adjust_conv_1_{key}", cell.adjust.even)
            conv(f"adjust_conv_2_{key}", cell.adjust.odd)
            norm(f"adjust_bn_{key}", cell.adjust.bn)
        elif cell.adjust is not None:
            conv(f"adjust_conv_projection_{key}", cell.adjust.conv)
            norm(f"adjust_bn_{key}", cell.adjust.bn)
        conv(f"{kind}_conv_1_{key}", cell.enter.conv)
        norm(f"{kind}_bn_1_{key}", cell.enter.bn)
        places = ("left1", "right1", "left2", "right2", "left5") if kind == "normal" else (
            "left1", "right1", "right2", "right3", "left4")  # fmt: skip
        for place in places:
            separable = getattr(cell, place)
            for i in (1, 2):
                at = f"{kind}_{place}_{key}"
                halves = (getattr(separable, f"depthwise_{i}"), getattr(separable, f"pointwise_{i}"))
                conv(f"separable_conv_{i}_{at}", *halves)
                norm(f"separable_conv_{i}_bn_{at}", getattr(separable, f"bn_{i}"))
    kernel, bias = theirs.layers[-1].get_weights()
    ours.logits.kernel.set_value(jnp.asarray(kernel))
    ours.logits.bias.set_value(jnp.asarray(bias))


@pytest.mark.slow
def test_same_function_as_keras() -> None:
    from flaxcomp.export.convert import start_tensorflow

    start_tensorflow()
    import keras

    theirs = keras.applications.NASNetMobile(weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None)
    ours = network({"name": NAME, "input_shape": (64, 64, 3), "num_classes": 5})
    _copy(theirs, ours)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    wanted = np.asarray(theirs(x, training=False))
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(ours(x), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("options", "message"), [
    ({"filters": 1000}, "multiple of 96 .layout imagenet., got 1000"),
    ({"filters": 100, "layout": "cifar"}, "multiple of 24 .layout cifar., got 100"),
    ({"input_shape": (28, 32, 3)}, "at least 32, got 28x32"),
    ({"input_shape": (3, 8, 3), "layout": "cifar"}, "at least 4, got 3x8"),
    ({"widths": (1, 2)}, "widths .* got 2"),
    ({"drop_path": 1}, "model.drop_path of nasnet_a"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, "num_classes": 10, **options}))
