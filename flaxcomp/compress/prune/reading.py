"""A program's values while its channels are followed, and what is learnt of the parameters' axes.

An activation is an array of labels (`flaxcomp.compress.prune.labels`) with the rank of the value; an axis along which all
labels are equal has size 1 there, so that images cost nothing. A parameter of two and more axes has labels for each axis by
itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flaxcomp.compress.prune.labels import Ids, Labels

Role = Literal["out", "in", "depthwise", "vector"]


class Axis(NamedTuple):
    """An axis of a parameter or batch statistic along which channels lie.

    Attributes:
        leaf: path in the network's state, as `blocks/0/conv/kernel`.
        axis: of the array.
        role: `out` of a product, `in`, `depthwise` (both), or `vector` for what has one number a channel.
        block: where the groups of a grouped convolution choose their channels each for itself: which group, else None.
    """

    leaf: str
    axis: int
    role: Role
    block: int | None = None

    def __str__(self) -> str:
        return f"{self.leaf}.{self.axis}" + ("" if self.block is None else f"[{self.block}]")


class WeightAxis(NamedTuple):
    """One axis of a parameter: its labels, and the parameters' axes that they belong to."""

    ids: Ids
    sources: tuple[tuple[str, int], ...] = ()


class Weight(NamedTuple):
    """A value with labels for each axis by itself."""

    axes: tuple[WeightAxis, ...]


class Known(NamedTuple):
    """Integers that are known while the program is read, for indices."""

    array: NDArray[Any]


Value = Ids | Weight | Known

NOTHING = np.zeros((), np.int32)


@dataclass
class Reading:
    """What is known so far.

    Attributes:
        labels: of all channels.
        apart: axes of grouped convolutions' kernels whose groups choose each for itself, see `rules.grouped`.
        channels: labels along each axis that holds channels, in the program's order.
        known: axes of convolutions that are grouped even if a group sees one channel only, as a depthwise one's does: the same
            layers of a wider network are.
        depthwise: kernels of convolutions that are depthwise even if they have one channel, as a dense one may: likewise.
        grouped: how many groups the grouped convolutions have, by the kernel's axes.
        own: the labels that the groups of an axis `apart` have, by the axis.
        notes: what could not be followed.
    """

    labels: Labels = field(default_factory=Labels)
    apart: frozenset[tuple[str, int]] = frozenset()
    known: frozenset[tuple[str, int]] = frozenset()
    depthwise: frozenset[str] = frozenset()
    channels: dict[Axis, Ids] = field(default_factory=dict)
    grouped: dict[tuple[str, int], int] = field(default_factory=dict)
    own: dict[tuple[str, int], Ids] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def use(self, axis: WeightAxis, role: Role, groups: int = 1) -> None:
        """Say that a parameter's axis holds channels; with `groups`, that each of so many parts chooses for itself."""
        for leaf, number in axis.sources:
            if groups == 1:
                self.channels.setdefault(Axis(leaf, number, role), axis.ids)
                continue
            for block, part in enumerate(np.split(axis.ids, groups)):
                self.channels.setdefault(Axis(leaf, number, role, block), part)

    def give_up(self, values: Iterable[Value], text: str) -> int:
        """Freeze every channel of `values`; return the label for what comes of them, 0 if there was no channel."""
        found = False
        for value in values:
            for ids in [axis.ids for axis in value.axes] if isinstance(value, Weight) else [of(value)]:
                found |= bool((ids != 0).any())
                self.labels.freeze(ids, text)
        if not found:
            return 0
        if text not in self.notes:
            self.notes.append(text)
        return self.labels.reason(text)


def of(value: Value) -> Ids:
    """The labels of an activation."""
    assert not isinstance(value, Weight)
    return NOTHING if isinstance(value, Known) else value


def constant(shape: tuple[int, ...], label: int = 0) -> Ids:
    """An activation of one label."""
    return np.full((1,) * len(shape), label, np.int32)


def compress(ids: Ids) -> Ids:
    """Shrink axes along which nothing changes to size 1."""
    for axis, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis)
            if (ids == first).all():
                ids = first
    return ids


def expand(ids: Ids, axis: int, size: int) -> Ids:
    """The labels with all of one axis."""
    return np.repeat(ids, size, axis) if ids.shape[axis] == 1 != size else ids
