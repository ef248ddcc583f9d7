"""The thresholds of a network's layers, one after the other: the largest that keep the accuracy on the kept classes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from flaxcomp.compress.subset.bitmaps import Bitmap, HeatMap, bitmap, candidates, channels, largest
from flaxcomp.compress.subset.channels import Channels, Flags, alive_channels
from flaxcomp.compress.subset.subject import Judge, Subject, Tree, state_of
from flaxcomp.sweep.compression.subset import Subset


@dataclass
class Reduction:
    """A network from which channels and positions are taken.

    Attributes:
        network: the whole one. subject: its program.
        channels: of its layers' outputs.
        heat: of the classes to keep, fused, by layer.
        partial: whether positions go too.
        thresholds: so far, by layer; a layer that has none keeps all.
    """

    network: nnx.Module
    subject: Subject
    channels: Channels
    heat: dict[str, HeatMap]
    partial: bool
    thresholds: dict[str, float] = field(default_factory=dict)

    def candidates(self, layer: str) -> NDArray[np.float32]:
        """The thresholds that a layer may have; only one, which removes nothing, where coupling freezes all that could go."""
        heat = self.heat[layer]
        if self.partial:
            return candidates(heat, partial=True)
        free = heat[..., self.channels.free[layer]]
        return candidates(free, partial=False) if free.size else np.full(1, -np.inf, np.float32)

    def bitmaps(self, thresholds: Mapping[str, float]) -> dict[str, Bitmap]:
        """By layer; of a layer without threshold all is needed."""
        return {layer: bitmap(heat, thresholds.get(layer, -np.inf)) for layer, heat in self.heat.items()}

    def kept(self, bitmaps: Mapping[str, Bitmap]) -> dict[str, Flags]:
        """By group, which channels stay."""
        return self.channels.kept(
            {layer: alive_channels(needed) for layer, needed in bitmaps.items()},
            {layer: channels(heat) for layer, heat in self.heat.items()},
        )

    def carried_out(self, thresholds: Mapping[str, float]) -> tuple[Tree, dict[str, NDArray[np.uint8]]]:
        """The weights without the channels that go, and what the layers' outputs are multiplied by."""
        bitmaps = self.bitmaps(thresholds)
        without = self.channels.without(self.network, self.kept(bitmaps))
        return state_of(without), {
            layer: np.asarray(needed if self.partial else np.ones_like(needed), np.uint8) for layer, needed in bitmaps.items()
        }


@dataclass(frozen=True)
class Step:
    """A layer whose threshold was found.

    Attributes:
        candidates: thresholds there were to choose from. index: of the chosen one, 0 for none.
        threshold: what an average must reach to be kept; None where the layer keeps all.
    """

    layer: str
    candidates: int
    index: int
    threshold: float | None


def find(
    reduction: Reduction,
    judge: Judge,
    block: Subset,
    wrong_before: int,
    done: Mapping[str, int],
    should_stop: Callable[[], None],
) -> Iterator[Step]:
    """Search one layer after the other, those found before being in effect; `reduction.thresholds` has the outcome.

    The text gives each layer the largest threshold that does not harm, but no order, and no way to share the loss between
    layers. Here they come in the order of the network, as in its tables, or the other way round; with `evenly` the first n of N
    layers together may spend n / N of the loss that is allowed, so that the first does not take it all.

    Args:
        judge: on the held-out images of the kept classes.
        wrong_before: wrong answers of the whole network there.
        done: layers found before an interruption, with the index of their threshold.
        should_stop: raises if it is time to.
    """
    layers = list(reduction.heat)
    if block.order == "output_first":
        layers.reverse()
    loss = block.max_accuracy_loss * judge.count
    for number, layer in enumerate(layers, 1):
        values = reduction.candidates(layer)
        share = number / len(layers) if block.spend == "evenly" else 1.0
        allowed = wrong_before + int(loss * share + 1e-9)

        def holds(index: int, layer: str = layer, values: Any = values, allowed: int = allowed) -> bool:
            should_stop()
            state, masks = reduction.carried_out({**reduction.thresholds, layer: float(values[index])})
            return judge.wrong(reduction.subject, state, masks, allowed, should_stop) <= allowed

        index = done[layer] if layer in done else largest(len(values), holds, block.steps)
        if index:
            reduction.thresholds[layer] = float(values[index])
        yield Step(layer, len(values), index, reduction.thresholds.get(layer))
