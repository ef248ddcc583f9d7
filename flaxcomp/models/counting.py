"""Sizes of a network from its traced program: one convention for every architecture, nothing counted by hand.

For one image, in eval mode, with the plain form of every layer:

- `macs`: multiply-adds of convolutions and matrix products, padding included, as the published counts do;
- `flops`: twice those, plus one for each number that any other arithmetic yields (a sum or maximum over a window: one for
  each number that enters it). Moving numbers is free.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Literal, jaxprs_in_params

from flaxcomp.models import layers
from flaxcomp.models.abstract import abstract

# Primitives that compute nothing: they move, copy, select, compare shapes or rename.
_FREE = {
    "reshape", "transpose", "broadcast_in_dim", "slice", "dynamic_slice", "squeeze", "rev", "concatenate", "split",
    "expand_dims", "copy", "pad", "gather", "convert_element_type", "stop_gradient", "iota", "select_n", "optimization_barrier",
}  # fmt: skip
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
_SAME_WEIGHT = {"convert_element_type", "copy", "reshape", "transpose", "broadcast_in_dim", "stop_gradient", "squeeze"}


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own.

    Attributes:
        name: its path in the network.
        output_shape: of one image, [h, w, c] or [features]; None where it is no convolution or dense layer.
        trainable_params: its parameters. macs: see above; 0 for what is no convolution or dense layer.
    """

    name: str
    output_shape: tuple[int, ...] | None
    trainable_params: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """Sizes of a network.

    Attributes:
        params: all numbers that it keeps, batch statistics included.
        trainable_params: those that training changes.
        macs, flops: for one image, see above.
        layers: in the order of the network's modules.
    """

    params: int
    trainable_params: int
    macs: int
    flops: int
    layers: tuple[Layer, ...]


def count(model: dict[str, Any], input_shape: tuple[int, int, int], num_classes: int) -> Counts:
    """Count without allocating or computing anything."""
    network = abstract(model, input_shape, num_classes)
    network.eval()
    graph, state, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params = nnx.to_pure_dict(state)
    shape = tuple(model.get("input_shape", input_shape))
    with layers.plain_forms():
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda p, r, x: nnx.merge(graph, p, r)(x))(params, rest, image).jaxpr
    paths = [_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    sizes = {path: math.prod(leaf.shape) for path, leaf in zip(paths, jax.tree.leaves(params), strict=True)}
    found = list(_products(jaxpr, dict(zip(jaxpr.invars, paths, strict=False))))
    trainable, macs = sum(sizes.values()), sum(macs for _, _, macs in found)
    other = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(rest))
    return Counts(trainable + other, trainable, macs, 2 * macs + _arithmetic(jaxpr), _layers(sizes, found))


Product = tuple[str | None, tuple[int, ...], int]  # the path of its kernel, its output's shape, its multiply-adds


def _layers(sizes: dict[str, int], found: list[Product]) -> tuple[Layer, ...]:
    by_layer: dict[str, int] = {}
    for path, size in sizes.items():
        layer = path.rpartition("/")[0]
        by_layer[layer] = by_layer.get(layer, 0) + size
    shapes: dict[str, tuple[int, ...]] = {}
    macs: dict[str, int] = {}
    for kernel, shape, number in found:
        layer = (kernel or "").rpartition("/")[0]
        shapes[layer] = shape[1:]
        macs[layer] = macs.get(layer, 0) + number
    return tuple(Layer(name, shapes.get(name), size, macs.get(name, 0)) for name, size in by_layer.items())


def _products(jaxpr: Any, names: dict[Any, str]) -> Iterator[Product]:
    """All convolutions and matrix products; `names` says which variables are parameters, also inside inner programs."""
    for equation in jaxpr.eqns:
        inputs = [None if isinstance(v, Literal) else names.get(v) for v in equation.invars]
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield inputs[1] or inputs[0], equation.outvars[0].aval.shape, _macs(equation)
        elif equation.primitive.name in _SAME_WEIGHT and inputs[0]:
            names[equation.outvars[0]] = inputs[0]
        for inner in jaxprs_in_params(equation.params):
            given = inputs[len(inputs) - len(inner.invars) :]
            yield from _products(inner, {v: name for v, name in zip(inner.invars, given, strict=False) if name})


def _macs(equation: Any) -> int:
    if equation.primitive.name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return int(math.prod(out) * math.prod(kernel) // out_features)  # each output: height * width * inputs of its group
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return int(math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted))


def _arithmetic(jaxpr: Any) -> int:
    """Operations of everything but convolutions and matrix products."""
    total = 0
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        name, out = equation.primitive.name, math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name.startswith("reduce_window"):
            total += out * math.prod(equation.params["window_dimensions"])
        elif name in _REDUCTIONS:
            total += math.prod(equation.invars[0].aval.shape)
        elif inner:
            total += sum(map(_arithmetic, inner))
        elif name not in _FREE and name not in ("conv_general_dilated", "dot_general"):
            total += out
    return total


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in path)
