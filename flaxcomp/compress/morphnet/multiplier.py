"""The width multiplier: the largest uniform one whose network still costs no more than wanted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flaxcomp.errors import UserError

Widths = tuple[int, ...]

GRID = 1000  # multipliers are so many parts of 1
NARROWEST = 1  # of them
_LARGEST_ROUNDING = 16


@dataclass(frozen=True)
class Widened:
    """Attributes:
    multiplier: what all widths were multiplied by, before rounding.
    widths, cost: of the network that has them.
    """

    multiplier: float
    widths: Widths
    cost: float


def scaled(widths: Widths, steps: Sequence[int], parts: int) -> Widths:
    """Widths times parts / GRID, each to the nearest multiple of its step (halves up), one step at least."""
    return tuple(
        max(1, (2 * width * parts + GRID * step) // (2 * GRID * step)) * step for width, step in zip(widths, steps, strict=True)
    )


def widened(widths: Widths, steps: Sequence[int], cost_of: Callable[[Widths], float], target: float) -> Widened:
    """Multiply all widths by the largest factor that the target allows (Gordon et al. 2018, algorithm 1, step 3).

    Args:
        widths: of the found network.
        steps: what each must be a multiple of.
        cost_of: the cost of the network with other widths; raises UserError where there is none, or no cost is known.
        target: what it may cost at most.

    Raises:
        UserError: the narrowest network costs more.
    """
    known: dict[Widths, tuple[Widths, float]] = {}

    def at(parts: int) -> Widened:
        wanted = scaled(widths, steps, parts)
        if wanted not in known:
            known[wanted] = _built(wanted, cost_of)
        return Widened(parts / GRID, *known[wanted])

    low, high = NARROWEST, GRID
    best = at(low)
    if best.cost > target:
        raise UserError(f"the narrowest network costs {best.cost:.6g}, but {target:.6g} are all that it may cost")
    while (wider := at(high)).cost <= target:
        low, high, best = high, 2 * high, wider
    while high - low > 1:
        middle = (low + high) // 2
        candidate = at(middle)
        if candidate.cost <= target:
            low, best = middle, candidate
        else:
            high = middle
    return best


def _built(wanted: Widths, cost_of: Callable[[Widths], float]) -> tuple[Widths, float]:
    """The cost of the widths, or of the next larger ones of a common multiple that the model takes, such as equal halves."""
    for multiple in range(1, _LARGEST_ROUNDING + 1):
        widths = tuple(-(-width // multiple) * multiple for width in wanted)
        try:
            return widths, cost_of(widths)
        except UserError:
            continue
    return wanted, math.inf
