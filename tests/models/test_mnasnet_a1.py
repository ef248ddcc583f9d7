"""MnasNet-A1 against the counts of its paper, its published code and another implementation."""

import jax.numpy as jnp
import pytest

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "mnasnet_a1"


def test_published_size() -> None:
    """The paper prints 3.9 M and 312 M; osmr/imgclsmob (tensorflow, mnasnet.py) counts the parameters of the same net."""
    counts = count({"name": NAME}, (224, 224, 3), 1000)
    assert counts.trainable_params == 3_887_038
    assert counts.macs == pytest.approx(312e6, rel=0.01)


# The table beside the published code (tensorflow/tpu, models/official/mnasnet), in millions. Its multiply-adds are above the
# paper's 312 as well (315.2 for the same net), by more than our convention leaves out, so they are held to 3 %.
@pytest.mark.parametrize(
    ("multiplier", "params", "macs"),
    [(1.4, 6.1, 591.5), (1.0, 3.9, 315.2), (0.75, 2.9, 226.7), (0.5, 2.1, 105.2), (0.35, 1.7, 63.2)],
)
def test_width_multipliers(multiplier: float, params: float, macs: float) -> None:
    counts = count({"name": NAME, "width_multiplier": multiplier}, (224, 224, 3), 1000)
    assert counts.trainable_params == pytest.approx(params * 1e6, abs=0.05e6)
    assert counts.macs == pytest.approx(macs * 1e6, rel=0.03)


def _embedded(blocks: int, width: int, expansion: int, se: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes, by hand: no outside source counts this layout."""
    total, c_in, each = 27 * 16 + 2 * 16, 16, blocks // 3
    for i, out in enumerate((width, 2 * width, 4 * width)):
        for j in range(each):
            hidden = c_in * (expansion // 2 if i == j == 0 else expansion)
            kernel = 25 if i and j < each - 1 else 9
            total += c_in * hidden + 2 * hidden + kernel * hidden + 2 * hidden + hidden * out + 2 * out
            total += 2 * out * (out // se) + out + out // se if se else 0
            c_in = out
    return total + c_in * 10 + 10


@pytest.mark.parametrize(
    ("blocks", "width", "expansion", "se"), [(9, 16, 4, 0), (12, 16, 6, 0), (12, 24, 6, 0), (12, 24, 6, 2)]
)
def test_embedded_rows(blocks: int, width: int, expansion: int, se: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "expansion": expansion, "se": se}
    assert count(model, (32, 32, 3), 10).trainable_params == _embedded(blocks, width, expansion, se)


def test_embedded_kernels() -> None:
    built = network({**small(NAME), "blocks": 9})
    assert [block.depthwise.conv.kernel_size for block in built.blocks] == [(k, k) for k in (3, 3, 3, 5, 5, 3, 5, 5, 3)]


@pytest.mark.parametrize("model", [{"name": NAME}, {"name": NAME, "width_multiplier": 0.35, "se": 0}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths_keep_every_addition() -> None:
    model = small(NAME)
    assert default_widths(model) == (16, 32, 64, 64, 32, 128, 128, 64, 256)
    narrow = {**model, "se": 0, "widths": (5, 7, 3, 9, 11, 2, 13, 5, 4)}
    blocks = [(9, 5, 7, 5), (9, 5, 3, 5), (25, 5, 9, 11), (9, 11, 2, 11), (25, 11, 13, 5), (9, 5, 4, 5)]
    wanted = sum((taps + 4) * hidden + c_in * hidden + hidden * out + 2 * out for taps, c_in, hidden, out in blocks)
    assert trainable(narrow) == 27 * 5 + 10 + wanted + 5 * 10 + 10
    assert network(narrow)(jnp.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_squeeze_and_excitation_stands_before_the_projection_in_the_published_net() -> None:
    """In the embedded study it ends the block."""
    published = network({"name": NAME, "input_shape": (32, 32, 3), "num_classes": 10, "width_multiplier": 0.35})
    gated = [block for block in published.blocks if block.se is not None]
    assert len(gated) == 3 + 2 + 3
    assert all(block.se.excite.out_features == block.project.conv.in_features for block in gated)
    assert [block.se.squeeze.out_features for block in gated[:2]] == [2, 4]  # a fourth of the block's input: 8, 16 channels
    embedded = network(small(NAME))
    assert all(block.se.excite.out_features == block.project.conv.out_features for block in embedded.blocks)


def test_forward() -> None:
    check_forward(small(NAME))


@pytest.mark.parametrize(("options", "message"), [
    ({"layout": "embedded", "blocks": 10}, "multiple of 3, got 10"),
    ({"widths": (32, 64)}, "24 widths .*, got 2"),
    ({"layout": "cifar"}, f"model.layout of {NAME}"),
    ({"layout": "embedded", "expansion": 0}, f"model.expansion of {NAME}"),
    ({"expansion": 4}, f"model.expansion of {NAME}: only layout embedded has it"),
    ({"se": -1}, f"model.se of {NAME}"),
])  # fmt: skip
def test_impossible_options_are_refused_without_building(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.config_of({"name": NAME, **options})
