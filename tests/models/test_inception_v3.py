"""Inception v3 against torchvision's and keras's counts, and against keras's function."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, structure, trainable

NAME = "inception_v3"
# (options, parameters, trainable parameters); multiply-adds: 5.713 billion, torchvision's Inception_V3_Weights `_ops`.
PUBLISHED = [
    ({}, 27_161_264 + 36_224, 27_161_264),  # torchvision, num_params with the auxiliary classifier
    ({"auxiliary": False}, 23_834_568 + 34_432, 23_834_568),  # torchvision without it
    ({"auxiliary": False, "scale": False}, 23_851_784, 23_817_352),  # keras.applications, summary
]


@pytest.mark.parametrize(("options", "params", "trainable_params"), PUBLISHED)
def test_published_sizes(options: dict[str, object], params: int, trainable_params: int) -> None:
    counts = count({"name": NAME, **options}, (299, 299, 3), 1000)
    assert (counts.params, counts.trainable_params) == (params, trainable_params)
    assert counts.macs == pytest.approx(5.713e9, rel=1e-3)


@pytest.mark.parametrize("model", [{"name": NAME}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_one_width_less_is_one_channel_less() -> None:
    model = small(NAME)
    widths = list(default_widths(model))
    assert (len(widths), widths[0], widths[5]) == (94, 4, 8)
    widths[5] -= 1  # the 1x1 branch of the first block: 24 inputs; 3 convolutions and a pooled one read its output
    readers = sum(layer for layer in (8, 6, 8, 8))  # 1x1 convolutions of the second block
    assert trainable(model) - trainable({**model, "widths": widths}) == 24 + 2 + readers


def test_forward() -> None:
    check_forward(small(NAME))


def test_training_mode_gives_auxiliary_logits() -> None:
    def logits(options: dict[str, object]) -> object:
        net = network({"name": NAME, "num_classes": 7, "width_multiplier": 0.125, **options})
        net.train()
        return net(jnp.zeros((2, 299, 299, 3)), rngs=nnx.Rngs(dropout=0))

    main, auxiliary = jax.eval_shape(lambda: logits({}))
    assert (main.shape, [a.shape for a in auxiliary]) == ((2, 7), [(2, 7)])
    assert jax.eval_shape(lambda: logits({"auxiliary": False})).shape == (2, 7)


def _convolutions(net: nnx.Module) -> list[nnx.Module]:
    layers = [*net.stem, *(layer for block in net.blocks for branch in block.branches for layer in branch)]
    return [conv for layer in layers for conv in ([layer.row, layer.column] if hasattr(layer, "row") else [layer])]


@pytest.mark.slow
def test_same_function_as_keras() -> None:
    from flaxcomp.export.convert import start_tensorflow

    start_tensorflow()
    import keras

    theirs = keras.applications.InceptionV3(weights=None, input_shape=(75, 75, 3), classes=5, classifier_activation=None)
    by_age = sorted(theirs.layers, key=lambda layer: int((re.findall(r"_(\d+)$", layer.name) or [0])[0]))
    convs = [layer for layer in by_age if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in by_age if isinstance(layer, keras.layers.BatchNormalization)]
    ours = network({"name": NAME, "input_shape": (75, 75, 3), "num_classes": 5, "auxiliary": False, "scale": False})
    rng = np.random.default_rng(0)
    for mine, conv, norm in zip(_convolutions(ours), convs, norms, strict=True):
        beta, mean, variance = (rng.uniform(low, high, norm.beta.shape) for low, high in ((-0.2, 0.5), (-0.1, 0.1), (0.5, 1.5)))
        norm.set_weights([beta, mean, variance])
        mine.conv.kernel.set_value(jnp.asarray(conv.get_weights()[0]))
        for variable, value in ((mine.bn.bias, beta), (mine.bn.mean, mean), (mine.bn.var, variance)):
            variable.set_value(jnp.asarray(value, jnp.float32))
    kernel, bias = theirs.layers[-1].get_weights()
    ours.logits.kernel.set_value(jnp.asarray(kernel))
    ours.logits.bias.set_value(jnp.asarray(bias))
    x = rng.uniform(-1, 1, (2, 75, 75, 3)).astype(np.float32)
    wanted = np.asarray(theirs(x, training=False))
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(jax.jit(lambda x: ours(x))(x), wanted, atol=1e-4, rtol=0)


def test_structure_has_no_scale_without_it() -> None:
    assert not [path for path in structure({**small(NAME), "scale": False}) if "scale" in path]


@pytest.mark.parametrize(("options", "message"), [
    ({"input_shape": (74, 80, 3)}, "at least 75, got 74x80"),
    ({"input_shape": (298, 299, 3)}, "at least 299 .* got 298x299; set `auxiliary: false`"),
    ({"widths": (1, 2)}, "96 widths .* got 2"),
    ({"auxiliary_weight": 1}, "model.auxiliary_weight"),
    ({"width_multiplier": 0}, "model.width_multiplier"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, **options}))
