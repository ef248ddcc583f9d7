"""How a run shows itself: bars on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import click

from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Metric
from flaxcomp.train.job import EpochDone, Event, Failed, Finished, Stopped, Tick

PLAIN_EVERY_S = 15.0
BURST = 60  # lines


class Tally:
    """What both displays keep count of.

    Args:
        metric: of the best so far.
        label: of a trial, for people.
        work_of: of a trial, in any unit; None as long as it is not known.
        competes: whether a trial can be the best; dependencies cannot, as on the front.
    """

    def __init__(
        self, metric: Metric, label: Callable[[str], str], work_of: Callable[[str], float | None] = lambda _: 1.0,
        clock: Callable[[], float] = time.monotonic, *, competes: Callable[[str], bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self.metric, self.label, self.work_of, self.clock, self.competes = metric, label, work_of, clock, competes
        self.wanted: list[str] = []
        self.finished: set[str] = set()
        self.stopped_early: set[str] = set()
        self._resumed: frozenset[str] = frozenset()
        self._work: tuple[float, float] | None = None  # of all trials and of those finished before, once it is known
        self._done = 0.0  # of those finished since
        self.training: dict[str, tuple[int, int, tuple[str, ...]]] = {}  # by pack: images done, images to do, its trials
        self.rates: dict[str, float] = {}
        self.best: tuple[float, str] | None = None
        self.began = self.heard = clock()

    def started(self, statuses: dict[str, str]) -> None:
        self.wanted = list(statuses)
        self.finished = {trial for trial, status in statuses.items() if status == "finished"}
        self.stopped_early = {trial for trial, status in statuses.items() if status == "stopped"}
        self._resumed, self._work, self._done = frozenset(self.finished), None, 0.0
        self.began = self.heard = self.clock()

    def stopped(self, trials: Iterable[str]) -> None:
        """By `early_stop`: what is left of their work is not done."""
        self.stopped_early.update(trials)
        self._work = None  # added up anew

    def added(self, statuses: dict[str, str]) -> None:
        """By a search; all that are wanted now."""
        self.wanted, self._work = list(statuses), None

    def happened(self, event: Event, pack: Pack | None) -> None:
        before, self.heard = self.heard, self.clock()
        if isinstance(event, Tick) and event.images_per_second is None:
            self.began += self.heard - before  # went into compiling, which says nothing about the time left
        if isinstance(event, Tick) and pack is not None:
            self.training[event.pack_id] = (event.images_done, event.images_total, pack.trial_ids)
            if event.images_per_second is not None:
                self.rates[event.pack_id] = event.images_per_second
        elif isinstance(event, EpochDone) and self.metric.name == "val_accuracy":
            for row in event.rows:
                self._offer(row["val_accuracy"], row["trial"])
        elif isinstance(event, Finished):
            if self._work is not None:
                self._done += self._work_among(event.results.keys() - self.finished)
            self.finished.update(event.results)
            for trial, row in event.results.items():
                self._offer(row.get(self.metric.name), trial)
        if isinstance(event, Finished | Failed | Stopped):
            self.rates.pop(event.pack_id, None)
            self.training.pop(event.pack_id, None)

    def seconds_left(self) -> float | None:
        """From the work done and to do; unknown in the first seconds."""
        if self._work is None and not self._learn_work():
            return None
        assert self._work is not None
        total, before = self._work
        done = self._done + sum(images / of * self._work_among(trials) for images, of, trials in self.training.values() if of)
        elapsed = self.clock() - self.began
        if elapsed < 5 or done < 0.01 * total:
            return None
        return elapsed / done * max(total - before - done, 0)

    def _learn_work(self) -> bool:
        """Add up, once, what there is to do; an event then costs the same however many trials there are."""
        if not self.wanted or self.work_of(self.wanted[0]) is None:
            return False
        works = [self.work_of(trial) for trial in self.wanted if trial not in self.stopped_early]
        if None in works:
            return False
        self._work = sum(filter(None, works)), self._work_among(self._resumed)
        self._done = self._work_among(self.finished) - self._work[1]
        return True

    def _work_among(self, trials: Iterable[str]) -> float:
        found = (self.work_of(trial) for trial in trials)
        return sum(1.0 if one is None else one for one in found)

    @property
    def images_per_second(self) -> float:
        return sum(self.rates.values())

    def best_text(self) -> str:
        if self.best is None:
            return ""
        value, trial = self.best
        return f"best {self.metric.name} {value:.4f} ({self.label(trial)})"

    def _offer(self, value: float | None, trial: str) -> None:
        if value is None or not self.competes(trial):
            return
        better = self.best is None or (value > self.best[0] if self.metric.goal == "maximize" else value < self.best[0])
        if better:
            self.best = (value, trial)


class PlainDisplay:
    """A line when a pack begins or ends, and one every 15 seconds; for logs and pipes.

    Packs that take no time would fill a log: after `BURST` lines about them, they get one a second.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally, self._packs = tally, dict[str, Pack]()
        self._next_line = 0.0
        self._allowed, self._counted_at = float(BURST), tally.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, statuses: dict[str, str], slots: int) -> None:
        self._tally.started(statuses)
        again = f", {len(self._tally.finished)} of them finished before" if self._tally.finished else ""
        self.said(f"{len(statuses)} trials{again}; {slots} worker{'s' if slots > 1 else ''}")

    def pack_started(self, pack: Pack, attempt: int) -> None:
        self._packs[pack.id] = pack
        again = f", attempt {attempt}" if attempt > 1 else ""
        if self._may_say():
            self.said(f"pack {pack.id}: {_trials(len(pack.trial_ids))} of {self._tally.label(pack.trial_ids[0])}{again}")

    def happened(self, event: Event) -> None:
        self._tally.happened(event, self._packs.get(event.pack_id))
        if isinstance(event, Finished | Failed | Stopped):
            self._packs.pop(event.pack_id, None)
        if isinstance(event, Failed):
            self.said(f"pack {event.pack_id} failed ({event.kind}): {event.error}")
        elif isinstance(event, Finished):
            if self._may_say():
                self.said(f"pack {event.pack_id} finished; {self._line()}")
        elif self._tally.clock() >= self._next_line:
            self._next_line = self._tally.clock() + PLAIN_EVERY_S
            self.said(self._line())

    def stopped(self, trials: Sequence[str]) -> None:
        self._tally.stopped(trials)

    def added(self, statuses: dict[str, str]) -> None:
        before = len(self._tally.wanted)
        self._tally.added(statuses)
        self.said(f"{len(statuses)} trials, {len(statuses) - before} of them new")

    def said(self, text: str) -> None:
        click.echo(text, err=True)

    def _may_say(self) -> bool:
        now = self._tally.clock()
        self._allowed = min(self._allowed + now - self._counted_at, BURST)
        self._counted_at = now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def _line(self) -> str:
        t = self._tally
        left = t.seconds_left()
        stopped = f"{len(t.stopped_early)} stopped early" if t.stopped_early else ""
        speed = f"{t.images_per_second:,.0f} images/s" if t.rates else ""
        parts = [f"{len(t.finished)}/{len(t.wanted)} trials", stopped, speed,
                 f"about {_duration(left)} left" if left else "", t.best_text()]  # fmt: skip
        return ", ".join(part for part in parts if part)


