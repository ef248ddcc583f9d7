"""The facts at the head of a report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flaxcomp.report.configurations import Naming
from flaxcomp.report.fronts import Setting
from flaxcomp.report.points import known_metrics, winners
from flaxcomp.report.quantities import quantity
from flaxcomp.store.frame import RunFrame

STATUSES = ("finished", "stopped", "running", "pending", "failed", "blocked")


@dataclass(frozen=True)
class Tile:
    """A figure worth a glance: what it is, the figure, and a line about it."""

    label: str
    figure: str
    note: str


@dataclass(frozen=True)
class Facts:
    """What a run is and how far it is.

    Attributes:
        statuses: trials by status, those statuses that occur.
        emulated: devices whose figures are emulated; real: the others.
    """

    name: str
    written: str
    statuses: tuple[tuple[str, int], ...]
    tiles: tuple[Tile, ...]
    metrics: tuple[str, ...]
    constraints: tuple[str, ...]
    emulated: tuple[str, ...]
    real: tuple[str, ...]

    @property
    def notice(self) -> str:
        """The sentence that must stand wherever emulated figures do, or ""."""
        if not self.emulated:
            return ""
        which = "All device figures here" if not self.real else "The figures of some devices"
        return f"{which} are EMULATED ({', '.join(self.emulated)}): they are not the latency or memory of real hardware."


def gather(frame: RunFrame, now: datetime) -> Facts:
    counts = Counter(str(row.get("status")) for row in frame.trials)
    order = [*STATUSES, *sorted(set(counts) - set(STATUSES))]
    settings = sorted({Setting.of(row) for row in frame.measurements})
    return Facts(
        name=frame.name,
        written=now.strftime("%Y-%m-%d %H:%M %Z").strip(),
        statuses=tuple((status, counts[status]) for status in order if counts[status]),
        tiles=_tiles(frame, counts["finished"], len(frame.trials)),
        metrics=tuple(_goal(frame, name) for name in dict.fromkeys(metric.name for metric in frame.metrics)),
        constraints=frame.constraints,
        emulated=_devices([setting for setting in settings if setting.emulated]),
        real=_devices([setting for setting in settings if not setting.emulated]),
    )


def _tiles(frame: RunFrame, finished: int, total: int) -> tuple[Tile, ...]:
    tiles = [Tile("Trials finished", f"{finished:,}", f"of {total:,}")]
    front = winners(frame)
    naming = Naming.of(frame)
    for metric in known_metrics(frame)[:3]:
        its = quantity(metric.name, frame.metrics)
        pick = max if its.goal == "maximize" else min
        if not front:
            break
        # Real devices first: an emulated figure stands here only where there is no other, and says so.
        real = [row for row in front if not (its.measured and row.get("emulated"))]
        best = pick(real or front, key=lambda row, name=metric.name: row[name])  # type: ignore[misc]
        word = {"maximize": "Highest", "minimize": "Lowest"}[its.goal]
        mark = "" if real else " (emulated)"
        tiles.append(Tile(f"{word} {its.phrase}{mark}", its.text(best[metric.name]), naming.label(best)))
    if front:
        trials = len({row["trial"] for row in front})
        tiles.append(Tile("On the front", f"{trials:,}", "trial" if trials == 1 else "trials"))
    return tuple(tiles)


def _goal(frame: RunFrame, name: str) -> str:
    its = quantity(name, frame.metrics)
    return f"{its.label} ({'more' if its.goal == 'maximize' else 'less'} is better)"


def _devices(settings: Sequence[Setting]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(setting.device or "unnamed device" for setting in settings))
