"""Parameters and multiply-adds of a network, from its traced program: one convention for every architecture.

`macs` counts the multiply-adds of convolutions and matrix products for one image, padding included (as the published
counts do). Nothing is counted by hand per model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models import layers, registry


@dataclass(frozen=True)
class Counts:
    """Sizes of a network.

    Attributes:
        params: all numbers that it keeps, batch statistics included.
        trainable_params: those that training changes.
        macs: multiply-adds of convolutions and dense layers for one image.
    """

    params: int
    trainable_params: int
    macs: int


def count(model: dict[str, Any], input_shape: tuple[int, int, int], num_classes: int) -> Counts:
    """Count without allocating or computing anything."""
    network = nnx.eval_shape(lambda: registry.build(model, input_shape, num_classes, nnx.Rngs(params=jax.random.key(0))))
    network.eval()
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    with layers.plain_forms():
        image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda p, r, x: nnx.merge(graph, p, r)(x))(params, rest, image)
    trainable = _size(params)
    return Counts(trainable + _size(rest), trainable, sum(_macs(equation) for equation in _equations(jaxpr.jaxpr)))


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _macs(equation: Any) -> int:
    name = equation.primitive.name
    if name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return int(math.prod(out) * math.prod(kernel) // out_features)  # each output: height * width * inputs of its group
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return int(math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted))
    return 0