class BarDisplay:
    """Bars: one for all trials, one for each pack in training."""

    def __init__(self, tally: Tally) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        self._tally, self._packs, self._tasks = tally, dict[str, Pack](), dict[str, TaskID]()
        self._progress: Progress = Progress(
            TextColumn("{task.fields[title]}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=Console(stderr=True), refresh_per_second=4,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def started(self, statuses: dict[str, str], slots: int) -> None:  # noqa: ARG002
        self._tally.started(statuses)
        self._all = self._progress.add_task("", total=len(statuses), completed=len(self._tally.finished), title="trials")

    def pack_started(self, pack: Pack, attempt: int) -> None:  # noqa: ARG002
        self._packs[pack.id] = pack
        title = f"  {_trials(len(pack.trial_ids))} of {self._tally.label(pack.trial_ids[0])}"
        self._tasks[pack.id] = self._progress.add_task("compiling", total=None, title=title)

    def happened(self, event: Event) -> None:
        self._tally.happened(event, self._packs.get(event.pack_id))
        task = self._tasks.get(event.pack_id)
        if isinstance(event, Tick) and task is not None:
            rate = event.images_per_second
            speed = None if rate is None else f"{rate:,.0f} images/s"  # None leaves what stands there
            self._progress.update(task, total=event.images_total, completed=event.images_done, description=speed)
        elif isinstance(event, Finished | Failed | Stopped) and task is not None:
            self._progress.remove_task(self._tasks.pop(event.pack_id))
            self._packs.pop(event.pack_id, None)
            if isinstance(event, Failed):
                self.said(f"pack {event.pack_id} failed ({event.kind}): {event.error}")
        self._show_all()

    def stopped(self, trials: Sequence[str]) -> None:
        self._tally.stopped(trials)

    def added(self, statuses: dict[str, str]) -> None:
        self._tally.added(statuses)
        self._progress.update(self._all, total=len(statuses))

    def _show_all(self) -> None:
        t = self._tally
        left, early = t.seconds_left(), len(t.stopped_early)
        parts = (f"{early} stopped early" if early else "", f"about {_duration(left)} left" if left else "", t.best_text())
        text = "  ".join(part for part in parts if part)
        description = f"{len(t.finished)}/{len(t.wanted)}  {text}"
        self._progress.update(self._all, completed=len(t.finished) + early, description=description)

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
