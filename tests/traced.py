"""What tests look for in a traced program."""

from collections.abc import Iterator
from typing import Any

import jax.extend

IMAGES_FIRST = (0, 3, 1, 2)  # batch, channels, height, width of NHWC


def kernel_gradients(jaxpr: Any) -> list[Any]:
    """The library's convolutions that sum over the batch, as its kernel gradients do: equations."""
    return [conv for conv in _convolutions(jaxpr) if conv.params["dimension_numbers"].lhs_spec != IMAGES_FIRST]


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _convolutions(inner)
