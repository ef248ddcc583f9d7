"""The groups of a model's channels, and which of its `widths` count them, found by building it with other widths.

Every width is changed by an amount of its own; an axis that follows one amount alone, in proportion, belongs to that width.
What follows none, such as the middle of a Squeeze-and-Excitation, is derived: the model with new widths says how many there
are. What stays as it is whatever the widths is frozen.
"""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flax import nnx

from flaxcomp.compress.prune.follow import leaves_of
from flaxcomp.compress.prune.groups import FIXED, NO_OVERRIDES, Group, Grouping, Kinds, Overrides, Shape, couple_network
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract

Shapes = dict[str, tuple[int, ...]]

_STEPS = (1, 24, 840)  # widths must be multiples of these at most: groups, condensation factors
_LARGEST = 2**17  # of the amounts; far apart, so that no sum of some is another


@dataclass(frozen=True)
class Entry:
    """One number of the model's `widths`.

    Attributes:
        width: its value.
        axes: the arrays' axes that it alone counts, and how many positions each of its channels has there (half a one where
            the channels are shared by two branches).
        step: what its value must be a multiple of, as far as these axes tell.
    """

    width: int
    axes: dict[tuple[str, int], Fraction]
    step: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Coupling(Grouping):
    """The groups of a model's channels.

    Attributes:
        model: name and options. input_shape, num_classes: what it was built with.
        entries: of its `widths`, in their order; none where it has no such option.
    """

    model: dict[str, Any]
    input_shape: Shape
    num_classes: int
    entries: tuple[Entry, ...]

    def regrouped(self, widths: tuple[int, ...]) -> tuple[nnx.Module, Grouping]:
        """The network with other widths, shapes alone, and its groups.

        Raises:
            UserError: there is no such network.
        """
        network = evaluated({**self.model, "widths": list(widths)}, self.input_shape, self.num_classes)
        return network, couple_network(network, self.input_shape, Overrides(tie=self.overrides.tie), self)


def evaluated(model: dict[str, Any], input_shape: Shape, num_classes: int) -> nnx.Module:
    """The network of a model in eval mode, shapes alone."""
    network = abstract(model, input_shape, num_classes)
    network.eval()
    return network


def couple(
    model: dict[str, Any],
    input_shape: Shape,
    num_classes: int,
    overrides: Overrides = NO_OVERRIDES,
) -> Coupling:
    """Find which channels of a model go together, and which of its widths count them. Nothing is allocated.

    Args:
        model: name and options, as in a sweep file.
        input_shape, num_classes: of the data; options of the model with these names go first.
        overrides: what the program does not say.

    Raises:
        UserError: the model is impossible, an override matches nothing, or the network could not be followed.
    """
    input_shape, num_classes = tuple(model.get("input_shape", input_shape)), model.get("num_classes", num_classes)
    network = evaluated(model, input_shape, num_classes)
    grouping = couple_network(network, input_shape, overrides)
    widths = tuple(model.get("widths") or registry.default_widths(model) or ())
    changed, shapes = _changed(model, input_shape, num_classes, widths)
    kinds = _hidden(grouping, shapes)
    if kinds != Kinds():
        grouping = couple_network(network, input_shape, overrides, kinds=kinds)
    entries = _entries(grouping, widths, changed, shapes)
    groups = tuple(_counted(group, entries, grouping.shapes, shapes) for group in grouping.groups)
    fields = {field.name: getattr(grouping, field.name) for field in dataclasses.fields(grouping)}
    return Coupling(
        **{**fields, "groups": groups}, model=model, input_shape=input_shape, num_classes=num_classes, entries=entries
    )


def _hidden(grouping: Grouping, others: Shapes) -> Kinds:
    """The layers that a network with wider ones shows to be of another kind than they seem.

    A dense convolution of one input would have more where the channels that it sees become more; a depthwise one, with one
    input for each output whatever their number, would not.
    """

    def grows(leaf: str, axis: int) -> bool:
        return others[leaf][axis] != grouping.shapes[leaf][axis]

    members = [(axis, group.members) for group in grouping.groups for axis in group.members]
    depthwise = {axis.leaf for axis, tied in members
                 if axis.role == "in" and grouping.shapes[axis.leaf][axis.axis] == 1 and not grows(axis.leaf, axis.axis)
                 and any(grows(other.leaf, other.axis) for other in tied)}  # fmt: skip
    grouped = {(axis.leaf, axis.axis - 1) for axis, _ in members
               if axis.role == "depthwise" and grows(axis.leaf, axis.axis - 1)}  # fmt: skip
    return Kinds(frozenset(grouped), frozenset(depthwise))


def _counted(group: Group, entries: tuple[Entry, ...], shapes: Shapes, others: Shapes) -> Group:
    """The group with the widths that count it; frozen where other widths change nothing of it."""
    axes = {(axis.leaf, axis.axis) for axis in group.members}
    counted = tuple(i for i, entry in enumerate(entries) if axes & entry.axes.keys())
    fixed = group.frozen is None and all(shapes[leaf][axis] == others[leaf][axis] for leaf, axis in axes)
    return dataclasses.replace(group, widths=counted, frozen=FIXED if fixed else group.frozen)


def _entries(grouping: Grouping, widths: tuple[int, ...], changed: tuple[int, ...], others: Shapes) -> tuple[Entry, ...]:
    """An entry for each of `widths`, from the shapes of a network that has `changed` ones."""
    blocks = {(axis.leaf, axis.axis) for group in grouping.groups for axis in group.members
              if axis.block is not None and axis.role == "in"}  # fmt: skip
    channels = {(axis.leaf, axis.axis) for group in grouping.groups for axis in group.members} - blocks
    entries = []
    for width, other in zip(widths, changed, strict=True):
        alone = {}
        for leaf, axis in sorted(channels):
            share = Fraction(grouping.shapes[leaf][axis], width)
            if others[leaf][axis] == share * other:
                alone[leaf, axis] = share
        axes = _connected(alone, grouping)
        step = math.lcm(*(share.denominator for share in axes.values()))
        apart = [grouping.grouped[axis] for axis in axes if axis in grouping.apart]
        entries.append(Entry(width, axes, math.lcm(step, *apart)))
    return tuple(entries)


def _changed(
    model: dict[str, Any], input_shape: Shape, num_classes: int, widths: tuple[int, ...]
) -> tuple[tuple[int, ...], Shapes]:
    """Other widths, each larger by an amount of its own that grows along them, and the shapes of the network that has them."""
    for step in _STEPS:
        amounts = np.random.default_rng(0).choice(np.arange(1, _LARGEST // step), len(widths), replace=False) * step
        changed = tuple(w + int(amount) for w, amount in zip(widths, np.sort(amounts), strict=True))
        try:
            network = evaluated({**model, "widths": list(changed)}, input_shape, num_classes)
        except UserError as error:
            refusal = error
            continue
        return changed, {path: tuple(leaf.shape) for path, leaf in leaves_of(network).items()}
    raise UserError(f"{model['name']}: no network with wider layers can be built to find what its widths count: {refusal}")


def _connected(alone: dict[tuple[str, int], Fraction], grouping: Grouping) -> dict[tuple[str, int], Fraction]:
    """The axes that share channels with one that has each channel once; the rest is derived, such as a squeeze."""
    found = {axis for axis, share in alone.items() if share == 1}
    sets = [{(axis.leaf, axis.axis) for axis in group.members} & alone.keys() for group in grouping.groups]
    grew = True
    while grew:
        before = len(found)
        found = found.union(*(axes for axes in sets if axes & found))
        grew = len(found) > before
    return {axis: share for axis, share in alone.items() if axis in found}
