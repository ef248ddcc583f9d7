"""What all architectures' options are checked for alike."""

import subprocess
import sys

import pytest

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.config import a_third, check_halvings, check_number_of_widths, check_size


@pytest.mark.parametrize(("model", "message"), [
    ({"name": "mobilenet_v1", "blocks": 9}, r"model\.blocks of mobilenet_v1: only layout embedded has it, got layout imagenet"),
    ({"name": "mobilenet_v1", "layout": "embedded", "width_multiplier": 1.0},  # also where it is the default
     r"model\.width_multiplier of mobilenet_v1: only layout imagenet or cifar has it, got layout embedded"),
    ({"name": "googlenet", "auxiliary_weight": 0.3}, r"only auxiliary true has it, got auxiliary false"),
    ({"name": "nasnet_a", "layout": "cifar", "stem": 32}, r"model\.stem of nasnet_a: only layout imagenet has it"),
])  # fmt: skip
def test_an_option_without_effect_is_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.config_of(model)


def test_options_of_the_chosen_layout_are_taken() -> None:
    model = {"name": "mobilenet_v1", "layout": "cifar", "width_multiplier": 0.5}
    assert registry.canonical(model) == model
    model = {"name": "googlenet", "auxiliary": True, "auxiliary_weight": 0.2}
    assert registry.canonical(model) == model


def test_impossible_blocks_and_widths_are_refused_without_jax() -> None:
    code = """
import sys
from flaxcomp.errors import UserError
from flaxcomp.models import registry
for model in ({"name": "shufflenet_v2", "layout": "embedded", "blocks": 10}, {"name": "inception_v3", "widths": [8, 8]}):
    try:
        registry.config_of(model)
    except UserError as error:
        print(error)
assert not {"jax", "flax"} & set(sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out == [
        "model.blocks of shufflenet_v2: three sub-networks of equal depth need a multiple of 3, got 10",
        "model.widths of inception_v3: it has 96 widths with these options (by default 32, 32, 64, 80, 192, 64, 48, 64, ...), "
        "got 2",
    ]


def test_widths() -> None:
    check_number_of_widths("net", (), (4, 8))
    check_number_of_widths("net", (3, 5), (4, 8))
    with pytest.raises(UserError, match=r"model\.widths of net: it has 2 widths with these options \(by default 4, 8\), got 1"):
        check_number_of_widths("net", (3,), (4, 8))


def test_thirds() -> None:
    assert a_third("net", 12) == 4
    for blocks in (0, 10):
        with pytest.raises(UserError, match=f"a multiple of 3, got {blocks}"):
            a_third("net", blocks)


def test_sizes() -> None:
    check_size("net", (8, 9, 1), 8, "halves its input three times")
    with pytest.raises(UserError, match="net halves its input three times: height and width must be at least 8, got 7x9"):
        check_size("net", (7, 9, 1), 8, "halves its input three times")


@pytest.mark.parametrize(
    ("size", "up", "told"), [((7, 4), True, "c halves .* gives it 2x1"), ((7, 3), False, "b halves .* gives it 3x1")]
)
def test_halvings(size: tuple[int, int], up: bool, told: str) -> None:
    check_halvings("net", (8, 8, 1), (8, 8), "abc", up=up)
    with pytest.raises(UserError, match=told):
        check_halvings("net", (*size, 1), size, "abc", up=up)
