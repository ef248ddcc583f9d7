"""From scores to what is kept: the smallest cut that brings the whole narrower network's cost down far enough.

All channels stand in one order, the least worth first; what goes is the shortest beginning of it that is enough, so that a
larger ratio removes the same channels and more. The best channel of each group never goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxcomp.compress.costs import Cost, prunable
from flaxcomp.compress.prune.criteria import Floats
from flaxcomp.compress.prune.surgery import Cut, plan
from flaxcomp.errors import UserError

Kept = Mapping[str, Any]  # by group, the numbers of the channels that are still there

_TINY = 1e-12  # of the whole cost: what a channel saves at least, where saved cost divides


# How a group's scores are made comparable: what they are divided by. `l2` is equation 8 of Molchanov et al. 2017.
NORMALIZATIONS: dict[str, Callable[[Floats], Any]] = {
    "none": lambda _: 1.0,
    "mean": np.mean,
    "max": np.max,
    "l2": np.linalg.norm,
}


@dataclass(frozen=True, eq=False)
class Choice:
    """What goes and why.

    Attributes:
        cut: the narrower network.
        threshold: the score of the best channel that goes, as it was compared; None where none goes.
        cost: of the narrower network.
    """

    cut: Cut
    threshold: float | None
    cost: float


def normalised(scores: Mapping[str, Floats], how: str, alive: Kept | None = None) -> dict[str, Floats]:
    """Scores of different groups made comparable; infinite ones and groups of zeros stay as they are.

    Args:
        how: of `NORMALIZATIONS`.
        alive: by group, the channels that are still there, which alone decide what the group's are divided by.
    """
    result = {}
    for name, values in scores.items():
        there = values[(alive or {}).get(name, slice(None))]
        unit = NORMALIZATIONS[how](there if there.size else values)
        result[name] = values / unit if np.isfinite(unit) and unit > 0 else values
    return result


def per_saved(scores: Mapping[str, Floats], saved: Mapping[str, float], whole: float) -> dict[str, Floats]:
    """Scores divided by what a channel of the group saves (Theis et al. 2018, section 2.3: the loss per cost).

    Args:
        saved: by group; groups it does not name keep their scores.
        whole: the network's cost.
    """
    return {name: values / max(saved.get(name, 1.0), _TINY * whole) for name, values in scores.items()}


def by_rank(scores: Mapping[str, Floats]) -> dict[str, Floats]:
    """(r + 1/2) / K with r the rank of a channel of K in its group: a bound on it takes as large a share of every group."""
    result = {}
    for name, values in scores.items():
        ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        result[name] = np.where(np.isinf(values), np.inf, (ranks + 0.5) / len(values))
    return result


def select(scores: Mapping[str, Floats], cost: Cost, bound: float, whole: Cut, alive: Kept | None = None) -> Choice:
    """Remove the channels of least score until the narrower network costs `bound` at most.

    Args:
        scores: by free group, [channels], comparable over the network; infinite: stays.
        cost: what counts.
        bound: of the cost.
        whole: the network with all its channels.
        alive: what earlier steps have left; those channels that they removed stay away.

    Raises:
        UserError: the bound cannot be reached while every group keeps its best channel.
    """
    coupling = whole.coupling
    alive = {group.name: (alive or {}).get(group.name, whole.kept[group.name]) for group in prunable(coupling)}
    order = _order(scores, alive)
    best = {name: _masked(values, alive.get(name)) for name, values in scores.items()}

    def cut_after(removed: int) -> Cut:
        return plan(coupling, kept_after(order, removed, alive), best)

    def estimate(removed: int) -> float:
        return cost.at({name: kept.size for name, kept in kept_after(order, removed, alive).items()})

    first = _first(0, len(order), lambda removed: estimate(removed) <= bound)
    found: dict[int, tuple[Cut, float]] = {}

    def fits(removed: int) -> bool:
        if removed not in found:
            cut = cut_after(removed)
            found[removed] = cut, cost.total(cut)
        return found[removed][1] <= bound

    removed = _near(first, len(order), fits)
    if not fits(removed):
        raise UserError(f"the {cost.name} cannot fall to {bound:.6g}: {found[removed][1]:.6g} are left where every layer keeps "
                        "its last channel and what may not go stays")  # fmt: skip
    cut, reached = found[removed]
    return Choice(cut, float(order[removed - 1][0]) if removed else None, reached)


def kept_after(order: list[tuple[float, str, int]], removed: int, alive: Kept) -> dict[str, Any]:
    """By group, the numbers of the channels that are left when the first of the order go."""
    gone: dict[str, list[int]] = {}
    for _, name, channel in order[:removed]:
        gone.setdefault(name, []).append(channel)
    return {name: np.setdiff1d(channels, gone.get(name, [])) for name, channels in alive.items()}


def _order(scores: Mapping[str, Floats], alive: Kept) -> list[tuple[float, str, int]]:
    """All channels that may go, the least worth first: score, group, number. Of equal ones the later goes first."""
    entries = []
    for rank, (name, channels) in enumerate(alive.items()):
        values = scores[name][channels]
        best = channels[np.argmax(values)] if len(channels) else -1
        pairs = zip(channels.tolist(), values.tolist(), strict=True)
        entries += [(value, rank, -channel, name) for channel, value in pairs if channel != best and np.isfinite(value)]
    return [(value, name, -channel) for value, _, channel, name in sorted(entries)]


def _masked(values: Floats, alive: Any) -> Floats:
    """Scores by which channels are called back where widths are rounded up: those that are gone already come last."""
    if alive is None:
        return values
    return np.where(np.isin(np.arange(len(values)), alive), values, -np.inf)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number in [low, high] for which it holds; `high` where it holds for none."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _near(guess: int, high: int, holds: Callable[[int], bool]) -> int:
    """`_first` in [0, high], looked for around a guess, for each try builds a network."""
    step = 1
    if holds(guess):
        while guess > 0 and holds(max(0, guess - step)):
            guess, step = max(0, guess - step), 2 * step
        return _first(max(0, guess - step + 1), guess, holds)
    low = guess + 1
    while low + step < high and not holds(low + step):
        low, step = low + step + 1, 2 * step
    return _first(low, min(low + step, high), holds) if low < high else high
