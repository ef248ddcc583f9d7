"""What channels cost: as such, in parameters, in multiply-adds, or in milliseconds by a table of measured layers.

A table is a YAML or JSON file. Its mapping `layers` goes from what a layer is to its latency in ms (`layer_key` writes it, and
`flaxcomp.models.counting.products` lists a network's); whatever stands beside it, such as the device, is left alone:

    layers:
      conv 3x3/1 32x32x16 -> 32x32x32: 0.81
      conv 1x1/1 8x8x32 -> 8x8x64 groups 4: 0.04
      depthwise 3x3/2 32x32x16 -> 16x16x16: 0.09
      dense 64 -> 10: 0.01

A layer that was not measured costs what the cheapest measured one of the same kind that is at least as wide does: latency is
a staircase in the channels, and to interpolate errs by more than to round up to the next stair.
"""

import abc
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flax import nnx

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


def make_cost(name: str, coupling: Coupling, table: "Table | None" = None) -> Cost:
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

    def __init__(self, coupling: Coupling, table: "Table") -> None:
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


def is_depthwise(layer: Product) -> bool:
    """Whether every channel has a filter of its own."""
    return layer.groups > 1 and layer.groups == layer.input_shape[-1]


def layer_key(layer: Product) -> str:
    """What a layer is, as tables name it: kind, window/stride, input -> output (height x width x channels), groups."""
    ends = " -> ".join("x".join(map(str, shape)) for shape in (layer.input_shape, layer.output_shape))
    if not layer.window:
        return f"dense {ends}"
    window, stride = ("x".join(map(str, sizes)) for sizes in (layer.window, sorted(set(layer.strides))))
    kind = "depthwise" if is_depthwise(layer) else "conv"
    return f"{kind} {window}/{stride} {ends}" + (f" groups {layer.groups}" if kind == "conv" and layer.groups > 1 else "")


_KEY = re.compile(r"(?P<kind>dense|(?:conv|depthwise) \d+x\d+/\d+(?:x\d+)?) (?P<input>(?:\d+x\d+x)?)(?P<c_in>\d+) -> "
                  r"(?P<output>(?:\d+x\d+x)?)(?P<c_out>\d+)(?P<groups>(?: groups \d+)?)")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Latencies of measured layers.

    Attributes:
        source: the file, for errors.
        layers: in ms, by `layer_key`.
    """

    source: str
    layers: Mapping[str, float]

    @functools.cached_property
    def _alike(self) -> dict[tuple[str, ...], list[tuple[int, int, float]]]:
        """By all of a layer but its channels, the measured ones as inputs, outputs, ms."""
        alike: dict[tuple[str, ...], list[tuple[int, int, float]]] = {}
        for key, latency in self.layers.items():
            family, c_in, c_out = _parsed(key)
            alike.setdefault(family, []).append((c_in, c_out, latency))
        return alike

    def latency_ms(self, layer: Product) -> float:
        """Of a layer, or of the cheapest one of its kind that is at least as wide.

        Raises:
            UserError: there is none.
        """
        key = layer_key(layer)
        if key in self.layers:
            return self.layers[key]
        family, c_in, c_out = _parsed(key)
        families = [family]
        if family[0].startswith("conv") and (c_in, c_out) == (1, 1):  # which of both it is, a single channel does not show
            families.append((family[0].replace("conv", "depthwise"), *family[1:]))
        measured = [entry for each in families for entry in self._alike.get(each, [])]
        wider = [latency for inputs, outputs, latency in measured if inputs >= c_in and outputs >= c_out]
        if not wider:
            lacking = f"its {len(measured)} of that kind have fewer channels" if measured else "it has none of that kind"
            name = (layer.kernel or "").rpartition("/")[0]
            raise UserError(f"cost table {self.source} has no entry for layer {name}, `{key}`, nor for a wider one "
                            f"({lacking}): measure it, or let another cost decide")  # fmt: skip
        return min(wider)


def _parsed(key: str) -> tuple[tuple[str, ...], int, int]:
    found = _KEY.fullmatch(key)
    assert found is not None, "load_table and layer_key let no other pass"
    return found.group("kind", "input", "output", "groups"), int(found["c_in"]), int(found["c_out"])


def load_table(path: Path) -> Table:
    """Read a table of measured layers.

    Raises:
        UserError: the file is missing or not of the form above; the entry is named.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"cost table {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cost table {path} cannot be read: {error}") from None
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, dict) or not layers:
        raise UserError(f"cost table {path} must have a mapping `layers` from layers to milliseconds")
    for key, latency in layers.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UserError(f"cost table {path}: an entry must read like `conv 3x3/1 32x32x16 -> 32x32x32`, got {key!r}")
        if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0 <= latency < math.inf:
            raise UserError(f"cost table {path}, `{key}`: a latency is a number of ms, 0 at least, got {latency!r}")
    return Table(str(path), {key: float(latency) for key, latency in layers.items()})
