"""MobileNet v1 against Keras' parameter counts and the paper's multiply-adds."""

import itertools

import jax.numpy as jnp
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from small_networks import check_dropout, check_forward, check_widths, default_widths, network, small, structure, trainable

NAME = "mobilenet_v1"
# Trainable parameters: keras.applications.MobileNet(alpha=...); multiply-adds in millions: Howard et al. 2017, tables 6 and 7.
PUBLISHED = [
    (1.0, 224, 4_231_976, 569), (0.75, 224, 2_585_560, 325), (0.5, 224, 1_331_592, 149), (0.25, 224, 470_072, 41),
    (1.0, 192, 4_231_976, 418), (1.0, 160, 4_231_976, 290), (1.0, 128, 4_231_976, 186),
]  # fmt: skip


@pytest.mark.parametrize(("multiplier", "size", "params", "millions"), PUBLISHED)
def test_published_sizes(multiplier: float, size: int, params: int, millions: int) -> None:
    counts = count({"name": NAME, "width_multiplier": multiplier}, (size, size, 3), 1000)
    assert counts.trainable_params == params
    assert counts.macs == pytest.approx(millions * 1e6, rel=0.01, abs=0.5e6)  # printed in whole millions


@pytest.mark.parametrize("multiplier", [1.0, 0.75, 0.5, 0.25])
def test_cifar_layout_has_the_weights_of_the_large_one(multiplier: float) -> None:
    """The MobileNet study starts its 12 nets from weights trained at 224x224."""
    options = {"name": NAME, "width_multiplier": multiplier}
    shapes = structure({**options, "layout": "cifar", "input_shape": (32, 32, 3)})
    assert shapes == structure(options)
    macs = [count({**options, "layout": "cifar"}, (size, size, 3), 100).macs for size in (32, 24, 16)]
    assert macs[0] > 1.5 * macs[1] > 3 * macs[2]


def _embedded(blocks: int, width: int, se: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes, by hand: no outside source counts this layout."""
    total, c_in = 27 * 16 + 2 * 16, 16
    for out in (width, 2 * width, 4 * width):
        for _ in range(blocks // 3):
            total += 9 * c_in + 2 * c_in + c_in * out + 2 * out
            total += 2 * out * (out // se) + out + out // se if se else 0
            c_in = out
    return total + c_in * 10 + 10


@pytest.mark.parametrize(("blocks", "width", "se"), [(15, 32, 0), (12, 64, 0), (15, 100, 0), (15, 32, 2)])
def test_embedded_rows(blocks: int, width: int, se: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "se": se}
    assert count(model, (32, 32, 3), 10).trainable_params == _embedded(blocks, width, se)


@pytest.mark.parametrize(
    "model", [{"name": NAME}, {"name": NAME, "width_multiplier": 0.25, "layout": "cifar", "se": 4}, small(NAME)]
)
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model) == (16, 16, 16, 32, 32, 64, 64)  # those of Squeeze-and-Excitation follow from them
    narrow = {**model, "se": 0, "widths": (7, 5, 9, 20, 31, 3, 11)}
    outs = (7, 5, 9, 20, 31, 3, 11)
    pairs = itertools.pairwise(outs)
    assert trainable(narrow) == 27 * 7 + 14 + sum(11 * a + a * b + 2 * b for a, b in pairs) + 11 * 10 + 10
    assert network(narrow)(jnp.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_forward() -> None:
    check_forward(small(NAME))


def test_dropout_acts_in_training_only() -> None:
    check_dropout(small(NAME))


@pytest.mark.parametrize(("options", "message"), [
    ({"layout": "embedded", "blocks": 10}, "multiple of 3, got 10"),
    ({"widths": (32, 64)}, "14 widths .*, got 2"),
    ({"layout": "embedded", "blocks": 3, "se": 2, "widths": (16, 8, 8)}, "4 widths .*, got 3"),
    ({"layout": "embedded", "width_multiplier": 0.5},
     "model.width_multiplier of mobilenet_v1: only layout imagenet or cifar has it, got layout embedded"),
    ({"blocks": 9}, "model.blocks of mobilenet_v1: only layout embedded has it, got layout imagenet"),
    ({"layout": "cifr"}, f"model.layout of {NAME}"),
    ({"width_multiplier": 0}, f"model.width_multiplier of {NAME}"),
    ({"se": -1}, f"model.se of {NAME}"),
    ({"widths": (0,)}, f"model.widths.* of {NAME}"),
    ({"dropout": 1}, f"model.dropout of {NAME}"),
])  # fmt: skip
def test_impossible_options_are_refused_without_building(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.config_of({"name": NAME, **options})


def test_unknown_activation() -> None:
    with pytest.raises(UserError, match="no activation is called 'rellu'"):
        nnx.eval_shape(lambda: network({"name": NAME, "activation": "rellu"}))
