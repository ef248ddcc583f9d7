"""Failures: every failed attempt, with what it said."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flaxcomp.report.configurations import Naming
from flaxcomp.report.tables import Cell, Table, number
from flaxcomp.store.frame import RunFrame

TITLE = "Failures"
ORDER = 100

LIMIT = 200


@dataclass(frozen=True)
class Failure:
    """`status` is the trial's now: an attempt may fail and the trial still finish."""

    trial: str
    label: str
    attempt: int
    kind: str
    error: str
    at: str
    status: str


@dataclass(frozen=True)
class FailuresInfo:
    """The latest failures first, at most LIMIT; `kinds` counts all attempts."""

    failures: tuple[Failure, ...]
    kinds: tuple[tuple[str, int], ...]

    @property
    def caption(self) -> str:
        total = sum(count for _, count in self.kinds)
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.kinds)
        cut = f" The latest {len(self.failures)} are listed." if total > len(self.failures) else ""
        return f"{total} failed attempt{'s' if total != 1 else ''}: {counts}.{cut}"


def info(frame: RunFrame) -> FailuresInfo | None:
    if not frame.failures:
        return None
    naming = Naming.of(frame)
    trials = {row["trial"]: row for row in frame.trials}
    latest = sorted(frame.failures, key=lambda row: _moment(row.get("at")), reverse=True)
    kinds = Counter(str(row.get("kind", "error")) for row in frame.failures).most_common()
    found = []
    for row in latest[:LIMIT]:
        trial = trials.get(row["trial"], {"trial": row["trial"]})
        found.append(
            Failure(
                trial=str(row["trial"]),
                label=naming.label(trial, seed=True),
                attempt=int(row.get("attempt") or 0),
                kind=str(row.get("kind", "error")),
                error=str(row.get("error") or ""),
                at=_moment(row.get("at")),
                status=str(trial.get("status", "")),
            )
        )
    return FailuresInfo(tuple(found), tuple(kinds))


def draw(info: FailuresInfo) -> Table:
    columns = ("Trial", "Configuration", "Attempt", "Kind", "When", "Trial is now", "Error")
    rows = [
        (
            Cell(its.trial, kind="trial"),
            Cell(its.label),
            number(str(its.attempt), its.attempt),
            Cell(its.kind.replace("_", " ")),
            Cell(its.at),
            Cell(its.status),
            Cell(its.error, kind="long"),
        )
        for its in info.failures
    ]
    return Table(columns, tuple(rows)).without_empty_columns()


def _moment(at: Any) -> str:
    """A moment as the store gives it, seconds since 1970 or ISO text, in words that sort."""
    if isinstance(at, (int, float)):
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(at or "").replace("T", " ")[:19]
