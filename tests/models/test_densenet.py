"""DenseNet: published sizes, free widths, and the function of Keras's DenseNet."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import densenet, registry
from flaxcomp.models.counting import count
from flaxcomp.models.densenet import SMALL
from small_networks import check_training, check_widths, small

IMAGENET, CIFAR = ((224, 224, 3), 1000), ((32, 32, 3), 10)
PLAIN = {"bottleneck": False, "compression": 1.0}
NAME = "densenet"
PUBLISHED = [  # options, data, trainable parameters, multiply-adds, source
    ({}, CIFAR, 769_162, 0.288e9, "BC-100-12; Huang et al. table 2: 0.8 M; the authors' code: 0.29 G"),
    ({**PLAIN, "depth": 40}, CIFAR, 1_019_722, 0.265e9, "table 2: 1.0 M"),
    (PLAIN, CIFAR, 6_979_642, 1.77e9, "table 2: 7.0 M"),
    ({**PLAIN, "growth_rate": 24}, CIFAR, 27_249_082, 6.89e9, "table 2: 27.2 M"),
    ({"depth": 190, "growth_rate": 40}, CIFAR, 25_624_430, 9.30e9, "table 2: 25.6 M; the authors' code: 9.35 G"),
    ({"depth": 250, "growth_rate": 24}, CIFAR, 15_324_406, 5.42e9, "table 2: 15.3 M"),
    ({"layout": "imagenet", "depth": 121, "growth_rate": 32}, IMAGENET, 7_978_856, 2.834e9, "torchvision"),
    ({"layout": "imagenet", "depth": 169, "growth_rate": 32}, IMAGENET, 14_149_480, 3.360e9, "torchvision"),
    ({"layout": "imagenet", "depth": 201, "growth_rate": 32}, IMAGENET, 20_013_928, 4.291e9, "torchvision"),
    ({"layout": "imagenet", "depth": 161, "growth_rate": 48}, IMAGENET, 28_681_000, 7.728e9, "torchvision"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "data", "parameters", "macs", "source"), PUBLISHED)
def test_published_sizes(options: dict[str, Any], data: Any, parameters: int, macs: float, source: str) -> None:
    counts = count({"name": "densenet", **options}, *data)
    assert counts.trainable_params == parameters, source
    assert counts.macs == pytest.approx(macs, rel=0.01), source


@pytest.mark.parametrize("options", [{}, {**PLAIN, "depth": 13}, SMALL, {"layout": "imagenet", "depth": 121}])
def test_widths_describe_the_network(options: dict[str, Any]) -> None:
    check_widths({"name": NAME, **options})


def test_narrower_widths() -> None:
    stem, blocks, transitions = 7, [(9, 4), (5, 3), (6, 2)], (8, 5)
    total, c, widths = 27 * stem, stem, [stem]
    for i, (inside, growth) in enumerate(blocks):
        total += 2 * c + c * inside + 2 * inside + 9 * inside * growth
        c, widths = c + growth, [*widths, inside, growth]
        if i < 2:
            total += 2 * c + c * transitions[i]
            c, widths = transitions[i], [*widths, transitions[i]]
    options = {"name": "densenet", **SMALL, "widths": widths}
    assert count(options, (16, 16, 3), 10).trainable_params == total + 2 * c + 10 * c + 10


@pytest.mark.parametrize("options", [{}, {**PLAIN, "dropout": 0.2}])
def test_logits(options: dict[str, Any]) -> None:
    check_training({**small(NAME), **options})


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"depth": 41}, (32, 32, 3), "with bottlenecks has 6n . 4 layers .*, got 41"),
    ({"depth": 41, "bottleneck": False}, (32, 32, 3), "without bottlenecks has 3n . 4 layers .*, got 41"),
    ({"depth": 4}, (32, 32, 3), "got 4"),
    ({"layout": "imagenet"}, (224, 224, 3), "121, 161, 169, 201 layers, got bottleneck True, depth 100"),
    ({**SMALL, "compression": 0.01}, (32, 32, 3), "a transition must keep a channel at least, got 0.01"),
    ({**SMALL, "widths": [16]}, (32, 32, 3), "has 9 widths .*, got 1"),
    (SMALL, (16, 3, 3), "transition 2 halves .* an input of 16x3 gives it 8x1"),
    ({"layout": "imagenet", "depth": 121}, (28, 28, 3), "transition 3 halves .* gives it 1x1"),
])  # fmt: skip
def test_impossible_nets_are_refused(options: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    options = {"name": "densenet", **options, "input_shape": shape}
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: registry.build(options, shape, 10, nnx.Rngs(0)))


def copy_batch_norm(bn: Any, keras_net: Any, name: str) -> None:
    scale, shift, mean, var = keras_net.get_layer(name).get_weights()
    for variable, value in ((bn.scale, scale), (bn.bias, shift), (bn.mean, mean), (bn.var, var + 1e-8)):  # 1.001e-5 - 1e-5
        variable.set_value(jnp.asarray(value))


def copy_kernel(conv: Any, keras_net: Any, name: str) -> None:
    conv.kernel.set_value(jnp.asarray(keras_net.get_layer(name).get_weights()[0]))


def test_a_shallow_net_computes_what_keras_does(monkeypatch: pytest.MonkeyPatch) -> None:
    keras_densenet = pytest.importorskip("keras.src.applications.densenet")
    layers, shape = (2, 1, 2, 1), (64, 64, 3)
    theirs = keras_densenet.DenseNet(layers, weights=None, input_shape=shape, classes=10, classifier_activation=None)
    random = np.random.default_rng(0)
    for layer in theirs.layers:  # biases and batch statistics that are not 0 and 1
        layer.set_weights([v if v.ndim > 1 else random.uniform(0.5, 1.0, v.shape) for v in layer.get_weights()])
    monkeypatch.setitem(densenet._IMAGENET, 17, layers)
    config = densenet.DenseNet(layout="imagenet", depth=17, growth_rate=32)
    ours: Any = densenet.build(config, shape, 10, nnx.Rngs(params=jax.random.key(0)))
    ours.eval()
    copy_kernel(ours.stem.conv, theirs, "conv1_conv")
    copy_batch_norm(ours.stem.bn, theirs, "conv1_bn")
    for b, block in enumerate(ours.blocks, 2):
        for i, layer in enumerate(block, 1):
            for j, convolution in enumerate(layer.convolutions):
                copy_batch_norm(convolution.bn, theirs, f"conv{b}_block{i}_{j}_bn")
                copy_kernel(convolution.conv, theirs, f"conv{b}_block{i}_{j + 1}_conv")
        if b < 5:
            copy_batch_norm(ours.transitions[b - 2].bn, theirs, f"pool{b}_bn")
            copy_kernel(ours.transitions[b - 2].conv, theirs, f"pool{b}_conv")
    copy_batch_norm(ours.bn, theirs, "bn")
    kernel, bias = theirs.get_layer("predictions").get_weights()
    ours.logits.kernel.set_value(jnp.asarray(kernel))
    ours.logits.bias.set_value(jnp.asarray(bias))
    x = random.standard_normal((2, *shape)).astype(np.float32)
    wanted = theirs(x, training=False).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(nnx.jit(lambda net, x: net(x))(ours, jnp.asarray(x)), wanted, atol=1e-4 * np.abs(wanted).max())
