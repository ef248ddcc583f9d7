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


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product, for one image.

    Attributes:
        kernel: the path of the parameter that it multiplies by, None where that is no parameter.
        input_shape, output_shape: [h, w, c] or [features].
        window: the kernel's height and width, () of a matrix product. strides: likewise.
        groups: of a grouped convolution; the input's channels of a depthwise one.
        macs: multiply-adds.
    """

    kernel: str | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    macs: int


def count(model: dict[str, Any], input_shape: tuple[int, int, int], num_classes: int) -> Counts:
    """Count without allocating or computing anything."""
    network = abstract(model, input_shape, num_classes)
    network.eval()
    return count_network(network, tuple(model.get("input_shape", input_shape)))


def count_network(network: nnx.Module, input_shape: tuple[int, int, int]) -> Counts:
    """Count a network in eval mode, with arrays or with their shapes alone."""
    params, rest, jaxpr = _traced(network, input_shape)
    sizes = {path: math.prod(leaf.shape) for path, leaf in params.items()}
    found = list(_products(jaxpr, dict(zip(jaxpr.invars, params, strict=False))))
    trainable, macs = sum(sizes.values()), sum(product.macs for product in found)
    other = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(rest))
    return Counts(trainable + other, trainable, macs, 2 * macs + _arithmetic(jaxpr), _layers(sizes, found))


def products(network: nnx.Module, input_shape: tuple[int, int, int]) -> tuple[Product, ...]:
    """The convolutions and matrix products of a network in eval mode, in the order in which it computes them."""
    params, _, jaxpr = _traced(network, input_shape)
    return tuple(_products(jaxpr, dict(zip(jaxpr.invars, params, strict=False))))


def _traced(network: nnx.Module, input_shape: tuple[int, int, int]) -> tuple[dict[str, Any], Any, Any]:
    """The parameters by path, in the order of the program's first inputs; the rest of the state; the program."""
    graph, state, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params = nnx.to_pure_dict(state)
    with layers.plain_forms():
        image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda p, r, x: nnx.merge(graph, p, r)(x))(params, rest, image).jaxpr
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}, rest, jaxpr


def _layers(sizes: dict[str, int], found: list[Product]) -> tuple[Layer, ...]:
    by_layer: dict[str, int] = {}
    for path, size in sizes.items():
        layer = path.rpartition("/")[0]
        by_layer[layer] = by_layer.get(layer, 0) + size
    shapes: dict[str, tuple[int, ...]] = {}
    macs: dict[str, int] = {}
    for product in found:
        layer = (product.kernel or "").rpartition("/")[0]
        shapes[layer] = product.output_shape
        macs[layer] = macs.get(layer, 0) + product.macs
    return tuple(Layer(name, shapes.get(name), size, macs.get(name, 0)) for name, size in by_layer.items())


def _products(jaxpr: Any, names: dict[Any, str]) -> Iterator[Product]:
    """All convolutions and matrix products; `names` says which variables are parameters, also inside inner programs."""
    for equation in jaxpr.eqns:
        inputs = [None if isinstance(v, Literal) else names.get(v) for v in equation.invars]
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield _product(equation, inputs[1] or inputs[0])
        elif (weight := same_weight(equation, inputs)) is not None:
            names[equation.outvars[0]] = weight
        for inner in jaxprs_in_params(equation.params):
            given = inputs[len(inputs) - len(inner.invars) :]
            yield from _products(inner, {v: name for v, name in zip(inner.invars, given, strict=False) if name})


def same_weight(equation: Any, inputs: list[str | None]) -> str | None:
    """The parameter that an equation's result stands for: it was moved or, by a product of its own shape, masked."""
    if equation.primitive.name in _SAME_WEIGHT:
        return inputs[0]
    if equation.primitive.name != "mul" or len(equation.outvars[0].aval.shape) < 2:
        return None
    masked = [name for name, v in zip(inputs, equation.invars, strict=True) if name and v.aval == equation.outvars[0].aval]
    return masked[0] if len(masked) == 1 else None


def _product(equation: Any, kernel: str | None) -> Product:
    left, right, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        macs = math.prod(out) * math.prod(left[axis] for axis in contracted)
        return Product(kernel, left[1:], out[1:], (), (), 1, int(macs))
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    macs = math.prod(out) * math.prod(right) // right[numbers.rhs_spec[0]]  # each output: height * width * inputs of its group
    window = tuple(right[axis] for axis in numbers.rhs_spec[2:])
    return Product(kernel, left[1:], out[1:], window, equation.params["window_strides"], groups, int(macs))


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
