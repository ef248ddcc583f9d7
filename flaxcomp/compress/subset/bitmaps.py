"""Heat maps, thresholds and bitmaps of one layer, and what they count (Motamedi et al., sections 6.1, 7.3 and 8.2.2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HeatMap = NDArray[np.float32]  # of one image's shape: [h, w, c] or [features]
Bitmap = NDArray[np.bool_]


def fused(heat_maps: Mapping[int, HeatMap], classes: Sequence[int]) -> HeatMap:
    """The largest average over the classes: its bitmap is the fusion of theirs, for some average reaches a threshold where the
    largest does (equations 13 and 14).

    The text prints equation 14 as a product of inverted bitmaps, which is the inverse of what it says of it: a position is
    removed where no class needs it.

    Args:
        heat_maps: by class.
        classes: those to keep, one at least.
    """
    largest: HeatMap = np.max([heat_maps[number] for number in classes], 0)
    return largest


def bitmap(heat: HeatMap, threshold: float) -> Bitmap:
    """Where a layer's output is needed: heat >= TH (equation 13)."""
    needed: Bitmap = heat >= threshold
    return needed


def channels(values: NDArray[Any]) -> NDArray[Any]:
    """The maximum over the positions of each channel, [c]: of a bitmap whether any position is kept (equation 15)."""
    largest: NDArray[Any] = values.reshape(-1, values.shape[-1]).max(0)
    return largest


def candidates(heat: HeatMap, *, partial: bool) -> NDArray[np.float32]:
    """All thresholds that differ in effect, ascending; the first removes nothing, none removes all.

    Args:
        heat: of the classes to keep, fused.
        partial: whether positions can go, or only channels of which no position is needed.
    """
    values: NDArray[np.float32] = np.unique(heat if partial else channels(heat))
    return values


def largest(count: int, holds: Callable[[int], bool], steps: int) -> int:
    """The binary search for a threshold: the largest index from 0 to `count` - 1 for which `holds` was seen to be true.

    Accuracy need not fall evenly with the threshold; an index that was not seen to hold is never returned, but 0, which
    removes nothing and is not asked.

    Args:
        count: of candidates. steps: so many halvings at most.
    """
    low, high = 0, count
    for _ in range(steps):
        if high - low < 2:
            break
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Removed:
    """What goes of a layer.

    Attributes:
        positions: that its output has, W H M. channels: M.
        whole: channels removed, cr. part: positions removed from channels that stay, pr.
        silent: positions whose average is exactly 0.
    """

    positions: int
    channels: int
    whole: int
    part: int
    silent: int

    @classmethod
    def of(cls, heat: HeatMap, needed: Bitmap, kept: Bitmap) -> "Removed":
        """
        Args:
            heat: of the classes to keep, fused. needed: the bitmap. kept: which channels stay, [c].
        """
        stays = needed.reshape(-1, needed.shape[-1])[:, kept]
        return cls(heat.size, kept.size, int((~kept).sum()), int((~stays).sum()), int((heat == 0).sum()))

    @property
    def dormant(self) -> int:
        """Neurons that do not fire or count as such, a channel's at all its positions: cr W H + pr."""
        return self.whole * (self.positions // self.channels) + self.part

    @property
    def dormant_density(self) -> float:
        """tau': the share of them."""
        return self.dormant / self.positions

    @property
    def compression_ratio(self) -> float:
        """CR = W H M / (W H M - cr W H - pr); infinite where nothing is left.

        Equation 16 prints "+ pr", by which removing positions would lower the ratio; section 8.2.2 counts a whole removal as
        W H partial ones, so both are subtracted.
        """
        left = self.positions - self.dormant
        return self.positions / left if left else float("inf")
