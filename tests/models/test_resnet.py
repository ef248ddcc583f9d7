"""ResNet: published sizes, and the function of Keras's ResNet-50."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.models.resnet import SMALL
from small_networks import check_training, check_widths, small, structure

IMAGENET, CIFAR = ((224, 224, 3), 1000), ((32, 32, 3), 10)
NAME = "resnet"
PUBLISHED = [  # options, data, trainable parameters, multiply-adds, source
    ({"depth": 18}, IMAGENET, 11_689_512, 1.814e9, "torchvision"),
    ({"depth": 34}, IMAGENET, 21_797_672, 3.664e9, "torchvision"),
    ({}, IMAGENET, 25_557_032, 4.089e9, "torchvision"),
    ({"stride_at": "1x1"}, IMAGENET, 25_557_032, 3.86e9, "He et al. table 1: 3.8e9; Keras, which has biases also: 25,636,712"),
    ({"depth": 101}, IMAGENET, 44_549_160, 7.801e9, "torchvision"),
    ({"depth": 152}, IMAGENET, 60_192_808, 11.514e9, "torchvision"),
    ({"se": 16}, IMAGENET, 28_088_024, 4.09e9, "Hu et al. 2018 and its PyTorch port, biases in both dense layers of SE"),
    ({"layout": "cifar", "depth": 20}, CIFAR, 269_722, 40.55e6, "He et al. table 6: 0.27 M; akamaster/pytorch_resnet_cifar10"),
    ({"layout": "cifar", "depth": 32}, CIFAR, 464_154, 68.86e6, "0.46 M, likewise"),
    ({"layout": "cifar", "depth": 44}, CIFAR, 658_586, 97.17e6, "0.66 M, likewise"),
    ({"layout": "cifar", "depth": 56}, CIFAR, 853_018, 125.49e6, "0.85 M, likewise"),
    ({"layout": "cifar", "depth": 110}, CIFAR, 1_727_962, 252.89e6, "1.7 M, likewise"),
    ({"layout": "cifar", "depth": 20, "shortcut": "B"}, CIFAR, 272_474, 40.81e6, "two projections and their batch norms more"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "data", "parameters", "macs", "source"), PUBLISHED)
def test_published_sizes(options: dict[str, Any], data: Any, parameters: int, macs: float, source: str) -> None:
    counts = count({"name": "resnet", **options}, *data)
    assert counts.trainable_params == parameters, source
    assert counts.macs == pytest.approx(macs, rel=0.01), source


@pytest.mark.parametrize(
    "options", [{"depth": 18}, {"depth": 50}, {"layout": "cifar", "depth": 20}, {**SMALL, "shortcut": "B"}]
)
def test_widths_describe_the_network(options: dict[str, Any]) -> None:
    check_widths({"name": NAME, **options})


def test_narrower_widths() -> None:
    widths = (10, 5, 20, 7, 30, 9)  # each stage's own, and its block's
    kernels = 3 * 10 + 10 * 5 + 5 * 10 + 10 * 7 + 7 * 20 + 20 * 9 + 9 * 30
    norms = 10 + 5 + 10 + 7 + 20 + 9 + 30
    counts = count({"name": "resnet", **SMALL, "widths": widths}, (16, 16, 3), 10)
    assert counts.trainable_params == 9 * kernels + 2 * norms + 31 * 10
    bottlenecks = (20, 60, *(11, 12) * 3, 90, *(13, 14) * 4, 120, *(15, 16) * 6, 200, *(17, 18) * 3)
    paths = structure({"name": NAME, "widths": bottlenecks})
    assert paths["['blocks'][13]['projection']['conv']['kernel'].value"] == (1, 1, 120, 200)


@pytest.mark.parametrize("options", [{}, {"shortcut": "B", "se": 4, "dropout": 0.2}])
def test_logits(options: dict[str, Any]) -> None:
    check_training({**small(NAME), **options})


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"depth": 21}, (32, 32, 3), "layout imagenet has 18, 34, 50, 101, 152 layers, got 21"),
    ({"layout": "cifar", "depth": 18}, (32, 32, 3), "layout cifar has 6n . 2 layers .*, got 18"),
    ({"layout": "cifar", "depth": 2}, (32, 32, 3), "got 2"),
    ({"layout": "cifar", "depth": 8, "widths": [16]}, (32, 32, 3), "has 6 widths .*, got 1"),
    ({"layout": "cifar", "depth": 8, "widths": [16, 16, 15, 32, 64, 64]}, (32, 32, 3), "stage 2 needs 16 at least, got 15"),
    ({}, (16, 32, 3), "stage 4 halves .* an input of 16x32 gives it 1x2"),
    ({"shortcut": "C"}, (32, 32, 3), "model.shortcut of resnet"),
    ({"depth": 34, "stride_at": "1x1"}, (224, 224, 3), "only bottlenecks .depth 50 and more. have it, got depth 34"),
    ({"layout": "cifar", "depth": 20, "stride_at": "3x3"}, (32, 32, 3), "model.stride_at .* only layout imagenet has it"),
])  # fmt: skip
def test_impossible_nets_are_refused(options: dict[str, Any], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: registry.build({"name": "resnet", **options}, shape, 10, nnx.Rngs(0)))


def copy_from_keras(convolution_bn: Any, keras_net: Any, name: str) -> None:
    """Keras's convolutions have a bias, which the batch norm behind takes away: it moves into the mean; so does its epsilon."""
    kernel, bias = keras_net.get_layer(f"{name}_conv").get_weights()
    scale, shift, mean, var = keras_net.get_layer(f"{name}_bn").get_weights()
    convolution_bn.conv.kernel.set_value(jnp.asarray(kernel))
    convolution_bn.bn.scale.set_value(jnp.asarray(scale))
    convolution_bn.bn.bias.set_value(jnp.asarray(shift))
    convolution_bn.bn.mean.set_value(jnp.asarray(mean - bias))
    convolution_bn.bn.var.set_value(jnp.asarray(var + 1e-8))  # 1.001e-5 - 1e-5


def test_resnet_50_computes_what_keras_does() -> None:
    keras = pytest.importorskip("keras")
    shape = (64, 64, 3)
    theirs = keras.applications.ResNet50(weights=None, input_shape=shape, classes=10, classifier_activation=None)
    random = np.random.default_rng(0)
    for layer in theirs.layers:  # biases and batch statistics that are not 0 and 1
        values = [v if v.ndim > 1 else random.uniform(0.5, 1.0, v.shape) for v in layer.get_weights()]
        layer.set_weights(values)
    options = {"name": "resnet", "stride_at": "1x1"}
    ours: Any = registry.build(options, shape, 10, nnx.Rngs(params=jax.random.key(0)))
    ours.eval()
    copy_from_keras(ours.stem, theirs, "conv1")
    blocks = iter(ours.blocks)
    for stage, count_ in enumerate((3, 4, 6, 3), 2):
        for i in range(1, count_ + 1):
            block, name = next(blocks), f"conv{stage}_block{i}"
            for j, convolution in enumerate(block.convolutions, 1):
                copy_from_keras(convolution, theirs, f"{name}_{j}")
            if block.projection is not None:
                copy_from_keras(block.projection, theirs, f"{name}_0")
    kernel, bias = theirs.get_layer("predictions").get_weights()
    ours.logits.kernel.set_value(jnp.asarray(kernel))
    ours.logits.bias.set_value(jnp.asarray(bias))
    x = random.standard_normal((2, *shape)).astype(np.float32)
    wanted = theirs(x, training=False).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(ours(jnp.asarray(x)), wanted, atol=1e-4 * np.abs(wanted).max())
