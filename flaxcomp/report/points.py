"""The rows that a front may hold: trials, their files, or their files on devices, each with all figures known about it."""

from collections.abc import Sequence
from typing import Literal, TypeVar

from flaxcomp.report.fronts import MEASURED, applicable, is_number, pareto, satisfying
from flaxcomp.report.statistics import comp_rates
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, Row, RunFrame
from flaxcomp.sweep.spec import Metric

MOST_POINTS = 5000  # in one chart; more are a cloud to the eye, and a page of tens of megabytes to the browser

Level = Literal["trial", "artifact", "measurement"]
Item = TypeVar("Item")
_OF_ARTIFACTS = tuple(name for name in MEASUREMENT_COLUMNS if name not in MEASURED)


def level(names: Sequence[str]) -> Level:
    """The rows on which all these columns are known."""
    if any(name in MEASURED for name in names):
        return "measurement"
    return "artifact" if any(name in _OF_ARTIFACTS for name in names) else "trial"


def trial_rows(frame: RunFrame, role: str = "trial") -> list[Row]:
    """Finished trials of a role, with `comp_rate`."""
    rows = [row for row in frame.trials if row.get("status") == "finished" and row.get("role", "trial") == role]
    rates = comp_rates(rows, frame.trials)
    return [{**row, "comp_rate": rate} if rate is not None else dict(row) for row, rate in zip(rows, rates, strict=True)]


def artifact_rows(frame: RunFrame) -> list[Row]:
    """TFLite files of finished trials, with their trial's columns, and `file`, which tells those of a trial apart."""
    trials = {row["trial"]: row for row in trial_rows(frame)}
    files = (row for row in _named(frame.artifacts) if row.get("format", "tflite") == "tflite")
    return [{**trials[row["trial"]], **row} for row in files if row["trial"] in trials]


def _named(artifacts: Sequence[Row]) -> list[Row]:
    """With `file`: the precision and, of several of a trial, how its ranges were found as far as that differs."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in artifacts:
        together.setdefault((row["trial"], row["precision"], row.get("format", "tflite")), []).append(row)
    named = []
    for row in artifacts:
        alike = together[row["trial"], row["precision"], row.get("format", "tflite")]
        differing = [name for name in _WAYS if len({other.get(name) for other in alike if other.get("artifact")}) > 1]
        parts = [_WAYS[name].format(row[name]) for name in differing if row.get(name) is not None]
        named.append(row | {"file": ", ".join([str(row["precision"]), *parts])})
    return named


_WAYS = {"quantizer": "{}", "calibration_images": "{} images", "calibration_seed": "seed {}"}


def measurement_rows(frame: RunFrame) -> list[Row]:
    """Measurements of finished trials' files, with the columns of the trial and the file."""
    trials = {row["trial"]: row for row in trial_rows(frame)}
    files = {(row["trial"], row["artifact"]): row for row in _named(frame.artifacts)}
    return [
        {**trials[row["trial"]], **files.get((row["trial"], row["artifact"]), {}), **row}
        for row in frame.measurements
        if row["trial"] in trials
    ]


def rows_at(frame: RunFrame, where: Level) -> list[Row]:
    if where == "trial":
        return trial_rows(frame)
    return artifact_rows(frame) if where == "artifact" else measurement_rows(frame)


def competing(rows: Sequence[Row], constraints: Sequence[str]) -> list[Row]:
    """Rows that may be on a front: within the constraints that apply, and no file whose accuracy fell beyond the bound."""
    return [row for row in satisfying(rows, applicable(rows, constraints)) if not row.get("flagged")]


def thinned(items: Sequence[Item]) -> Sequence[Item]:
    """All items, or of very many MOST_POINTS at even distances."""
    if len(items) <= MOST_POINTS:
        return items
    return [items[place * len(items) // MOST_POINTS] for place in range(MOST_POINTS)]


def known_metrics(frame: RunFrame) -> tuple[Metric, ...]:
    """The sweep's metrics for which there are figures yet."""
    return tuple(
        metric
        for metric in frame.metrics
        if any(is_number(row.get(metric.name)) for row in rows_at(frame, level([metric.name])))
    )


def winners(frame: RunFrame) -> list[Row]:
    """The front of the sweep's own metrics, best by the first of them first."""
    metrics = known_metrics(frame)
    if not metrics:
        return []
    rows = rows_at(frame, level([metric.name for metric in metrics]))
    front = pareto(competing(rows, frame.constraints), metrics)
    first = metrics[0]
    return sorted(front, key=lambda row: row[first.name], reverse=first.goal == "maximize")


def best_trials(frame: RunFrame, count: int) -> list[str]:
    """Trial ids of the winners, best first, each once, at most `count`."""
    return list(dict.fromkeys(str(row["trial"]) for row in winners(frame)))[:count]
