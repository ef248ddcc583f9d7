"""The CIFAR-10 tutorial's network, its sizes, its normalisation, and the convention behind Distill-Net's figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from flaxcomp.models.tf_cifar import local_response_norm
from small_networks import check_forward, check_widths, network, small, trainable

NAME = "tf_cifar"
SIZES = {  # pixels: parameters, multiply-adds; by hand, the tutorial prints none
    24: (1_068_298, 24 * 24 * 64 * 75 + 12 * 12 * 64 * 1600 + 2304 * 384 + 384 * 192 + 1920),
    28: (1_387_786, 28 * 28 * 64 * 75 + 14 * 14 * 64 * 1600 + 3136 * 384 + 384 * 192 + 1920),
    32: (1_756_426, 32 * 32 * 64 * 75 + 16 * 16 * 64 * 1600 + 4096 * 384 + 384 * 192 + 1920),
}


@pytest.mark.parametrize("norm", ["lrn", "none"])
@pytest.mark.parametrize("pixels", SIZES)
def test_sizes(pixels: int, norm: str) -> None:
    params, macs = SIZES[pixels]
    counts = count({"name": NAME, "norm": norm}, (pixels, pixels, 3), 10)
    assert (counts.trainable_params, counts.params, counts.macs) == (params, params, macs)  # normalisation counts nothing


def test_distill_nets_figure() -> None:
    """Table 3 of Distill-Net: 25,112 KFLOPs, which are multiply-adds at 28x28 pixels without the logits."""
    assert round((count({"name": NAME}, (28, 28, 3), 10).macs - 192 * 10) / 1000) == 25_112


@pytest.mark.parametrize("model", [{"name": NAME}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths_and_other_inputs() -> None:
    narrow = {"name": NAME, "widths": (3, 5, 7, 11)}
    assert trainable(narrow) == 76 * 3 + 76 * 5 + (36 * 5 + 1) * 7 + 8 * 11 + 120
    odd = {**narrow, "input_shape": (21, 25, 1)}  # SAME pools round up: 6 x 7 pixels
    assert trainable(odd) == 26 * 3 + 76 * 5 + (42 * 5 + 1) * 7 + 8 * 11 + 120
    network(odd)(np.zeros((1, 21, 25, 1), np.float32))


@pytest.mark.parametrize("norm", ["lrn", "none"])
def test_forward(norm: str) -> None:
    check_forward({**small(NAME), "norm": norm})


@pytest.mark.parametrize(("channels", "radius", "alpha", "beta"), [
    (12, 4, 0.001 / 9, 0.75), (3, 4, 0.5, 0.75), (7, 2, 1.0, 0.5),
])  # fmt: skip
def test_local_response_norm_is_its_formula(channels: int, radius: int, alpha: float, beta: float) -> None:
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 5, channels))) * 4
    got = local_response_norm(jnp.asarray(x), radius, alpha, beta)
    sums = np.stack([(x[..., max(0, i - radius) : i + radius + 1] ** 2).sum(-1) for i in range(channels)], -1)
    np.testing.assert_allclose(got, x / (1 + alpha * sums) ** beta, rtol=1e-5)


def test_local_response_norm_refuses_other_powers() -> None:
    with pytest.raises(ValueError, match=r"beta must be 0.5 or 0.75, got 0.6"):
        local_response_norm(jnp.zeros((1, 1, 1, 8)), beta=0.6)


@pytest.mark.parametrize(("option", "value"), [
    ("widths", (64, 64, 384)), ("widths", (64, 64, 384, 0)), ("norm", "batch"), ("dropout", 1), ("input_shape", (0, 32, 3)),
])  # fmt: skip
def test_impossible_options(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"model.{option}"):
        network({"name": NAME, option: value})
