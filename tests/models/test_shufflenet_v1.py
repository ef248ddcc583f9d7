"""ShuffleNet v1 against the counts of a reference implementation."""

import jax
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "shufflenet_v1"
# Parameters: osmr/imgclsmob, pytorchcv/models/shufflenet.py, as its own test holds them; the paper prints none.
PARAMETERS = [
    (1, 1.0, 1_531_936), (2, 1.0, 1_733_848), (3, 1.0, 1_865_728), (4, 1.0, 1_968_344), (8, 1.0, 2_434_768), (1, 0.75, 975_214),
    (3, 0.75, 1_238_266), (1, 0.5, 534_484), (3, 0.5, 718_324), (1, 0.25, 209_746), (3, 0.25, 305_902),
]  # fmt: skip
# Multiply-adds in millions. Paper, table 1: without the logits, as only so all five agree with ours; the README of the
# authors' code (megvii-model/ShuffleNet-Series, ShuffleNetV1): with them.
TABLE_1 = {1: 143, 2: 140, 3: 137, 4: 133, 8: 137}  # by groups, width multiplier 1
README = [(3, 2.0, 524), (8, 2.0, 522), (3, 1.5, 292), (8, 1.5, 290), (3, 1.0, 138), (8, 1.0, 138), (3, 0.5, 38), (8, 0.5, 40)]


@pytest.mark.parametrize(("groups", "multiplier", "params"), PARAMETERS)
def test_reference_sizes(groups: int, multiplier: float, params: int) -> None:
    assert trainable({"name": NAME, "groups": groups, "width_multiplier": multiplier}) == params


@pytest.mark.parametrize("groups", TABLE_1)
def test_multiply_adds_of_the_paper(groups: int) -> None:
    logits = 1000 * {1: 576, 2: 800, 3: 960, 4: 1088, 8: 1536}[groups]
    macs = count({"name": NAME, "groups": groups}, (224, 224, 3), 1000).macs
    assert macs - logits == pytest.approx(TABLE_1[groups] * 1e6, abs=0.55e6)


@pytest.mark.parametrize(("groups", "multiplier", "millions"), README)
def test_multiply_adds_of_the_authors_code(groups: int, multiplier: float, millions: int) -> None:
    macs = count({"name": NAME, "groups": groups, "width_multiplier": multiplier}, (224, 224, 3), 1000).macs
    assert macs == pytest.approx(millions * 1e6, rel=0.01, abs=0.5e6)


def _by_hand(widths: tuple[int, ...], units: int, groups: int, se: int) -> int:
    """Trainable parameters for 32x32x3 and 10 classes: no outside source counts the embedded layout."""
    channels, *rest = widths
    total, first = 27 * channels + 2 * channels, True
    for stage in range(3):
        added, *inners = rest[stage * (units + 1) : (stage + 1) * (units + 1)]
        for i, inner in enumerate(inners):
            out = channels if i else added
            total += channels * inner // (1 if first else groups) + 9 * inner + inner * out // groups + 4 * inner + 2 * out
            total += 2 * out * (out // se) + out + out // se if se else 0
            channels, first = channels if i else channels + added, False
    return total + channels * 10 + 10


@pytest.mark.parametrize(("blocks", "width", "groups", "se"), [(9, 80, 2, 0), (9, 80, 2, 2), (6, 96, 4, 0)])
def test_embedded_rows(blocks: int, width: int, groups: int, se: int) -> None:
    model = {"name": NAME, "layout": "embedded", "blocks": blocks, "width": width, "groups": groups, "se": se}
    wanted = _by_hand(default_widths(model), blocks // 3, groups, se)
    assert count(model, (32, 32, 3), 10).trainable_params == wanted


@pytest.mark.parametrize("model", [{"name": NAME}, {"name": NAME, "groups": 8, "width_multiplier": 0.5}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model) == (16, 8, 6, 6, 24, 12, 12, 48, 24, 24)
    narrow = (14, 6, 4, 2, 18, 10, 8, 40, 20, 22)
    assert trainable({**model, "widths": narrow}) == _by_hand(narrow, 2, 2, 2)


def test_forward() -> None:
    check_forward(small(NAME))


def test_the_first_unit_keeps_its_input_and_adds_channels() -> None:
    units = network(small(NAME)).units
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 16))
    out = units[0](x)
    assert out.shape == (1, 32, 32, 24)
    np.testing.assert_array_equal(out[..., :16], x)
    halved = units[2](units[1](out))
    assert halved.shape == (1, 16, 16, 48)
    np.testing.assert_allclose(halved[:, 0, 0, :24], units[1](out)[:, :3, :3].mean((1, 2)), rtol=1e-5)


def test_the_shuffle_lets_groups_see_each_other() -> None:
    unit = network(small(NAME)).units[1]  # 24 channels in 2 groups
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 24))
    changed = unit(x.at[..., 0].add(10.0)) - unit(x)
    assert np.abs(changed[..., 12:]).max() > 0


@pytest.mark.parametrize(("options", "shape", "message"), [
    ({"layout": "embedded", "blocks": 10}, (32, 32, 3), "multiple of 3, got 10"),
    ({"layout": "embedded", "width": 16}, (32, 32, 3), r"wider than the first convolution \(16\), got 16"),
    ({"layout": "embedded", "blocks": 3, "width": 40, "groups": 4}, (32, 32, 3),
     "stage 2 unit 1, inner: .* multiple of 4.* got 10"),
    ({"layout": "embedded", "blocks": 3, "groups": 3, "widths": (16, 8, 6, 24, 12, 48, 24)}, (32, 32, 3),
     "stage 2 unit 1, output: .* in 3 groups .* got 8"),
    ({"widths": (24, 116)}, (224, 224, 3), "20 widths .*, got 2"),
    ({}, (28, 32, 3), "at least 32, got 28x32"),
    ({"layout": "embedded"}, (3, 3, 1), "at least 4, got 3x3"),
])  # fmt: skip
def test_impossible_options(options: dict[str, object], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: network({"name": NAME, "input_shape": shape, "num_classes": 10, **options}))


@pytest.mark.parametrize(("option", "value"), [("groups", 5), ("width_multiplier", 0), ("se", -1), ("dropout", 1)])
def test_values_out_of_range(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"model.{option} of {NAME}"):
        network({"name": NAME, option: value})
