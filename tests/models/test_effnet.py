"""EffNet against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, default_widths, network, small, trainable

NAME = "effnet"


def _params(c_in: int, blocks: list[tuple[int, int]], pixels: int, stem: int = 0) -> int:
    """Trainable parameters by hand for an RGB image and 10 classes: blocks of inner channels and outputs (0: no stride)."""
    total = c_in * stem + 2 * stem
    c_in = stem or c_in
    for inner, out in blocks:
        total += c_in * inner + 6 * inner + 6 * inner + 2 * inner * out + 2 * out
        c_in = out or inner
    return total + pixels * c_in * 10 + 10


def test_published_layout() -> None:
    """By hand: 1x1x32, 1x1x64 and 1x1x128 blocks; arthurdouillard/keras-effnet has the same convolutions."""
    counts = count({"name": NAME}, (32, 32, 3), 10)
    assert counts.trainable_params == _params(3, [(32, 64), (64, 128), (128, 256)], 16) == 151_146
    macs = 4096 * 10
    for side, c_in, inner in ((32, 3, 32), (16, 32 * 2, 64), (8, 64 * 2, 128)):
        macs += (
            side**2 * c_in * inner + side**2 * 3 * inner + side**2 // 2 * 3 * inner + (side // 2) ** 2 * 2 * inner * 2 * inner
        )
    assert counts.macs == macs == 5_640_192


def test_embedded_row() -> None:
    counts = count({"name": NAME, "layout": "embedded", "blocks": 12, "width": 32, "expansion": 4}, (32, 32, 3), 10)
    blocks = [(64, 0)] * 3 + [(64, 64)] + [(128, 0)] * 3 + [(128, 128)] + [(256, 0)] * 3 + [(256, 256)]
    assert counts.trainable_params == _params(3, blocks, 16, stem=32)


@pytest.mark.parametrize("model", [{"name": NAME}, {"name": NAME, "blocks": 6, "expansion": 3}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths() -> None:
    model = small(NAME)
    assert default_widths(model) == (8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    narrow = {**model, "widths": (7, 5, 9, 4, 11, 3, 6, 13, 8, 2)}
    assert trainable(narrow) == _params(3, [(5, 0), (9, 4), (11, 0), (3, 6), (13, 0), (8, 2)], 16, stem=7)


def test_forward() -> None:
    check_forward(small(NAME))


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 7, 3), (8, 1, 1)])
def test_sizes_that_halves_do_not_divide(shape: tuple[int, int, int]) -> None:
    built = network({**small(NAME), "input_shape": shape})
    assert built(jnp.zeros((1, *shape))).shape == (1, 10)


def test_a_block_halves_both_sides_and_looks_at_every_pixel() -> None:
    unit = network({"name": NAME}).units[1]
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 64))
    assert unit(x).shape == (1, 8, 8, 128)
    seen = np.abs(jax.grad(lambda x: (unit(x) ** 2).sum())(x)).sum((0, 3))
    assert (seen > 0).all()


def test_slope_of_the_leaky_relu() -> None:
    model = small(NAME)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    assert not np.allclose(network(model)(x), network({**model, "slope": 0.0})(x))


@pytest.mark.parametrize(("options", "message"), [
    ({"blocks": 10}, "multiple of 3, got 10"),
    ({"widths": (32, 64)}, "6 widths .*, got 2"),
    ({"layout": "imagenet"}, f"model.layout of {NAME}"),
    ({"expansion": 0}, f"model.expansion of {NAME}"),
    ({"slope": -0.1}, f"model.slope of {NAME}"),
])  # fmt: skip
def test_impossible_options_are_refused_without_building(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.config_of({"name": NAME, **options})


def test_image_that_cannot_be_halved_three_times() -> None:
    with pytest.raises(UserError, match="at least 8, got 7x32"):
        nnx.eval_shape(lambda: network({"name": NAME, "input_shape": (7, 32, 3)}))
