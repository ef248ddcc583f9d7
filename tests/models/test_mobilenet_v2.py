"""MobileNet v2 against Keras' parameter counts and function, and the multiply-adds of the published code's table."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.export.convert import start_tensorflow
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from small_networks import check_dropout, check_forward, check_widths, default_widths, network, small, trainable

NAME = "mobilenet_v2"
# Trainable parameters: keras.applications.MobileNetV2(alpha=...); multiply-adds in millions: the paper's table 4 gives 300 and
# 585, the table beside its published code (tensorflow/models, research/slim/nets/mobilenet) these.
PUBLISHED = [
    (1.4, 224, 6_108_776, 582), (1.3, 224, 5_386_792, 509), (1.0, 224, 3_504_872, 300), (0.75, 224, 2_636_424, 209),
    (0.5, 224, 1_968_680, 97), (0.35, 224, 1_677_128, 59), (1.0, 192, 3_504_872, 221), (1.0, 160, 3_504_872, 154),
]  # fmt: skip


@pytest.mark.parametrize(("multiplier", "size", "params", "millions"), PUBLISHED)
def test_published_sizes(multiplier: float, size: int, params: int, millions: int) -> None:
    counts = count({"name": NAME, "width_multiplier": multiplier}, (size, size, 3), 1000)
    assert counts.trainable_params == params
    assert counts.macs == pytest.approx(millions * 1e6, rel=0.01)


def _embedded(blocks: int, width: int, expansion: int, se: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes, by hand: no outside source counts this layout."""
    total, c_in = 27 * 16 + 2 * 16, 16
    for out in (width, 2 * width, 4 * width):
        for _ in range(blocks // 3):
            hidden = expansion * c_in
            total += c_in * hidden + 2 * hidden + 9 * hidden + 2 * hidden + hidden * out + 2 * out
            total += 2 * out * (out // se) + out + out // se if se else 0
            c_in = out
    return total + c_in * 10 + 10


@pytest.mark.parametrize(("blocks", "width", "expansion", "se"), [(9, 16, 4, 0), (9, 24, 4, 0), (12, 24, 6, 0), (12, 24, 6, 2)])
def test_embedded_rows(blocks: int, width: int, expansion: int, se: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "expansion": expansion, "se": se}
    assert count(model, (32, 32, 3), 10).trainable_params == _embedded(blocks, width, expansion, se)


@pytest.mark.parametrize(
    "model", [{"name": NAME}, {"name": NAME, "width_multiplier": 0.35, "se": 2}, {"name": NAME, "expansion": 1}, small(NAME)]
)
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths_keep_every_addition() -> None:
    """The first convolution's channels are those of the first sub-network's blocks, which are added to them."""
    model = small(NAME)
    assert default_widths(model) == (16, 32, 32, 32, 32, 64, 64, 64, 128)
    narrow = {**model, "se": 0, "widths": (5, 7, 3, 9, 11, 2, 13, 5, 4)}
    blocks = [(5, 7, 5), (5, 3, 5), (5, 9, 11), (11, 2, 11), (11, 13, 5), (5, 4, 5)]
    wanted = sum(13 * hidden + c_in * hidden + hidden * out + 2 * out for c_in, hidden, out in blocks)
    assert trainable(narrow) == 27 * 5 + 10 + wanted + 5 * 10 + 10
    built = network(narrow)
    assert [block.residual for block in built.blocks] == [True, True, False, True, False, True]  # not by equal numbers
    assert built(jnp.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_forward() -> None:
    check_forward(small(NAME))


@pytest.mark.parametrize(("size", "multiplier"), [(32, 0.35), (96, 0.35)])
def test_function_is_that_of_keras(size: int, multiplier: float) -> None:
    tf = start_tensorflow()
    tf.random.set_seed(0)
    keras = tf.keras.applications.MobileNetV2(
        (size, size, 3), alpha=multiplier, weights=None, classes=10, classifier_activation=None
    )
    generator = np.random.default_rng(0)
    for weight in keras.weights:  # batch norm's beginnings would hide an exchange
        weight.assign(np.asarray(weight) + generator.uniform(0.0, 0.2, weight.shape).astype(np.float32))
    built = network({"name": NAME, "input_shape": (size, size, 3), "num_classes": 10, "width_multiplier": multiplier})
    _copy(keras, built)
    x = generator.normal(size=(2, size, size, 3)).astype(np.float32)
    wanted = keras(x, training=False).numpy()
    got = np.asarray(nnx.jit(built)(x))
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def _copy(keras: object, built: nnx.Module) -> None:
    """Keras lists its layers in order: a convolution, its batch norm, and so on, at last the dense layer."""
    bricks = [built.stem]
    for block in built.blocks:
        bricks += [brick for brick in (block.expand, block.depthwise, block.project) if brick is not None]
    bricks.append(built.head)
    layers = [layer for layer in keras.layers if layer.weights]
    assert len(layers) == 2 * len(bricks) + 1
    for i, brick in enumerate(bricks):
        (kernel,), (scale, bias, mean, variance) = layers[2 * i].get_weights(), layers[2 * i + 1].get_weights()
        depthwise = kernel.shape[3] == 1
        brick.conv.kernel[...] = jnp.asarray(kernel.swapaxes(2, 3) if depthwise else kernel)
        brick.bn.scale[...], brick.bn.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
        brick.bn.mean[...], brick.bn.var[...] = jnp.asarray(mean), jnp.asarray(variance)
        assert brick.bn.epsilon == layers[2 * i + 1].epsilon
    kernel, bias = layers[-1].get_weights()
    built.logits.kernel[...], built.logits.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)


@pytest.mark.parametrize(("options", "message"), [
    ({"layout": "embedded", "blocks": 10}, "multiple of 3, got 10"),
    ({"widths": (32, 64)}, "25 widths .*, got 2"),
    ({"layout": "cifar"}, f"model.layout of {NAME}"),
    ({"width_multiplier": 0}, f"model.width_multiplier of {NAME}"),
    ({"expansion": 0}, f"model.expansion of {NAME}"),
    ({"se": -1}, f"model.se of {NAME}"),
    ({"dropout": 1}, f"model.dropout of {NAME}"),
])  # fmt: skip
def test_impossible_options_are_refused_without_building(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.config_of({"name": NAME, **options})


def test_unknown_activation() -> None:
    with pytest.raises(UserError, match="no activation is called 'rellu'"):
        nnx.eval_shape(lambda: network({"name": NAME, "activation": "rellu"}))


def test_dropout_acts_in_training_only() -> None:
    check_dropout(small(NAME))
