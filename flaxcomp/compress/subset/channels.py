"""From bitmaps of layers to channels that go: those that coupling ties go together, or not at all."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from flaxcomp.compress.prune.coupling import Coupling
from flaxcomp.compress.prune.groups import Group
from flaxcomp.compress.prune.reading import Axis
from flaxcomp.compress.prune.surgery import Cut, masked
from flaxcomp.compress.subset.bitmaps import Bitmap, channels
from flaxcomp.models.outputs import Output

Flags = NDArray[np.bool_]


class Channels:
    """Which channels of the layers' outputs are which channels of a coupling's groups.

    Args:
        coupling: of the network's model. outputs: of the same network.
    """

    def __init__(self, coupling: Coupling, outputs: tuple[Output, ...]) -> None:
        self.coupling = coupling
        self._sizes = {output.layer: output.shape[-1] for output in outputs}
        runs: dict[str, list[str]] = {}
        for output in outputs:
            runs.setdefault(output.kernel, []).append(output.layer)
        self._makers = {group.name: [(layer, positions) for axis, positions in group.members.items()
                                     if axis.role in ("out", "depthwise")
                                     for layer in runs.get(axis.leaf, [""])
                                     for positions in [self._absolute(axis, positions)]]
                        for group in coupling.free}  # fmt: skip

    @functools.cached_property
    def free(self) -> dict[str, Flags]:
        """By layer, which channels of its output may go, [c]."""
        return {layer: ~stays for layer, stays in self.of_layers({group.name: [] for group in self.coupling.free}).items()}

    def _absolute(self, axis: Axis, positions: NDArray[np.int32]) -> NDArray[np.int32]:
        """Positions among all channels of a layer whose groups of channels are counted each by itself."""
        if axis.block is None:
            return positions
        size = self.coupling.shapes[axis.leaf][axis.axis]
        return positions + axis.block * (size // self.coupling.grouped[axis.leaf, axis.axis])

    def kept(self, alive: Mapping[str, Flags], heat: Mapping[str, NDArray[Any]]) -> dict[str, Flags]:
        """By group, which channels stay: those that any layer which makes them needs, and of each group the hottest one.

        So channels tied by a skip connection go when none of the layers that add to the sum needs them, and a depthwise
        convolution's when neither it nor the layer before it does. What a concatenation lays side by side is not tied.

        Args:
            alive: by layer, which channels of its output have a position that is needed, [c].
            heat: by layer, the largest average of each channel, [c].
        """
        kept = {}
        for group in self.coupling.free:
            stays = self._any(group, alive)
            if not stays.any():
                stays = np.arange(group.size) == self.scores(group, heat).argmax()
            kept[group.name] = stays
        return kept

    def scores(self, group: Group, heat: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """How hot each channel of a group is in the layer where it is hottest, as a share of that layer's hottest."""
        found = np.zeros(group.size)
        for layer, positions in self._makers[group.name]:
            if layer:
                found = np.maximum(found, (heat[layer][positions] / max(float(heat[layer].max()), 1e-30)).max(1))
        return found

    def _any(self, group: Group, alive: Mapping[str, Flags]) -> Flags:
        stays = np.zeros(group.size, bool)
        for layer, positions in self._makers[group.name]:
            stays |= alive[layer][positions].any(1) if layer else True  # a layer without an output of its own needs all
        return stays if self._makers[group.name] else ~stays

    def of_layers(self, kept: Mapping[str, Any]) -> dict[str, Flags]:
        """By layer, which channels of its output stay, [c].

        Args:
            kept: by group, the numbers of the channels that stay.
        """
        flags = {layer: np.ones(size, bool) for layer, size in self._sizes.items()}
        for group in self.coupling.free:
            stays = np.zeros(group.size, bool)
            stays[np.asarray(kept[group.name], np.int32)] = True
            for layer, positions in self._makers[group.name]:
                if layer:
                    flags[layer][positions[~stays].ravel()] = False
        return flags

    def without(self, network: nnx.Module, kept: Mapping[str, Flags]) -> nnx.Module:
        """The network with zeros for all that belongs to channels that go; what is left computes what the sliced one does."""
        numbers = {group.name: np.arange(group.size, dtype=np.int32) for group in self.coupling.groups}
        numbers |= {name: np.flatnonzero(stays).astype(np.int32) for name, stays in kept.items()}
        return masked(network, Cut(self.coupling.model, numbers, self.coupling, self.coupling, network))


def alive_channels(bitmap: Bitmap) -> Flags:
    """Which channels have a position that is needed, [c]."""
    return channels(bitmap)
