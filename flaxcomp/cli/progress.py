"""How a run shows itself: bars on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Metric
from flaxcomp.train.job import EpochDone, Event, Failed, Finished, Stopped, Tick

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY_S = 15.0


class Tally:
    """What both displays keep count of."""

    def __init__(self, metric: Metric, label: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        self.metric, self.label, self.clock = metric, label, clock
        self.total = self.finished = self.failed = self.resumed = 0
        self.rates: dict[str, float] = {}
        self.done: dict[str, tuple[int, int]] = {}
        self.images = 0
        self.best: tuple[float, str] | None = None
        self.began = clock()

    def started(self, statuses: dict[str, str]) -> None:
        self.total = len(statuses)
        self.resumed = self.finished = sum(s == "finished" for s in statuses.values())
        self.began = self.clock()

    def happened(self, event: Event, pack: Pack | None) -> None:
        if isinstance(event, Tick):
            before = self.done.get(event.pack_id, (0, 0))[0]
            self.images += max(0, event.images_done - before)
            self.done[event.pack_id] = (event.images_done, event.images_total)
            self.rates[event.pack_id] = event.images_per_second
        elif isinstance(event, EpochDone) and self.metric.name == "val_accuracy":
            for row in event.rows:
                self._offer(row["val_accuracy"], row["trial"])
        elif isinstance(event, Finished):
            self.finished += len(event.results)
            for trial, row in event.results.items():
                self._offer(row.get(self.metric.name), trial)
        if isinstance(event, Finished | Failed | Stopped):
            self.rates.pop(event.pack_id, None)
            if isinstance(event, Failed) and pack is not None:
                self.failed += len(pack.trial_ids)

    def seconds_left(self) -> float | None:
        """From the share of trials done, those in training counted by their images."""
        part = sum(done / total for done, total in self.done.values() if total) / max(len(self.done), 1)
        new = self.finished - self.resumed + part
        if new < 0.05 or self.clock() - self.began < 5:
            return None
        return (self.clock() - self.began) / new * max(self.total - self.resumed - new, 0)

    @property
    def images_per_second(self) -> float:
        return sum(self.rates.values())

    def best_text(self) -> str:
        if self.best is None:
            return ""
        value, trial = self.best
        return f"best {self.metric.name} {value:.4f} ({self.label(trial)})"

    def _offer(self, value: float | None, trial: str) -> None:
        if value is None:
            return
        better = self.best is None or (value > self.best[0] if self.metric.goal == "maximize" else value < self.best[0])
        if better:
            self.best = (value, trial)


class PlainDisplay:
    """A line when a pack begins or ends, and one every 15 seconds; for logs and pipes."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._packs = tally, dict[str, Pack]()
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, statuses: dict[str, str], slots: int) -> None:
        self._tally.started(statuses)
        again = f", {self._tally.finished} of them finished before" if self._tally.finished else ""
        self.said(f"{len(statuses)} trials{again}; {slots} worker{'s' if slots > 1 else ''}")

    def pack_started(self, pack: Pack, attempt: int) -> None:
        self._packs[pack.id] = pack
        again = f", attempt {attempt}" if attempt > 1 else ""
        self.said(f"pack {pack.id}: {_trials(len(pack.trial_ids))} of {self._tally.label(pack.trial_ids[0])}{again}")

    def happened(self, event: Event) -> None:
        self._tally.happened(event, self._packs.get(event.pack_id))
        if isinstance(event, Failed):
            self.said(f"pack {event.pack_id} failed ({event.kind}): {event.error}")
        elif isinstance(event, Finished):
            self.said(f"pack {event.pack_id} finished; {self._line()}")
        elif self._tally.clock() >= self._next_line:
            self._next_line = self._tally.clock() + PLAIN_EVERY_S
            self.said(self._line())

    def said(self, text: str) -> None:
        click.echo(text, err=True)

    def _line(self) -> str:
        t = self._tally
        left = t.seconds_left()
        parts = [f"{t.finished}/{t.total} trials", f"{t.images_per_second:,.0f} images/s" if t.rates else "",
                 f"about {_duration(left)} left" if left else "", t.best_text()]  # fmt: skip
        return ", ".join(part for part in parts if part)


class BarDisplay:
    """Bars: one for all trials, one for each pack in training."""

    def __init__(self, tally: Tally) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._tally, self._packs, self._tasks = tally, dict[str, Pack](), dict[str, TaskID]()
        self._progress: Progress = Progress(
            TextColumn("{task.fields[title]}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=Console(stderr=True), refresh_per_second=4,
        )  # fmt: skip
        self._bars = (BarColumn, MofNCompleteColumn)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def started(self, statuses: dict[str, str], slots: int) -> None:
        self._tally.started(statuses)
        self._all = self._progress.add_task("", total=len(statuses), completed=self._tally.finished, title="trials")

    def pack_started(self, pack: Pack, attempt: int) -> None:
        self._packs[pack.id] = pack
        title = f"  {_trials(len(pack.trial_ids))} of {self._tally.label(pack.trial_ids[0])}"
        self._tasks[pack.id] = self._progress.add_task("compiling", total=None, title=title)

    def happened(self, event: Event) -> None:
        self._tally.happened(event, self._packs.get(event.pack_id))
        task = self._tasks.get(event.pack_id)
        if isinstance(event, Tick) and task is not None:
            speed = f"{event.images_per_second:,.0f} images/s"
            self._progress.update(task, total=event.images_total, completed=event.images_done, description=speed)
        elif isinstance(event, Finished | Failed | Stopped) and task is not None:
            self._progress.remove_task(self._tasks.pop(event.pack_id))
            if isinstance(event, Failed):
                self.said(f"pack {event.pack_id} failed ({event.kind}): {event.error}")
        t = self._tally
        left = t.seconds_left()
        text = "  ".join(part for part in (f"about {_duration(left)} left" if left else "", t.best_text()) if part)
        self._progress.update(self._all, completed=t.finished, description=f"{t.finished}/{t.total}  {text}")

    def said(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def make_display(tally: Tally) -> PlainDisplay | BarDisplay:
    """Bars if standard error is a terminal."""
    return BarDisplay(tally) if sys.stderr.isatty() else PlainDisplay(tally)


def _trials(n: int) -> str:
    return f"{n} trial{'s' if n > 1 else ''}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
