"""SqueezeNext against the counts of a reference implementation and the paper's."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "squeezenext"
# osmr/imgclsmob, pytorchcv/models/squeezenext.py, as its own test holds them. That port gives each convolution a bias, which
# batch norm behind it cancels and the authors' Caffe files do not have (bias_term: false), so ours has one less for each
# output of a convolution; and it keeps the 7x7 first convolution in version 5, where the paper has 5x5.
REFERENCE = [
    (1, 1.0, 724_056), (1, 1.5, 1_511_824), (1, 2.0, 2_583_752), (5, 1.0, 921_816), (5, 1.5, 1_953_616), (5, 2.0, 3_366_344),
]  # fmt: skip


def _convolution_outputs(widths: tuple[int, ...], units: tuple[int, ...], last: int) -> int:
    """Outputs of all convolutions: a stage's width is that of each unit's last one, and of its first unit's shortcut."""
    total, rest = widths[0] + last, list(widths[1:])
    for count_ in units:
        total += (count_ + 1) * rest[0] + sum(rest[1 : 1 + 4 * count_])
        rest = rest[1 + 4 * count_ :]
    return total


@pytest.mark.parametrize(("version", "multiplier", "params"), REFERENCE)
def test_reference_sizes(version: int, multiplier: float, params: int) -> None:
    model = {"name": NAME, "version": version, "width_multiplier": multiplier}
    widths, units = default_widths(model), {1: (6, 6, 8, 1), 5: (2, 4, 14, 1)}[version]
    counts = count(model, (227, 227, 3), 1000)
    biases = _convolution_outputs(widths, units, widths[-1])
    stem = 0 if version == 1 else 3 * int(64 * multiplier) * (7 * 7 - 5 * 5)
    assert counts.trainable_params == params - biases - stem
    assert counts.params == counts.trainable_params + 2 * biases


# Gholami et al. 2018, in millions at 227x227. The paper counts an operation for each number that batch norm gives besides: with
# them version 1 has 281.99 million. In version 5 the authors' Caffe file leaves 227.2, which they print as 228.
@pytest.mark.parametrize(("version", "millions"), [(1, 282), (5, 228)])
def test_published_multiply_adds(version: int, millions: int) -> None:
    counts = count({"name": NAME, "version": version}, (227, 227, 3), 1000)
    normed = sum(math.prod(layer.output_shape) for layer in counts.layers if layer.output_shape)
    assert counts.macs + normed == pytest.approx(millions * 1e6, rel=0.004)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_versions_move_units_between_stages_at_equal_cost(version: int) -> None:
    assert count({"name": NAME, "version": version}, (227, 227, 3), 1000).macs == 224_113_664


def test_the_pool_rounds_up_as_caffes_does() -> None:
    """5x5 convolution: 227 to 112; 3x3 pool of stride 2: to 56."""
    units = count({"name": NAME, "version": 5}, (227, 227, 3), 1000).layers
    assert {layer.output_shape[0] for layer in units if "units/0/branch" in layer.name and layer.output_shape} == {56}


def _by_hand(widths: tuple[int, ...], units: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes: no outside source counts the embedded layout."""
    channels, *rest = widths
    total = 27 * channels + 2 * channels
    for stage in range(3):
        out, *inner = rest[stage * (1 + 4 * units) : (stage + 1) * (1 + 4 * units)]
        for i in range(units):
            a, b, c, d = inner[4 * i : 4 * i + 4]
            total += channels * a + a * b + 3 * b * c + 3 * c * d + d * out + 2 * (a + b + c + d + out)
            total += 0 if i else channels * out + 2 * out
            channels = out
    return total + channels * 10 + 10


@pytest.mark.parametrize(("blocks", "width"), [(9, 48), (6, 16)])
def test_embedded_rows(blocks: int, width: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width}
    assert count(model, (32, 32, 3), 10).trainable_params == _by_hand(default_widths(model), blocks // 3)


@pytest.mark.parametrize("model", [{"name": NAME, "version": 5}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model)[:10] == (16, 16, 8, 4, 8, 8, 8, 4, 8, 8)
    narrow = tuple(max(1, width - 1 - i % 3) for i, width in enumerate(default_widths(model)))
    assert trainable({**model, "widths": narrow}) == _by_hand(narrow, 2)


def test_forward() -> None:
    check_forward(small(NAME))


def test_the_order_of_the_one_dimensional_kernels_alternates() -> None:
    kernels = [tuple(layer.conv.kernel_size for layer in unit.branch)[2:4] for unit in network(small(NAME)).units]
    assert kernels == [((3, 1), (1, 3)), ((1, 3), (3, 1))] * 3


def test_a_unit_adds_its_input() -> None:
    unit = network(small(NAME)).units[1]
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 16))
    unit.branch[-1].bn.scale.set_value(0 * unit.branch[-1].bn.scale.get_value())
    np.testing.assert_array_equal(unit(x), x)


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"layout": "embedded", "blocks": 10}, (32, 32, 3), "multiple of 3, got 10"),
    ({"layout": "embedded", "width": 3}, (32, 32, 3), "at least 4, got 3; raise width"),
    ({"widths": (24, 116)}, (227, 227, 3), "90 widths .*, got 2"),
    ({}, (34, 40, 3), "at least 35, got 34x40"),
    ({"layout": "embedded"}, (3, 3, 1), "at least 4, got 3x3"),
    ({"version": 6}, (227, 227, 3), "model.version of squeezenext"),
    ({"width_multiplier": -1}, (227, 227, 3), "model.width_multiplier of squeezenext"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, "input_shape": shape, "num_classes": 10, **options}))
