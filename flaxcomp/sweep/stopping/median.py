"""The median rule: a trial stops when its best value so far is worse than the median of the others' averages so far.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.2. There the median is taken over
trials that are finished; here over all of the cohort that have begun, those that were stopped counting with the epochs that
they had, so that the bar stays where they left it.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import count
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxcomp.sweep.stopping import Curve, EarlyStop


def rungs(spec: "EarlyStop") -> Iterator[int]:
    return count(spec.grace_epochs, spec.every_epochs)


def stops(spec: "EarlyStop", rung: int, curves: "Mapping[str, Curve]", undecided: Collection[str]) -> set[str]:
    numbers = {trial: [value for value in curve[:rung] if value is not None] for trial, curve in curves.items()}
    averages = [min(fmean(values), max(values)) for values in numbers.values() if values]  # rounded, a mean may pass them all
    if len(averages) < spec.min_trials:
        return set()
    bar = median(averages)
    return {trial for trial in undecided if not numbers[trial] or max(numbers[trial]) < bar}


def fewest(spec: "EarlyStop", trials: int, rungs: list[int]) -> list[tuple[int, int]]:
    """At the first rung a half, for no best value is below its own average. Later all but one, if they all grow worse."""
    if trials < spec.min_trials:
        return [(rung, trials) for rung in rungs]
    return [(rung, 1 if index else trials - trials // 2) for index, rung in enumerate(rungs)]
