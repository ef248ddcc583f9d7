"""Which trials are worth shipping: chosen before there are files, by what training alone says."""

import re

from flaxcomp.errors import UserError
from flaxcomp.report.fronts import is_number, pareto, satisfying
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, Row, RunFrame
from flaxcomp.sweep.expressions import compile_expression
from flaxcomp.sweep.spec import Metric

# What training knows that goes with a figure which only files and devices will have.
STAND_INS = {"size_bytes": "params", "latency_ms": "macs", "instructions": "macs", "peak_memory_bytes": "params",
             "accuracy": "val_accuracy"}  # fmt: skip
_BEST = re.compile(r"best:([1-9][0-9]*)")


def select(frame: RunFrame, rule: str) -> list[str]:
    """Return the ids of the finished trials that a rule chooses, in the run's order (`best`: best first).

    Metrics about files and devices are not known yet (`not_yet_known`): parameters stand in for size, multiply-adds for latency
    (STAND_INS), and constraints about them are left out; the final front counts the measured ones. Dependencies (teachers)
    are never chosen.

    Args:
        rule: `front` (not dominated in the sweep's metrics, within its constraints), `all`, or `best:N` (by the first metric,
            within the constraints).

    Raises:
        UserError: another rule, or none of the metrics is known yet.
    """
    best = _BEST.fullmatch(rule)
    if rule not in ("front", "all") and not best:
        raise UserError(f"the rule that selects winners must be front, all or best:N with N from 1, got {rule!r}")
    rows = _finished(frame)
    if rule == "all" or not rows:
        return [row["trial"] for row in rows]
    later = set(not_yet_known(frame))
    metrics = [_stand_in(metric) if metric.name in later else metric for metric in frame.metrics]
    metrics = [metric for metric in metrics if any(is_number(row.get(metric.name)) for row in rows)]
    constraints = [text for text in frame.constraints if text not in later]
    if not metrics:
        names = ", ".join(metric.name for metric in frame.metrics)
        raise UserError(f"winners cannot be selected by {names}: not known before export. Add a metric of training such as "
                        "val_accuracy to the sweep, or select all")  # fmt: skip
    if best:
        return [row["trial"] for row in _ranked(satisfying(rows, constraints), metrics[0])[: int(best[1])]]
    return [row["trial"] for row in pareto(rows, metrics, constraints)]


def not_yet_known(frame: RunFrame) -> list[str]:
    """The metrics and constraints that `select` leaves out: those about files and devices, and metrics that no trial has."""
    rows = _finished(frame)
    metrics = [
        metric.name
        for metric in frame.metrics
        if metric.name in MEASUREMENT_COLUMNS or not any(is_number(row.get(metric.name)) for row in rows)
    ]
    return metrics + [text for text in frame.constraints if compile_expression(text).names & set(MEASUREMENT_COLUMNS)]


def _stand_in(metric: Metric) -> Metric:
    return Metric(name=STAND_INS.get(metric.name, metric.name), goal=metric.goal)


def _finished(frame: RunFrame) -> list[Row]:
    return [row for row in frame.trials if row["status"] == "finished" and row["role"] == "trial"]


def _ranked(rows: list[Row], metric: Metric) -> list[Row]:
    known = [row for row in rows if is_number(row.get(metric.name))]
    return sorted(known, key=lambda row: row[metric.name], reverse=metric.goal == "maximize")
