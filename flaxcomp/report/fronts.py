"""The Pareto front, for any number of metrics, over rows that may be compared with one another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from flaxcomp.store.frame import Row
from flaxcomp.sweep.expressions import compile_expression
from flaxcomp.sweep.spec import Metric

# What a device says. Such figures are compared only within one setting.
MEASURED = ("latency_ms", "latency_ci_low", "latency_ci_high", "peak_memory_bytes", "instructions")


@dataclass(frozen=True, order=True)
class Setting:
    """The circumstances of a measurement. Figures of different settings are never ranked together."""

    emulated: bool
    device_model: str
    device: str
    protocol: str
    runtime: str
    threads: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Setting":
        """The setting of a measurement row; absent columns count as one value of their own."""
        return cls(
            emulated=bool(row.get("emulated")),
            device_model=str(row.get("device_model") or ""),
            device=str(row.get("device") or ""),
            protocol=str(row.get("protocol") or ""),
            runtime=str(row.get("runtime") or ""),
            threads=int(row.get("threads") or 0),
        )

    def __str__(self) -> str:
        parts = [
            self.device + (f" ({self.device_model})" if self.device_model and self.device_model != self.device else ""),
            self.runtime,
            f"{self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else "",
            self.protocol,
            "EMULATED" if self.emulated else "",
        ]
        return ", ".join(part for part in parts if part)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a cell holds a figure: a number, not a truth value, not NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def satisfying(rows: Sequence[Row], constraints: Sequence[str]) -> list[Row]:
    """The rows that satisfy every constraint. A row that lacks a column which a constraint reads does not satisfy it."""
    tests = [compile_expression(text) for text in constraints]
    return [row for row in rows if all(test(row) for test in tests)]


def applicable(rows: Sequence[Row], constraints: Sequence[str]) -> tuple[str, ...]:
    """The constraints whose columns exist among the rows: a size says nothing about trials that have no file yet."""
    known = {name for row in rows for name, value in row.items() if value is not None}
    return tuple(text for text in constraints if compile_expression(text).names <= known)


def pareto(rows: Sequence[Row], metrics: Sequence[Metric], constraints: Sequence[str] = ()) -> list[Row]:
    """Return the rows that no other row dominates.

    A row dominates another when it is at least as good in every metric and better in one; equal rows stay together. If a
    metric is measured on a device (`MEASURED`), rows compete only with rows of the same `Setting`, so that emulated and
    real figures are never ranked together.

    Args:
        rows: flat rows; those that lack a metric or hold NaN there are left out.
        metrics: at least one, with their goals.
        constraints: expressions over the rows' columns; only rows that satisfy all of them compete.

    Returns:
        The front, in the order of `rows`. O(n log n) for one or two metrics, O(n * front) beyond.

    Raises:
        ValueError: no metric was given.
        UserError: a constraint cannot be parsed, or compares what cannot be compared.
    """
    if not metrics:
        raise ValueError("a front needs at least one metric, got none")
    known = [row for row in satisfying(rows, constraints) if all(is_number(row.get(metric.name)) for metric in metrics)]
    if not any(metric.name in MEASURED for metric in metrics):
        return _front(known, metrics)
    settings = [Setting.of(row) for row in known]
    kept: set[int] = set()
    for setting in dict.fromkeys(settings):
        members = [row for row, its in zip(known, settings, strict=True) if its == setting]
        kept.update(id(row) for row in _front(members, metrics))
    return [row for row in known if id(row) in kept]


def _front(rows: Sequence[Row], metrics: Sequence[Metric]) -> list[Row]:
    if not rows:
        return []
    signs = np.array([1.0 if metric.goal == "minimize" else -1.0 for metric in metrics])
    costs = np.array([[float(row[metric.name]) for metric in metrics] for row in rows]) * signs
    keep = _two(costs) if costs.shape[1] <= 2 else _many(costs)
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def _two(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Non-dominated rows of [n, 1] or [n, 2] costs: a row stays if its last cost beats those of all smaller first costs."""
    first, last = costs[:, 0], costs[:, -1]
    order = np.lexsort((last, first))
    x, y = first[order], last[order]
    starts = np.flatnonzero(
        np.r_[True, x[1:] != x[:-1]]
    )  # of each run of equal first costs; its smallest last cost stands there
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(x)]))
    lowest = y[starts]
    before = np.r_[np.inf, np.minimum.accumulate(lowest)[:-1]]  # the best last cost of all smaller first costs
    wins = lowest < before
    wins[0] = True  # even where its last cost is infinite
    keep = np.empty(len(x), dtype=bool)
    keep[order] = wins[run] & (y == lowest[run])
    return keep


def _many(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Non-dominated rows of [n, m] costs. In lexicographic order a row can be dominated by earlier front members only."""
    order = np.lexsort(costs.T[::-1])
    members = np.empty_like(costs)
    count = 0
    keep = np.zeros(len(costs), dtype=bool)
    for index in order:
        cost = costs[index]
        front = members[:count]
        if not np.any(np.all(front <= cost, axis=1) & np.any(front < cost, axis=1)):
            members[count] = cost
            count += 1
            keep[index] = True
    return keep
