"""What channels cost: as such, in parameters, in multiply-adds, or in milliseconds by a table of measured layers."""

import abc
import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from flax import nnx

from flaxcomp.compress.cost_table import Table, is_depthwise
from flaxcomp.compress.prune.coupling import Coupling, evaluated
from flaxcomp.compress.prune.follow import leaves_of
from flaxcomp.compress.prune.surgery import Cut
from flaxcomp.errors import UserError, suggest
from flaxcomp.models.counting import Product, count_network, products

Counts = Mapping[str, int]  # by group, how many channels it has
COSTS = ("channels", "params", "macs", "latency")


class Cost(Protocol):
    """What a network of one coupling costs, and what its channels do.

    Groups that `counts` does not name have all their channels; those whose number follows from others (`derived`) have as
    large a share as the inputs of the layer that makes them, whatever `counts` says: only `total` knows better.
    """

    @property
    def name(self) -> str:
        """Of `COSTS`."""

    def at(self, counts: Counts) -> float:
        """Of the network with so many channels in each group, which is not built."""

    def saved(self, counts: Counts) -> dict[str, float]:
        """By free group that is not derived, what one channel fewer saves where there are so many; latency: on average."""

    def total(self, cut: Cut) -> float:
        """Of the narrower network as it was built."""


def make_cost(name: str, coupling: Coupling, table: Table | None = None) -> Cost:
    """The cost of a name in `COSTS`.

    Args:
        table: for `latency`.

    Raises:
        UserError: the name is unknown, or a table is missing, or has no entry for a layer of the whole network.
    """
    if name == "channels":
        return _Channels(coupling)
    if name == "params":
        return _Params(coupling)
    if name == "macs":
        return _Macs(coupling)
    if name != "latency":
        raise UserError(f"no cost is called {name!r}.{suggest(name, COSTS)}")
    if table is None:
        raise UserError("cost latency needs a table of measured layers, see `costs`")
    latency = _Latency(coupling, table)
    latency.at({})  # refuses what is missing
    return latency


def prunable(coupling: Coupling) -> tuple[Any, ...]:
    """The groups that a method may cut: free ones whose number of channels follows from no other's."""
    return tuple(group for group in coupling.free if group.widths)


class _Sizes:
    """The shapes of all arrays for so many channels in each group, by arithmetic."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self._full = np.array([group.size for group in coupling.groups])
        self._index = {group.name: i for i, group in enumerate(coupling.groups)}
        places: dict[tuple[str, int], Any] = {}
        for i, group in enumerate(coupling.groups):
            for at, ids in group.members.items():
                places.setdefault((at.leaf, at.axis), np.zeros(len(self._full), int))[i] += ids.shape[1]
        self._axes = list(places)
        self._places = np.stack([places[axis] for axis in self._axes])
        sizes = np.array([coupling.shapes[leaf][axis] for leaf, axis in self._axes])
        self._shared = self._places @ self._full // sizes  # the groups of a convolution that choose each for itself
        self._derived = [
            (self._index[group.name], row) for group in coupling.free if not group.widths for row in self._inputs(group.members)
        ]

    def _inputs(self, members: Iterable[Any]) -> list[int]:
        """The row of the inputs of the layer that makes a group, if one does."""
        made = [(axis.leaf, axis.axis - 1) for axis in members if axis.role == "out"]
        return [self._axes.index(axis) for axis in made[:1] if axis in self._axes]

    def numbers(self, counts: Counts) -> Any:
        """By group, how many channels it has: int [groups]."""
        for name in counts:
            self.coupling[name]  # refuses an unknown one
        numbers = self._full.copy()
        for name, number in counts.items():
            numbers[self._index[name]] = number
        for group, row in self._derived:
            share = self._places[row] @ numbers / (self._places[row] @ self._full)
            numbers[group] = max(1, int(self._full[group] * share))
        return numbers

    def __call__(self, counts: Counts) -> dict[str, tuple[int, ...]]:
        """By path, the shape of each array."""
        shapes = {leaf: list(shape) for leaf, shape in self.coupling.shapes.items()}
        found = self._places @ self.numbers(counts) // self._shared
        for (leaf, axis), size in zip(self._axes, found.tolist(), strict=True):
            shapes[leaf][axis] = size
        return {leaf: tuple(shape) for leaf, shape in shapes.items()}


@dataclass(frozen=True)
class _Whole:
    """The paths of a network's parameters, and its layers."""

    parameters: frozenset[str]
    products: tuple[Product, ...]


