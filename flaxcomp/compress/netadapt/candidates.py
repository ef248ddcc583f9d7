"""The candidates of a step: for each layer the fewest channels whose removal saves enough."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flaxcomp.compress.costs import Cost
from flaxcomp.compress.prune.coupling import Coupling
from flaxcomp.compress.prune.groups import Group
from flaxcomp.compress.prune.labels import Ids
from flaxcomp.compress.prune.surgery import Cut, Scores, is_nested, plan

Kept = Mapping[str, Ids]

_GUESSES = 3


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network in which one group of channels is smaller than in the current one.

    Attributes:
        group: its name.
        removed: how many of its channels go.
        cut: the network, seen from the one that the search began with.
        cost, saved: of it, and against the current one.
    """

    group: str
    removed: int
    cut: Cut
    cost: float
    saved: float


class Proposals:
    """What may be cut next.

    Args:
        coupling: of the network that the search began with.
        cost: of its narrower forms.
        kept: by group, the channels of the current network.
        scores: by group of the whole network, a number for each channel; the smallest of a group goes first.
    """

    def __init__(self, coupling: Coupling, cost: Cost, kept: Kept, scores: Scores) -> None:
        self._coupling, self._cost, self._kept, self._scores = coupling, cost, kept, scores
        self._now = cost.total(plan(coupling, kept, scores))

    def of(self, group: Group, wanted: float, *, small: bool) -> Candidate | None:
        """The candidate of a group: the fewest channels whose removal saves what is wanted.

        Args:
            wanted: in units of the cost.
            small: where all but one channel do not save that, take them nevertheless.

        Returns:
            None if nothing can go, or too little.
        """
        kept = self._kept[group.name]
        known = int(np.isfinite(self._scores[group.name][kept]).sum())  # a channel of infinite score stays
        low, high = 0, min(known, kept.size - 1)  # removed: too few, enough
        best = self._without(group, high) if high else None
        if best is None or best.saved < wanted:
            return best if small else None
        for round_ in itertools.count():
            if high - low < 2:
                return best
            # What a layer saves is nearly linear in its channels, so the first guess mostly is the answer, or its neighbour.
            guess = math.ceil(high * wanted / best.saved) if round_ < _GUESSES else (low + high) // 2
            guess = min(max(low + 1, guess), high - 1)
            candidate = self._without(group, guess)
            if candidate is not None and candidate.saved >= wanted:
                best, high = candidate, guess
            else:
                low = guess
        raise AssertionError("the interval shrinks with every guess")

    def _without(self, group: Group, number: int) -> Candidate | None:
        """The network without the channels of smallest score; None where none narrower comes out."""
        kept = self._kept[group.name]
        order = np.lexsort((-kept, self._scores[group.name][kept]))  # of equal ones the last goes first
        keep = {**self._kept, group.name: np.sort(kept[order[number:]])}
        cut = plan(self._coupling, keep, self._scores)
        cost = self._cost.total(cut)
        if not is_nested(cut.kept, self._kept) or cost >= self._now:  # rounded back up
            return None
        return Candidate(group.name, kept.size - cut.kept[group.name].size, cut, cost, self._now - cost)
