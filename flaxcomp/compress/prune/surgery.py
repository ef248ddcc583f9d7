"""Removes channels: from what is to be kept to a model with narrower `widths`, with its weights, or with zeros in their place.

How many channels each group keeps in the end is what the narrower model has. Where that cannot be what was asked for, widths
are rounded up: to what shuffles, splits, grouped convolutions and the model's own checks allow. Which channels those are, the
scores say. So the result is always a network that a sweep file can name, and equals the old one with its others zeroed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from flaxcomp.compress.prune.coupling import Coupling
from flaxcomp.compress.prune.follow import flat, leaves_of
from flaxcomp.compress.prune.groups import Group, Grouping
from flaxcomp.compress.prune.labels import Ids
from flaxcomp.errors import UserError

Scores = Mapping[str, NDArray[Any]]
_LARGEST_ROUNDING = 16


@dataclass(frozen=True, eq=False)
class Cut:
    """A narrower network.

    Attributes:
        model: name and options, with `widths` unless nothing goes.
        kept: by group, the numbers of the channels that stay, ascending.
        coupling: of the old model. narrow: the groups of the new one. network: the new one, shapes alone, in eval mode.
    """

    model: dict[str, Any]
    kept: dict[str, Ids]
    coupling: Coupling
    narrow: Grouping
    network: nnx.Module


def plan(coupling: Coupling, keep: Mapping[str, ArrayLike], scores: Scores | None = None) -> Cut:
    """Find the narrower model for what is to be kept.

    Args:
        coupling: of the model.
        keep: by group, the numbers of the channels to keep (from 0), or a boolean for each; groups not named keep all.
        scores: by group, a number for each channel, larger for what matters more: decides where more or fewer must stay than
            asked for. Without, channels of lower number stay.

    Raises:
        UserError: a group or channel does not exist, a frozen one would go, or a layer would lose its last channel.
    """
    kept = {group.name: _asked(group, keep) for group in coupling.groups}
    if unknown := keep.keys() - kept.keys():
        coupling[min(unknown)]  # refuses
    _refuse_empty(coupling, kept)
    kept = _equal(coupling, kept, scores)
    widths, network, narrow = _feasible(coupling, {name: channels.size for name, channels in kept.items()})
    found = {group.key: group.size for group in narrow.groups}
    chosen = {g.name: _choose(g, kept[g.name], found.get(g.key, 0), scores) for g in coupling.groups}
    unchanged = all(entry.width == width for entry, width in zip(coupling.entries, widths, strict=True))
    model = coupling.model if unchanged else {**coupling.model, "widths": list(widths)}
    return Cut(model, chosen, coupling, narrow, network)


def _asked(group: Group, keep: Mapping[str, ArrayLike]) -> Ids:
    every = np.arange(group.size, dtype=np.int32)
    if group.name not in keep:
        return every
    given = np.asarray(keep[group.name])
    if given.dtype == bool:
        if given.shape != every.shape:
            raise UserError(f"keep, {group.name}: it has {group.size} channels, got {given.size} booleans")
        kept: Ids = every[given]
    else:
        kept = np.unique(given.astype(np.int32))
        if kept.size and (kept[0] < 0 or kept[-1] >= group.size):
            raise UserError(f"keep, {group.name}: channels are 0 to {group.size - 1}, got {kept[0]} to {kept[-1]}")
    if group.frozen is not None and kept.size < group.size:
        raise UserError(f"keep, {group.name}: all its {group.size} channels must stay ({group.frozen}), got {kept.size}")
    return kept


def _refuse_empty(coupling: Coupling, kept: Mapping[str, Ids]) -> None:
    """No axis may lose its last channel. A group may, where others share all its axes."""
    left: dict[Any, int] = {}
    for group in coupling.groups:
        for axis in group.members:
            left[axis] = left.get(axis, 0) + kept[group.name].size
    for group in coupling.groups:
        for axis in group.members:
            if not left[axis]:
                raise UserError(f"group {group.name}: {axis.leaf.rpartition('/')[0]} would lose its last channel; at least one "
                                f"of {group.size} must stay")  # fmt: skip


def _equal(coupling: Coupling, kept: dict[str, Ids], scores: Scores | None) -> dict[str, Ids]:
    """The override `equal_count`: as many as the largest."""
    kept = dict(kept)
    for patterns in coupling.overrides.equal_count:
        groups = [g for g in coupling.free if any(map(g.matches, patterns))]
        most = max((kept[g.name].size for g in groups), default=0)
        kept.update({g.name: _choose(g, kept[g.name], min(most, g.size), scores) for g in groups})
    return kept


def _feasible(coupling: Coupling, counts: dict[str, int]) -> tuple[tuple[int, ...], nnx.Module, Grouping]:
    """The widths for so many channels of each group, or for the next more of which the network is a part of the old one."""
    full = tuple(entry.width for entry in coupling.entries)
    while True:
        wanted = tuple(_wanted(coupling, i, counts) for i in range(len(coupling.entries)))
        widths, network, narrow = _built(coupling, wanted, full)
        short = _short(coupling, narrow)
        if not short or widths == full:
            return widths, network, narrow
        larger = [group for group in coupling.free if counts[group.name] < group.size]
        touched = [group for group in larger if any((axis.leaf, axis.axis) in short for axis in group.members)]
        for group in touched or larger:
            counts[group.name] += 1


def _wanted(coupling: Coupling, index: int, counts: Mapping[str, int]) -> int:
    """The smallest allowed value of a width that leaves so many channels on all its axes."""
    entry, step = coupling.entries[index], coupling.entries[index].step
    if not entry.axes:
        return entry.width
    left = {
        axis: sum(group.places(*axis) * counts[group.name] for group in coupling.groups) / share
        for axis, share in entry.axes.items()
    }
    groups = [group for group in coupling.groups if index in group.widths]
    for pattern, multiple in coupling.overrides.round_to:
        if any(group.matches(pattern) for group in groups):
            step = math.lcm(step, multiple)
    return min(entry.width, -(-max(left.values()) // step) * step)


def _short(coupling: Coupling, narrow: Grouping) -> set[tuple[str, int]]:
    """The axes of groups that the narrower network has more channels of than the old one."""
    sizes = {group.key: group.size for group in coupling.groups}
    lacking = [group for group in narrow.groups if group.size > sizes.get(group.key, 0)]
    return {(axis.leaf, axis.axis) for group in lacking for axis in group.members}


def _built(coupling: Coupling, wanted: tuple[int, ...], full: tuple[int, ...]) -> tuple[tuple[int, ...], nnx.Module, Grouping]:
    """Round up to the smallest common multiple that the model's own checks accept."""
    if not coupling.entries:
        raise UserError(f"{coupling.model['name']} has no option `widths`: its channels cannot be removed")
    for multiple in range(1, _LARGEST_ROUNDING + 1):
        widths = tuple(min(most, -(-width // multiple) * multiple) for width, most in zip(wanted, full, strict=True))
        try:
            return widths, *coupling.regrouped(widths)
        except UserError:
            continue
    return full, *coupling.regrouped(full)


def _choose(group: Group, kept: Ids, count: int, scores: Scores | None) -> Ids:
    """The `count` best channels, those to be kept before all others."""
    given = np.zeros(group.size) if scores is None or group.name not in scores else np.asarray(scores[group.name], float)
    if given.shape != (group.size,):
        raise UserError(f"scores, {group.name}: a number for each of its {group.size} channels, got shape {given.shape}")
    asked = np.isin(np.arange(group.size), kept)
    order = np.lexsort((np.arange(group.size), -given, ~asked))
    return np.sort(order[:count]).astype(np.int32)


def sliced(network: nnx.Module, cut: Cut) -> nnx.Module:
    """The narrower network with the weights and batch statistics of the channels that stay, in eval mode."""
    old = leaves_of(network)
    graph, state = nnx.split(cut.network)
    shapes = nnx.to_pure_dict(state)
    sources = _sources(cut)
    leaves = [jnp.asarray(_take(path, old[path], leaf.shape, sources)) for path, leaf in flat(shapes)]
    result: nnx.Module = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(shapes), leaves))
    return result


def _sources(cut: Cut) -> dict[Any, Ids]:
    """For each axis and block, which old position stands at each new one."""
    old = {group.key: group for group in cut.coupling.groups}
    places: dict[Any, list[tuple[Ids, Ids]]] = {}
    for new in cut.narrow.groups:
        group = old[new.key]
        kept = cut.kept[group.name]
        for axis, positions in new.members.items():
            places.setdefault(axis, []).append((positions.ravel(), group.members[axis][kept].ravel()))
    sources = {}
    for axis, pairs in places.items():
        to, of = (np.concatenate(side) for side in zip(*pairs, strict=True))
        sources[axis] = np.empty(to.size, np.int32)
        sources[axis][to] = of
    return sources


def _take(path: str, array: Any, shape: tuple[int, ...], sources: Mapping[Any, Ids]) -> Any:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    result = np.asarray(array)
    mine = {axis: ids for axis, ids in sources.items() if axis.leaf == path}
    whole = {axis.axis: ids for axis, ids in mine.items() if axis.block is None}
    for axis in {axis.axis for axis in mine if axis.block is not None and axis.role == "out"}:
        blocks = [mine[at] for at in sorted(mine, key=lambda at: at.block or 0) if at.axis == axis]
        part = result.shape[axis] // len(blocks)
        whole[axis] = np.concatenate([block * part + ids for block, ids in enumerate(blocks)])
    for axis, ids in whole.items():
        result = np.take(result, ids, axis)
    inputs = [mine[at] for at in sorted(mine, key=lambda at: at.block or 0) if at.block is not None and at.role == "in"]
    if inputs:  # each group of outputs has inputs of its own: kernels are [..., inputs, outputs]
        rows = np.repeat(np.stack(inputs, 1), result.shape[-1] // len(inputs), 1)
        result = np.take_along_axis(result, rows.reshape((1,) * (result.ndim - 2) + rows.shape), -2)
    if result.shape != shape:
        raise UserError(f"{path}: the narrower network has shape {list(shape)} where {list(result.shape)} are left of "
                        f"{list(np.shape(array))}: its channels were not followed")  # fmt: skip
    return result


def masked(network: nnx.Module, cut: Cut) -> nnx.Module:
    """The old network with zeros for the channels that go, biases and batch norm's scale and bias included, in eval mode."""
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    pure = nnx.to_pure_dict(params)
    arrays = {path: np.array(leaf) for path, leaf in flat(pure)}
    for group in cut.coupling.groups:
        gone = np.setdiff1d(np.arange(group.size), cut.kept[group.name])
        for axis, positions in group.members.items():
            if axis.leaf not in arrays:  # a batch statistic
                continue
            array, where = np.moveaxis(arrays[axis.leaf], axis.axis, 0), positions[gone].ravel()
            if axis.block is None:
                array[where] = 0
                continue
            blocks = cut.coupling.grouped[axis.leaf, axis.axis]
            if axis.role == "out":
                array[where + axis.block * (len(array) // blocks)] = 0
            else:  # inputs of one group of outputs
                part = array.shape[-1] // blocks
                array[where, ..., axis.block * part : (axis.block + 1) * part] = 0
    leaves = [jnp.asarray(arrays[path]) for path, _ in flat(pure)]
    result: nnx.Module = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(pure), leaves), rest)
    result.eval()
    return result


def mask_of(network: nnx.Module, cut: Cut) -> dict[Any, Any]:
    """Ones, and zeros where `masked` puts them, in the structure of the network's parameters; for `Fit.state`."""
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    ones = nnx.merge(graph, jax.tree.map(jnp.ones_like, params), rest)
    mask: dict[Any, Any] = jax.device_get(nnx.to_pure_dict(nnx.state(masked(ones, cut), nnx.Param)))
    return mask


def is_nested(less: Mapping[str, Ids], more: Mapping[str, Ids]) -> bool:
    """Whether the kept channels `less` are all among `more`, as deterministic criteria have it when the ratio falls."""
    return all(np.isin(kept, more[name]).all() for name, kept in less.items())
