"""SqueezeNet against torchvision's and the paper's counts, and the embedded layout by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from flaxcomp.models.layers import caffe_max_pool
from small_networks import check_forward, check_widths, default_widths, network, small, structure, trainable

NAME = "squeezenet"


@pytest.mark.parametrize(("version", "params", "millions"), [
    ("1.0", 1_248_424, 819),  # paper, table 1; torchvision's SqueezeNet1_0_Weights: num_params, _ops
    ("1.1", 1_235_496, 349),  # torchvision's SqueezeNet1_1_Weights
])  # fmt: skip
def test_published_sizes(version: str, params: int, millions: int) -> None:
    counts = count({"name": NAME, "version": version}, (224, 224, 3), 1000)
    assert (counts.trainable_params, counts.params) == (params, params)
    assert counts.macs == pytest.approx(millions * 1e6, abs=0.5e6)


def _fires(c_in: int, fires: list[tuple[int, int, int]], se: int) -> int:
    """Parameters of fire modules with batch norm and Squeeze-and-Excitation."""
    total = 0
    for squeezed, small_, large in fires:
        out = small_ + large
        total += (c_in + 2) * squeezed + (squeezed + 2) * small_ + (9 * squeezed + 2) * large
        total += 2 * out * (out // se) + out + out // se if se else 0
        c_in = out
    return total


@pytest.mark.parametrize(("blocks", "width", "se"), [(9, 64, 0), (12, 32, 0), (9, 64, 2)])
def test_embedded_sizes(blocks: int, width: int, se: int) -> None:
    """No outside source counts this layout."""
    outs = [width * 2**i for i in range(3) for _ in range(blocks // 3)]
    fires = [(out // 8, out // 2, out // 2) for out in outs]
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "se": se}
    assert count(model, (32, 32, 3), 10).trainable_params == 29 * 16 + _fires(16, fires, se) + (4 * width + 1) * 10


@pytest.mark.parametrize("model", [
    {"name": NAME}, {"name": NAME, "version": "1.1", "width_multiplier": 0.5}, {"name": NAME, "se": 4}, small(NAME),
])  # fmt: skip
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model) == (16, *(2, 8, 8) * 2, *(4, 16, 16) * 2, *(8, 32, 32) * 2)
    fires = [(1, 3, 5), (2, 4, 6), (3, 5, 7), (4, 6, 2), (5, 7, 9), (6, 1, 3)]
    narrow = {**model, "se": 0, "widths": (11, *(width for fire in fires for width in fire))}
    assert trainable(narrow) == 29 * 11 + _fires(11, fires, 0) + (4 + 1) * 10


def test_forward() -> None:
    check_forward(small(NAME))


def test_batch_norm_is_the_embedded_layouts_default() -> None:
    def norms(model: dict[str, object]) -> int:
        return sum("scale" in path for path in structure(model))

    assert (norms({"name": NAME}), norms({"name": NAME, "norm": "batch"})) == (0, 25)
    assert (norms(small(NAME)), norms({**small(NAME), "norm": "none"})) == (19, 0)


@pytest.mark.parametrize(("side", "stages"), [(224, [109, 54, 27, 13]), (227, [111, 55, 27, 13]), (21, [8, 4, 2, 1])])
def test_pools_round_up_as_caffes_do(side: int, stages: list[int]) -> None:
    model = {"name": NAME, "input_shape": (side, side, 3), "num_classes": 10, "width_multiplier": 0.125}
    seen = []

    def trace(x: jax.Array) -> jax.Array:
        built = network(model)
        logits, x = built(x), built.stem(x)
        seen.append(x.shape[1])
        for _ in built.pools:
            x = caffe_max_pool(x)
            seen.append(x.shape[1])
        return logits

    assert nnx.eval_shape(trace, jnp.zeros((1, side, side, 3))).shape == (1, 10)
    assert seen == stages


def test_imagenet_logits_are_means_behind_a_relu() -> None:
    model = {"name": NAME, "input_shape": (33, 33, 3), "num_classes": 10, "width_multiplier": 0.125, "version": "1.1"}
    logits = network(model)(jax.random.normal(jax.random.key(0), (2, 33, 33, 3)))
    assert (np.asarray(logits) >= 0).all()
    assert np.ptp(logits) > 0


@pytest.mark.parametrize(("options", "message"), [
    ({"layout": "embedded", "blocks": 10}, "multiple of 3, got 10"),
    ({"layout": "embedded", "width": 12}, "model.width of squeezenet"),
    ({"widths": (96, 16)}, "25 widths .*, got 2"),
    ({"input_shape": (20, 32, 3)}, "at least 21, got 20x32"),
    ({"version": "1.1", "input_shape": (16, 32, 3)}, "at least 17"),
    ({"layout": "embedded", "input_shape": (3, 3, 1)}, "at least 4"),
    ({"version": "1.2"}, "model.version of squeezenet"),
    ({"layout": "cifar"}, "model.layout of squeezenet"),
    ({"se": -1}, "model.se of squeezenet"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, **options}))
