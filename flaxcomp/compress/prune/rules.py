"""What each primitive does to channels: one table, from the primitive's name to a rule.

A rule is given the reading, the equation and its inputs and returns its outputs. What no rule covers freezes the channels that
it touches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxcomp.compress.prune.labels import Ids
from flaxcomp.compress.prune.reading import (
    Known,
    Reading,
    Value,
    Weight,
    WeightAxis,
    compress,
    constant,
    expand,
    of,
)
from flaxcomp.compress.prune.shapes import reshaped

Rule = Callable[[Reading, Any, Sequence[Value]], list[Value]]

ELEMENTWISE = {
    "add", "sub", "mul", "div", "max", "min", "exp", "exp2", "logistic", "tanh", "neg", "sign", "sqrt", "rsqrt", "cbrt",
    "integer_pow", "pow", "select_n", "convert_element_type", "stop_gradient", "erf", "log", "log1p", "expm1", "square", "abs",
    "gt", "lt", "ge", "le", "eq", "ne", "and", "or", "not", "xor", "is_finite", "clamp", "round", "floor", "ceil", "add_any",
    "copy", "optimization_barrier", "reduce_precision", "rem", "nextafter", "sin", "cos", "atan2", "name",
}  # fmt: skip


def unknown(reading: Reading, equation: Any, values: Sequence[Value], why: str = "") -> list[Value]:
    """Freeze what cannot be followed, in and out."""
    text = why or f"passes {equation.primitive.name}, which is not followed"
    label = reading.give_up(values, text)
    return [constant(out.aval.shape, label) for out in equation.outvars]


def elementwise(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    weights = [value for value in values if isinstance(value, Weight)]
    others = [of(value) for value in values if not isinstance(value, Weight)]
    shape = equation.outvars[0].aval.shape
    if not weights:
        others = [ids if ids.ndim == len(shape) else constant(shape) for ids in others]  # scalars have no channels
        return [reading.labels.meet(others)] * len(equation.outvars)
    axes = list(weights[0].axes)
    for weight in weights[1:]:
        for i, (one, other) in enumerate(zip(axes, weight.axes, strict=True)):
            reading.labels.unite(one.ids, other.ids)
            axes[i] = WeightAxis(one.ids, tuple(dict.fromkeys(one.sources + other.sources)))
    for ids in others:  # such as a factor for each output channel
        along = [axis for axis, size in enumerate(ids.shape) if size > 1 or (shape[axis] == 1 and ids.any())]
        if len(along) > 1:
            return unknown(reading, equation, values, "meets a parameter of two or more axes")
        for axis in along:
            reading.labels.unite(axes[axis].ids, ids.ravel())
    return [Weight(tuple(axes))] * len(equation.outvars)


def convolution(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    value, kernel = values
    groups = equation.params["feature_group_count"]
    if isinstance(value, Weight) or not isinstance(kernel, Weight) or equation.params["batch_group_count"] != 1:
        return unknown(reading, equation, values)
    dims = equation.params["dimension_numbers"]
    out, into = kernel.axes[dims.rhs_spec[0]], kernel.axes[dims.rhs_spec[1]]
    given = _by_channel(value, dims.lhs_spec[1], equation.invars[0].aval.shape)
    unite = reading.labels.unite
    if groups == 1:
        depthwise = any(leaf in reading.depthwise for leaf, _ in into.sources)
    else:
        depthwise = into.ids.size == 1 and reading.known.isdisjoint(into.sources)  # of any multiplier
    if depthwise:
        unite(np.repeat(given, out.ids.size // groups, 1), out.ids)
    elif groups == 1:
        reading.use(into, "in")
        unite(into.ids, given)
    else:
        unite(_by_group(reading, into, groups, "in").ravel(), given)
        _by_group(reading, out, groups, "out")
    if groups == 1 or depthwise:
        reading.use(out, "depthwise" if depthwise else "out")
    return [_along(out.ids, dims.out_spec[1], len(equation.outvars[0].aval.shape))]


def _by_group(reading: Reading, axis: WeightAxis, groups: int, role: Any) -> Ids:
    """The labels that each group of a grouped convolution sees along its kernel's axis, [groups, channels of a group].

    Every group must keep as many. Positions are tied over the groups, which takes care of that; or, where the axis is
    `apart`, each group chooses for itself, and the fresh network says how many.
    """
    for source in axis.sources:
        reading.grouped[source] = groups
    if not reading.apart.isdisjoint(axis.sources):
        if role == "in":  # the kernel has one position for all groups: give each its own
            owner = axis.sources[0]
            axis = axis._replace(ids=reading.own.setdefault(owner, reading.labels.fresh(groups * axis.ids.size)))
        reading.use(axis, role, groups)
        return axis.ids.reshape(groups, -1)
    reading.use(axis, role)
    if role == "in":
        return np.tile(axis.ids, (groups, 1))
    parts = axis.ids.reshape(groups, -1)
    reading.labels.unite(parts[0], parts)
    return parts


def product(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    (left, right), batch = equation.params["dimension_numbers"]
    sides = [(values[0], left, 0), (values[1], right, 1)]
    weights = [side for side in sides if isinstance(side[0], Weight)]
    if len(weights) != 1 or len(left) != 1 or any(map(len, batch)):
        return unknown(reading, equation, values)
    (kernel, (kernel_axis,), place), (value, (axis,), other) = weights[0], sides[1 - weights[0][2]]
    assert isinstance(kernel, Weight)
    shape = equation.invars[other].aval.shape
    outs = [i for i in range(len(kernel.axes)) if i != kernel_axis]
    if len(outs) != 1 or any(size > 1 for i, size in enumerate(of(value).shape) if i != axis):
        return unknown(reading, equation, values, "meets a product of more than channels by channels")
    into, out = kernel.axes[kernel_axis], kernel.axes[outs[0]]
    reading.use(into, "in")
    reading.use(out, "out")
    reading.labels.unite(into.ids, _by_channel(value, axis, shape))
    rank = len(equation.outvars[0].aval.shape)
    return [_along(out.ids, rank - 1 if place == 1 else 0, rank)]


def _by_channel(value: Value, axis: int, shape: tuple[int, ...]) -> Ids:
    """[positions, channels]"""
    ids = np.moveaxis(expand(of(value), axis, shape[axis]), axis, -1)
    return ids.reshape(-1, shape[axis])


def _along(ids: Ids, axis: int, rank: int) -> Ids:
    return ids.reshape([-1 if i == axis else 1 for i in range(rank)])


def reshape(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    value, shape = values[0], equation.outvars[0].aval.shape
    if not isinstance(value, Weight):
        return [reshaped(of(value), equation.invars[0].aval.shape, shape)]
    sizes = tuple(axis.ids.size for axis in value.axes)
    same = [size for size in sizes if size > 1] == [size for size in shape if size > 1]
    if sizes == shape:
        return [value]
    if not same or (1 in sizes and 1 in shape):  # which axis of size 1 is which cannot be told
        return unknown(reading, equation, values, "belongs to a parameter that is reshaped")
    rest = (axis for axis in value.axes if axis.ids.size > 1)
    return [Weight(tuple(next(rest) if size > 1 else _no_axis(1) for size in shape))]


def _no_axis(size: int) -> WeightAxis:
    return WeightAxis(np.zeros(size, np.int32))


def transpose(_reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    order = equation.params["permutation"]
    value = values[0]
    if isinstance(value, Weight):
        return [Weight(tuple(value.axes[i] for i in order))]
    return [np.transpose(of(value), order)]


def broadcast(_reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    value = values[0]
    if isinstance(value, Weight):
        axes = [_no_axis(size) for size in shape]
        for axis, place in zip(value.axes, places, strict=True):
            axes[place] = axis if axis.ids.size == shape[place] else _no_axis(shape[place])
        return [Weight(tuple(axes))]
    ids = of(value)
    sizes = [1] * len(shape)
    for place, size in zip(places, ids.shape, strict=False):
        sizes[place] = size
    return [ids.reshape(sizes)]


def cut(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    if isinstance(values[0], Weight):
        return unknown(reading, equation, values, "belongs to a parameter of which a part is taken")
    starts, stops = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * len(starts)
    ids = of(values[0])
    part = tuple(slice(None) if size == 1 else slice(*at) for size, *at in zip(ids.shape, starts, stops, steps, strict=True))
    return [ids[part]]


def split(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    if isinstance(values[0], Weight):
        return unknown(reading, equation, values, "belongs to a parameter that is split")
    ids, axis = of(values[0]), equation.params["axis"]
    if ids.shape[axis] == 1:
        return [ids] * len(equation.outvars)
    return list(np.split(ids, np.cumsum(equation.params["sizes"])[:-1], axis))


def concatenate(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    if any(isinstance(value, Weight) for value in values):
        return unknown(reading, equation, values, "belongs to a parameter that is joined to another")
    axis = equation.params["dimension"]
    shapes = [variable.aval.shape for variable in equation.invars]
    parts = [
        expand(of(value) if of(value).ndim else constant(shape), axis, shape[axis])
        for value, shape in zip(values, shapes, strict=True)
    ]
    sizes = np.max([part.shape for part in parts], 0)
    whole = [np.broadcast_to(p, [p.shape[i] if i == axis else n for i, n in enumerate(sizes)]) for p in parts]
    return [compress(np.concatenate(whole, axis))]


def reverse(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    if isinstance(values[0], Weight):
        return unknown(reading, equation, values)
    return [np.flip(of(values[0]), equation.params["dimensions"])]


def pad(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    """Padded pixels count as their channel; padded channels are none."""
    if isinstance(values[0], Weight):
        return unknown(reading, equation, values)
    ids = of(values[0])
    for axis, (low, high, inner) in enumerate(equation.params["padding_config"]):
        if ids.shape[axis] == 1 != equation.invars[0].aval.shape[axis] or (low, high, inner) == (0, 0, 0):
            continue
        ids = np.moveaxis(ids, axis, 0)
        spread = np.zeros(((ids.shape[0] - 1) * (inner + 1) + 1, *ids.shape[1:]), np.int32)
        spread[:: inner + 1] = ids
        spread = spread[max(0, -low) : len(spread) - max(0, -high)]
        ids = np.moveaxis(np.pad(spread, [(max(0, low), max(0, high))] + [(0, 0)] * (spread.ndim - 1)), 0, axis)
    return [ids]


def reduction(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    axes = equation.params["axes"]
    text = f"{equation.primitive.name} runs over channels"
    value = values[0]
    if isinstance(value, Weight):
        for axis in axes:
            reading.labels.freeze(value.axes[axis].ids, text)
        return [Weight(tuple(axis for i, axis in enumerate(value.axes) if i not in axes))]
    ids = of(value)
    if any(ids.shape[axis] > 1 for axis in axes):
        return unknown(reading, equation, values, text)
    return [ids.reshape([size for i, size in enumerate(ids.shape) if i not in axes])] * len(equation.outvars)


def window(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    ids, params = of(values[0]), equation.params
    for axis, size in enumerate(params["window_dimensions"]):
        moved = params["window_strides"][axis] != 1 or tuple(params["padding"][axis]) != (0, 0)
        if ids.shape[axis] > 1 and (size > 1 or moved):
            # Such as a local response normalisation: a channel's neighbours change when one goes.
            return unknown(reading, equation, values, f"{equation.primitive.name} mixes neighbouring channels")
    return [ids]


def gather(reading: Reading, equation: Any, values: Sequence[Value]) -> list[Value]:
    """Whole slices picked along one axis by known indices; unknown ones freeze the channels, if they pick among channels."""
    value, indices = values
    dims, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    picked = dims.start_index_map
    whole = all(size == shape[i] for i, size in enumerate(equation.params["slice_sizes"]) if i not in picked)
    simple = len(picked) == 1 and tuple(dims.collapsed_slice_dims) == tuple(picked) and whole
    if isinstance(value, Weight) or not simple or dims.operand_batching_dims:
        return unknown(reading, equation, values)
    ids, (axis,) = of(value), picked
    out = equation.outvars[0].aval.shape
    if ids.shape[axis] > 1 and not isinstance(indices, Known):
        return unknown(reading, equation, values, "picked by an index that is part of the network's state")
    if ids.shape[axis] == 1:  # of all along the axis the same: the axis goes, others of size 1 come
        rest, taken = np.squeeze(ids, axis), ()
    else:
        assert isinstance(indices, Known)
        taken = indices.array.shape[:-1]
        rest = np.moveaxis(ids, axis, 0)[np.clip(indices.array[..., 0], 0, shape[axis] - 1)]
    count = len(taken)
    others = [i for i in range(len(out)) if i not in dims.offset_dims]
    result = rest.reshape(*taken, *(() if taken else (1,) * len(others)), *rest.shape[count:])
    return [np.moveaxis(result, range(len(others) + len(dims.offset_dims)), [*others, *dims.offset_dims])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    "conv_general_dilated": convolution, "dot_general": product, "reshape": reshape, "squeeze": reshape, "expand_dims": reshape,
    "transpose": transpose, "broadcast_in_dim": broadcast, "slice": cut, "split": split, "concatenate": concatenate,
    "rev": reverse, "pad": pad, "gather": gather,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), reduction),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), window),
}  # fmt: skip
