"""ShuffleNet v2 against torchvision's parameter counts and the paper's multiply-adds."""

import jax
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "shufflenet_v2"
# torchvision's ShuffleNet_V2_X*_Weights: num_params, and _ops, multiply-adds in millions. The paper (table 8) and the README of
# its authors' code print more, 41, 146, 299 and 591, and no convention; 299 and 591 are 1.1 % and 1.3 % above their layers'.
PUBLISHED = [(0.5, 1_366_792, 40, 41), (1.0, 2_278_604, 145, 146), (1.5, 3_503_624, 296, 299), (2.0, 7_393_996, 583, 591)]


@pytest.mark.parametrize(("multiplier", "params", "millions", "paper"), PUBLISHED)
def test_published_sizes(multiplier: float, params: int, millions: int, paper: int) -> None:
    counts = count({"name": NAME, "width_multiplier": multiplier}, (224, 224, 3), 1000)
    assert counts.trainable_params == params
    assert counts.macs == pytest.approx(millions * 1e6, abs=0.5e6)
    assert counts.macs == pytest.approx(paper * 1e6, rel=0.014)


def _embedded(blocks: int, width: int, se: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes, by hand: no outside source counts this layout."""
    total, c_in = 27 * 16 + 2 * 16, 16
    for out in (width, 2 * width, 4 * width):
        half = out // 2
        gate = 2 * half * (half // se) + half + half // se if se else 0
        inner = half * half + 9 * half + 6 * half
        total += c_in * half + inner + gate  # branch of the first unit
        total += 9 * c_in + 2 * c_in + c_in * half + 2 * half  # its shortcut
        total += (blocks // 3 - 1) * (half * half + inner + gate)
        c_in = out
    return total + c_in * 10 + 10


@pytest.mark.parametrize(("blocks", "width", "se"), [(12, 64, 0), (18, 80, 0), (12, 64, 2)])
def test_embedded_rows(blocks: int, width: int, se: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "se": se}
    assert count(model, (32, 32, 3), 10).trainable_params == _embedded(blocks, width, se)


@pytest.mark.parametrize("model", [{"name": NAME}, {"name": NAME, "width_multiplier": 0.7}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model) == (16, 16, 8, 8, 32, 16, 16, 64, 32, 32)
    narrow = {**model, "se": 0, "widths": (12, 14, 5, 3, 20, 7, 9, 30, 11, 13)}
    units = [(12, 14, 5), (14, 14, 3), (14, 20, 7), (20, 20, 9), (20, 30, 11), (30, 30, 13)]
    total = 27 * 12 + 2 * 12 + 30 * 10 + 10
    for i, (c_in, out, inner) in enumerate(units):
        half = out // 2
        total += (half if i % 2 else c_in) * inner + 9 * inner + inner * half + 4 * inner + 2 * half
        total += 0 if i % 2 else 9 * c_in + 2 * c_in + c_in * half + 2 * half
    assert trainable(narrow) == total


def test_forward() -> None:
    check_forward(small(NAME))


def test_half_of_the_channels_passes_a_unit_unchanged() -> None:
    unit = network(small(NAME)).units[1]  # the second of its stage
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 16))
    out = unit(x)
    np.testing.assert_array_equal(out[..., ::2], x[..., :8])  # shuffled: kept and computed channels take turns
    changed = unit(x.at[..., :8].add(1.0))
    np.testing.assert_array_equal(changed[..., 1::2], out[..., 1::2])


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"layout": "embedded", "blocks": 10}, (32, 32, 3), "multiple of 3, got 10"),
    ({"widths": (24, 116)}, (224, 224, 3), "21 widths .*, got 2"),
    ({"layout": "embedded", "blocks": 3, "width": 9}, (32, 32, 3), "stage 2.* must be even, got 9"),
    ({}, (28, 32, 3), "at least 32, got 28x32"),
    ({"layout": "embedded"}, (3, 3, 1), "at least 4, got 3x3"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, "input_shape": shape, "num_classes": 10, **options}))


@pytest.mark.parametrize(("option", "value"), [("layout", "cifar"), ("width_multiplier", 0), ("se", -1), ("dropout", 1)])
def test_values_out_of_range(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"model.{option} of {NAME}"):
        network({"name": NAME, option: value})
