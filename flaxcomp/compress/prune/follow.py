"""Runs a network's traced program on channels instead of numbers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Literal

from flaxcomp.compress.prune.reading import NOTHING, Axis, Known, Reading, Value, Weight, WeightAxis, constant, of
from flaxcomp.compress.prune.rules import RULES, unknown
from flaxcomp.models import layers
from flaxcomp.models.outputs import CALLS

_LARGEST_KNOWN = 1 << 16
INPUT, LOGITS = "channels of the input", "the logits"


def follow(
    network: nnx.Module,
    input_shape: tuple[int, int, int],
    apart: frozenset[tuple[str, int]] = frozenset(),
    known: frozenset[tuple[str, int]] = frozenset(),
    depthwise: frozenset[str] = frozenset(),
) -> Reading:
    """Read a network in eval mode, with the plain form of every layer; and in training mode what runs only there.

    Args:
        network: with arrays or with their shapes alone; it is left in eval mode.
        input_shape: height, width, channels.
        apart, known, depthwise: see `Reading`.
    """
    reading = Reading(apart=apart, known=known, depthwise=depthwise)
    network.eval()
    leaves = leaves_of(network)
    values = [_parameter(reading, path, leaf) for path, leaf in leaves.items()]
    idle = _read(reading, network, input_shape, values, training=False)
    parameters = leaves_of(network, nnx.Param)
    if any(path in parameters for path, unused in zip(leaves, idle, strict=True) if unused):  # such as auxiliary heads
        network.train()
        _read(reading, network, input_shape, values, training=True)
        network.eval()
    return reading


def leaves_of(network: nnx.Module, *kind: Any) -> dict[str, Any]:
    """Parameters, batch statistics and whatever else a network keeps, or those of a `kind`, by path: `blocks/0/conv/kernel`."""
    state: Any = nnx.state(network, *kind)
    return dict(flat(nnx.to_pure_dict(state)))


def flat(state: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree of mappings with their paths, in JAX's order."""
    pairs = jax.tree_util.tree_flatten_with_path(state)[0]
    return [("/".join(str(getattr(key, "key", key)) for key in path), leaf) for path, leaf in pairs]


def _read(
    reading: Reading, network: nnx.Module, input_shape: tuple[int, int, int], values: list[Value], *, training: bool
) -> list[bool]:
    """Return for each leaf whether nothing sees it."""
    graph, state = nnx.split(network)

    def forward(state: Any, x: jax.Array) -> Any:
        merged: Any = nnx.merge(graph, state)
        return merged(x, rngs=nnx.Rngs(dropout=0)) if training else merged(x)

    with layers.plain_forms():
        image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        program = jax.make_jaxpr(forward)(nnx.to_pure_dict(state), image)
    for out in _run(reading, program.jaxpr, program.consts, [*values, _image(reading, input_shape)]):
        reading.labels.freeze(of(out), LOGITS)
    seen = {variable for equation in program.jaxpr.eqns for variable in equation.invars if not isinstance(variable, Literal)}
    return [variable not in seen for variable in program.jaxpr.invars[: len(values)]]


def _image(reading: Reading, input_shape: tuple[int, int, int]) -> Value:
    ids = reading.labels.fresh(input_shape[-1])
    reading.labels.freeze(ids, INPUT)
    return ids.reshape(1, 1, 1, -1)


def _parameter(reading: Reading, path: str, leaf: Any) -> Value:
    """Fresh labels for every index of every axis of floating-point leaves."""
    if not leaf.shape or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return constant(leaf.shape)
    axes = [WeightAxis(reading.labels.fresh(size), ((path, i),)) for i, size in enumerate(leaf.shape)]
    if len(axes) > 1:
        return Weight(tuple(axes))
    reading.channels[Axis(path, 0, "vector")] = axes[0].ids
    return axes[0].ids


def _run(reading: Reading, jaxpr: Any, consts: Sequence[Any], given: Sequence[Value]) -> list[Value]:
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))

    def read(variable: Any) -> Value:
        return _constant(variable.val) if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        name, params = equation.primitive.name, equation.params
        inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if name in CALLS and inner is not None:
            outputs = _run(reading, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        elif all(isinstance(value, Known) for value in inputs) and (computed := _compute(equation, inputs)) is not None:
            outputs = computed
        else:
            if name != "gather":
                inputs = [_forgotten(value, variable) for value, variable in zip(inputs, equation.invars, strict=True)]
            outputs = RULES.get(name, unknown)(reading, equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _forgotten(value: Value, variable: Any) -> Value:
    return constant(variable.aval.shape) if isinstance(value, Known) else value


def _constant(value: Any) -> Value:
    shape = np.shape(value)
    if _is_whole(getattr(value, "dtype", np.asarray(value).dtype)) and math.prod(shape) <= _LARGEST_KNOWN:
        return Known(np.asarray(value))
    return constant(shape) if shape else NOTHING


def _is_whole(dtype: Any) -> bool:
    return dtype == np.bool_ or jnp.issubdtype(dtype, jnp.integer)


def _compute(equation: Any, inputs: Sequence[Value]) -> list[Value] | None:
    """What known integers make, for indices; None where it is of no use."""
    small = all(math.prod(out.aval.shape) <= _LARGEST_KNOWN for out in equation.outvars)
    if not small or not all(_is_whole(out.aval.dtype) for out in equation.outvars):
        return None
    arrays = [jnp.asarray(value.array) for value in inputs if isinstance(value, Known)]
    result = equation.primitive.bind(*arrays, **equation.params)
    return [Known(np.asarray(out)) for out in (result if equation.primitive.multiple_results else [result])]
