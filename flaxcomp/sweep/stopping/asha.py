"""Successive halving: at each rung the best 1/factor go on, to factor times as many epochs.

Rungs and the share that goes on are those of ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
2020, algorithm 2, with stopping in place of promotion), but a rung is decided when the whole cohort is there, as in the
synchronous algorithm 1: what goes on is then independent of the order of arrival, and no trial goes on by being early.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxcomp.sweep.stopping import Curve, EarlyStop


def rungs(spec: "EarlyStop") -> Iterator[int]:
    rung = spec.grace_epochs
    while True:
        yield rung
        rung *= spec.factor


def stops(spec: "EarlyStop", rung: int, curves: "Mapping[str, Curve]", undecided: Collection[str]) -> set[str]:
    """Those not among the best ceil(n / factor) of the n trials that have a value at the rung; of equal ones by their id."""
    at_rung = {trial: curve[rung - 1] for trial, curve in curves.items() if len(curve) >= rung}
    ranked = sorted(at_rung, key=lambda trial: (-_number(at_rung[trial]), trial))
    return set(undecided).difference(ranked[: _share(spec, len(ranked))])


def fewest(spec: "EarlyStop", trials: int, rungs: list[int]) -> list[tuple[int, int]]:
    """These many, no more and no fewer."""
    found = []
    for rung in rungs:
        trials = _share(spec, trials)
        found.append((rung, trials))
    return found


def _share(spec: "EarlyStop", trials: int) -> int:
    return math.ceil(trials / spec.factor)


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