@functools.lru_cache(maxsize=16)
def _whole(model: str, shape: tuple[int, int, int], classes: int) -> _Whole:
    """`model` is JSON. To build a large network takes seconds even as shapes."""
    network = evaluated(json.loads(model), shape, classes)
    return _Whole(frozenset(leaves_of(network, nnx.Param)), products(network, shape))


class _Priced(abc.ABC):
    """What the costs have in common."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.sizes = _Sizes(coupling)

    @functools.cached_property
    def whole(self) -> "_Whole":
        """What of the whole network does not follow from its coupling."""
        coupling = self.coupling
        return _whole(json.dumps(coupling.model, sort_keys=True), coupling.input_shape, coupling.num_classes)

    @abc.abstractmethod
    def at(self, counts: Counts) -> float:
        """See `Cost`."""

    def saved(self, counts: Counts) -> dict[str, float]:
        now, before = {group.name: group.size for group in prunable(self.coupling)} | dict(counts), self.at(counts)
        return {group.name: before - self.at({**now, group.name: now[group.name] - 1}) for group in prunable(self.coupling)}


class _Channels(_Priced):
    """Channels of the groups that a method may cut; those tied by a sum count once."""

    name = "channels"

    def at(self, counts: Counts) -> float:
        return sum(counts.get(group.name, group.size) for group in prunable(self.coupling))

    def total(self, cut: Cut) -> float:
        return sum(cut.kept[group.name].size for group in prunable(self.coupling))


class _Params(_Priced):
    """Numbers that training changes."""

    name = "params"

    def at(self, counts: Counts) -> float:
        return sum(math.prod(shape) for leaf, shape in self.sizes(counts).items() if leaf in self.whole.parameters)

    def total(self, cut: Cut) -> float:
        return count_network(cut.network, cut.coupling.input_shape).trainable_params


class _Macs(_Priced):
    """Multiply-adds of convolutions and matrix products for one image."""

    name = "macs"

    def at(self, counts: Counts) -> float:
        return self.price(_narrowed(self.whole.products, self.coupling.shapes, self.sizes(counts)))

    def total(self, cut: Cut) -> float:
        return self.price(products(cut.network, cut.coupling.input_shape))

    def price(self, layers: Iterable[Product]) -> float:
        return sum(layer.macs for layer in layers)


class _Latency(_Macs):
    """Milliseconds: the sum over the layers in a table."""

    name = "latency"

    def __init__(self, coupling: Coupling, table: Table) -> None:
        super().__init__(coupling)
        self.table = table

    def price(self, layers: Iterable[Product]) -> float:
        return sum(self.table.latency_ms(layer) for layer in layers)

    def saved(self, counts: Counts) -> dict[str, float]:
        """On average over the group's channels: one alone mostly saves nothing, for it stays on its stair."""
        now, before = {group.name: group.size for group in prunable(self.coupling)} | dict(counts), self.at(counts)
        saved = {}
        for group in prunable(self.coupling):
            left = now[group.name]
            saved[group.name] = (before - self.at({**now, group.name: 1})) / max(1, left - 1)
        return saved


Shapes = Mapping[str, tuple[int, ...]]


def _narrowed(layers: Iterable[Product], old: Shapes, new: Shapes) -> list[Product]:
    """The layers with the channels that their kernels' new shapes tell."""
    narrowed = []
    for layer in layers:
        if layer.kernel is None or old[layer.kernel] == new[layer.kernel]:
            narrowed.append(layer)
            continue
        before, after = old[layer.kernel], new[layer.kernel]
        c_in, groups = after[-2] * layer.groups, layer.groups
        if is_depthwise(layer):
            c_in = groups = after[-1] * layer.input_shape[-1] // layer.output_shape[-1]
        inputs, outputs = (*layer.input_shape[:-1], c_in), (*layer.output_shape[:-1], after[-1])
        macs = layer.macs * math.prod(after) // math.prod(before)
        narrowed.append(replace(layer, input_shape=inputs, output_shape=outputs, groups=groups, macs=macs))
    return narrowed
