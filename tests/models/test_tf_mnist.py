"""The MNIST tutorial's network: sizes of the two published forms, and where Distill-Net's figure differs."""

import itertools

import numpy as np
import pytest

from flaxcomp.errors import UserError
from flaxcomp.models.counting import count
from small_networks import check_forward, check_widths, network, small, trainable

NAME = "tf_mnist"
PUBLISHED = [  # widths, parameters, multiply-adds by hand
    ((32, 64, 512), 1_663_370, 28 * 28 * 32 * 25 + 14 * 14 * 64 * 800 + 3136 * 512 + 5120),  # tutorials/image/mnist
    ((32, 64, 1024), 3_274_634, 28 * 28 * 32 * 25 + 14 * 14 * 64 * 800 + 3136 * 1024 + 10240),  # as SimpLeNet's teacher
]
DISTILL_NET_KFLOPS = 18_014  # table 3, no convention stated


@pytest.mark.parametrize(("widths", "params", "macs"), PUBLISHED)
def test_published_sizes(widths: tuple[int, ...], params: int, macs: int) -> None:
    counts = count({"name": NAME, "widths": widths}, (28, 28, 1), 10)
    assert (counts.trainable_params, counts.params, counts.macs) == (params, params, macs)


@pytest.mark.parametrize(("hidden", "padding"), list(itertools.product((512, 1024), ("SAME", "VALID"))))
def test_no_usual_convention_gives_distill_nets_figure(hidden: int, padding: str) -> None:
    """Multiply-adds once or twice, last layer, biases and ReLUs counted or not, thousands of 1000 or 1024."""
    side1 = 28 if padding == "SAME" else 24
    side2 = 14 if padding == "SAME" else 8
    products = side1**2 * 32 * 25 + side2**2 * 64 * 800 + (side2 // 2) ** 2 * 64 * hidden
    outputs = side1**2 * 32 + side2**2 * 64 + hidden
    for per_product, last, per_output, unit in itertools.product((1, 2), (0, 1), (0, 1, 2), (1000, 1024)):
        kflops = (per_product * (products + last * 10 * hidden) + per_output * outputs) / unit
        assert abs(kflops - DISTILL_NET_KFLOPS) > 0.03 * DISTILL_NET_KFLOPS


@pytest.mark.parametrize("model", [{"name": NAME}, small(NAME)])
def test_widths_describe_the_network(model: dict[str, object]) -> None:
    check_widths(model)


def test_narrower_widths_and_other_inputs() -> None:
    assert trainable({"name": NAME, "widths": (3, 5, 7)}) == 26 * 3 + 76 * 5 + (49 * 5 + 1) * 7 + 80
    odd = {"name": NAME, "widths": (3, 5, 7), "input_shape": (29, 33, 3)}  # SAME pools round up: 8 x 9 pixels
    assert trainable(odd) == 76 * 3 + 76 * 5 + (8 * 9 * 5 + 1) * 7 + 80
    network(odd)(np.zeros((1, 29, 33, 3), np.float32))


def test_forward() -> None:
    check_forward(small(NAME))


def test_initial_weights() -> None:
    built = network({"name": NAME})
    assert float(np.std(built.hidden.kernel[...])) == pytest.approx(0.088, rel=0.03)  # of scale 0.1 and cut at 2
    assert float(np.abs(built.hidden.kernel[...]).max()) <= 0.2
    biases = [layer.bias[...] for layer in (built.conv1, built.conv2, built.hidden, built.logits)]
    for bias, value in zip(biases, (0.0, 0.1, 0.1, 0.1), strict=True):
        np.testing.assert_array_equal(bias, np.float32(value))


@pytest.mark.parametrize(("option", "value"), [
    ("widths", (32, 64)), ("widths", (32, 64, 0)), ("dropout", -0.1), ("input_shape", (28, 28)), ("norm", "lrn"),
])  # fmt: skip
def test_impossible_options(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"model.{option}"):
        network({"name": NAME, option: value})
