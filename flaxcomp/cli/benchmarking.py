"""Measuring the files of a run, with progress: what `flaxcomp bench` and `flaxcomp run` share."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flaxcomp.devices.measure import Failure, Observer, Subject, measure
from flaxcomp.devices.pool import Pool
from flaxcomp.devices.protocol import Protocol
from flaxcomp.devices.transports import DeviceOptions, Facts
from flaxcomp.errors import UserError
from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

if TYPE_CHECKING:
    from rich.console import Console

RENEW_EVERY_S = 5.0
LEASE_TTL_S = (
    900.0  # above the longest time without news: a device's timeout; a dead process on this host is superseded at once
)


@dataclass
class Outcome:
    """What a bench brought: new rows, what failed, and how many figures had been recorded before."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    before: int = 0

    def problem(self) -> UserError | None:
        """The error to end with when something failed that was not optional; what was measured is recorded all the same."""
        missing = [f"{f.device}: {f.message}" for f in self.failures if f.subject is None and not f.optional]
        counts = Counter((f.device, f.kind) for f in self.failures if f.subject is not None)
        if not missing and not counts:
            return None
        lines = [*missing, *(f"{device}: {count} x {kind}, see above" for (device, kind), count in counts.items())]
        return UserError(
            f"{len(self.rows)} figures were measured, but not everything could be:" + "".join(f"\n  {x}" for x in lines)
        )


@contextmanager
def leased(store: Store) -> Iterator[Lease]:
    """Be the run's writer. Raises UserError while a controller is at work on it."""
    lease = store.acquire(host=socket.gethostname(), pid=os.getpid(), ttl_s=LEASE_TTL_S)
    try:
        yield lease
    finally:
        store.release(lease)


def bench_run(
    store: Store,
    lease: Lease,
    paths: RunPaths,
    pool: Pool,
    protocol: Protocol,
    *,
    console: "Console",
    precisions: Sequence[str] = (),
    trials: Sequence[str] = (),
    seed: int = 0,
) -> Outcome:
    """Measure the run's TFLite files that have no figure yet on a device under the protocol, and record each at once.

    Args:
        console: gets progress and notes.
        precisions, trials: only these; empty: all. A trial may be given by the beginning of its id.

    Returns:
        what was measured and what failed; `Outcome.problem` makes an error of the latter.
    """
    frame = store.frame(epochs=False)
    subjects = _subjects(frame, paths, precisions, trials)
    if not subjects:
        console.print("no TFLite files: run `flaxcomp export`", style="yellow", highlight=False)
    recorded = {
        (row["trial"], row["artifact"], row["device"]): row for row in frame.measurements if row["protocol"] == protocol.name
    }
    outcome, renewed = Outcome(), time.monotonic()
    outcome.before = sum((s.trial, s.artifact, device.name) in recorded for device in pool.devices for s in subjects)

    def missing(device: DeviceOptions, subject: Subject) -> bool:
        row = recorded.get((subject.trial, subject.artifact, device.name))
        return row is None or row["threads"] != device.threads  # the latter will be refused

    def wanted(device: DeviceOptions, facts: Facts, subject: Subject) -> bool:
        row = recorded.get((subject.trial, subject.artifact, device.name))
        if row is not None:
            _check_same_device(row, device, facts)
        return row is None

    def keep_lease() -> None:
        nonlocal renewed
        if time.monotonic() - renewed > RENEW_EVERY_S:
            store.renew(lease)
            renewed = time.monotonic()

    with _shown(console, outcome, keep_lease) as observer:
        for row in measure(pool, subjects, protocol, seed=seed, observer=observer, missing=missing, wanted=wanted):
            store.add_measurement(lease, row)
            outcome.rows.append(row)
    for failure in outcome.failures:
        store.log_event(lease, "bench", _line(failure))
    return outcome


def bench_files(pool: Pool, subjects: Sequence[Subject], protocol: Protocol, *, console: "Console", seed: int = 0) -> Outcome:
    """Measure files that belong to no run."""
    outcome = Outcome()
    with _shown(console, outcome, lambda: None) as observer:
        outcome.rows.extend(measure(pool, subjects, protocol, seed=seed, observer=observer))
    return outcome


def print_table(rows: Sequence[Row], console: "Console") -> None:
    """Print a table for every group of figures that may be compared: one device model, runtime, threads and protocol."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["emulated"], row["device"], row["device_model"], row["runtime"], row["threads"], row["protocol"])
        groups.setdefault(key, []).append(row)
    for (emulated, device, model, runtime, threads, protocol), group in sorted(groups.items(), key=lambda item: item[0]):
        lines = [f"{device}: {model}, {runtime}, {threads} thread{'s' if threads > 1 else ''}, protocol {protocol}"]
        lines += ["EMULATED: the times are the emulator's, not a board's"] if emulated else []
        style = "bold yellow" if emulated else "bold"
        console.print(escape("\n".join(lines)), style=style, soft_wrap=True)
        table = Table(box=box.SIMPLE, pad_edge=False)
        table.add_column("trial", overflow="fold")
        table.add_column("precision")
        memory = "emulator's MiB" if emulated else "peak MiB"
        counted = any(row["instructions"] for row in group)
        headings = ("KiB", f"{group[0]['statistic']} ms", "95 % interval", memory, "output")
        for heading in (*headings, "instructions") if counted else headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in sorted(group, key=lambda row: float(row["latency_ms"])):
            table.add_row(*_cells(row), *([f"{row['instructions'] or 0:,}"] if counted else []))
        console.print(table)


def _cells(row: Row) -> list[str]:
    interval = f"{row['latency_ci_low']:.4g} - {row['latency_ci_high']:.4g}"
    return [
        row["trial"],
        row["precision"],
        f"{row['size_bytes'] / 1024:.1f}",
        f"{row['latency_ms']:.4g}",
        interval + (" (1 process)" if row["ci_unit"] == "run" else ""),
        f"{row['peak_memory_bytes'] / 2**20:.1f}",
        f"off by {row['max_output_error']:.2g}" if row["output_flagged"] else "ok",
    ]


def _subjects(frame: RunFrame, paths: RunPaths, precisions: Sequence[str], trials: Sequence[str]) -> list[Subject]:
    files = [row for row in frame.artifacts if row["format"] == "tflite" and row["artifact"]]
    known = sorted({row["precision"] for row in files})
    if unknown := sorted(set(precisions) - set(known)):
        raise UserError(
            f"the run has no TFLite file of precision {', '.join(unknown)}; it has: {', '.join(known) or 'none at all'}"
        )
    for start in trials:
        if not any(row["trial"].startswith(start) for row in files):
            raise UserError(f"no trial whose id begins with {start!r} has a TFLite file; see `flaxcomp results`")
    chosen: dict[tuple[str, str], Subject] = {}  # a file that serves two precisions is measured once
    for row in files:
        if (not precisions or row["precision"] in precisions) and (not trials or row["trial"].startswith(tuple(trials))):
            subject = Subject(row["artifact"], paths.artifact(row["artifact"], "tflite"), row["precision"], row["trial"])
            chosen.setdefault((row["trial"], row["artifact"]), subject)
    return list(chosen.values())


def _check_same_device(row: Row, device: DeviceOptions, facts: Facts) -> None:
    """Figures of different devices are never pooled: refuse a name that meant something else when it was recorded."""
    now = {"device_model": facts.device_model, "runtime": facts.runtime, "threads": device.threads}
    for key, value in now.items():
        if row[key] != value:
            raise UserError(
                f"this run has figures of {device.name!r} with {key} {row[key]!r}, which is {value!r} now; "
                "give the device another name in the pool file, so that its figures are kept apart"
            )


def _line(failure: Failure) -> str:
    subject = failure.subject
    what = f" ({subject.trial} {subject.precision}, {subject.path.name})" if subject else ""
    return f"{failure.device}{what}: {failure.kind}: {failure.message}"


@contextmanager
def _shown(console: "Console", outcome: Outcome, on_step: Any) -> Iterator[Observer]:
    """Show progress while measuring; collect the failures in `outcome`."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("measuring on {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        tasks: dict[str, Any] = {}

        def print_line(text: str, style: str) -> None:
            progress.console.print(escape(text), style=style, highlight=False, soft_wrap=True)

        def on_progress(device: str, done: int, total: int) -> None:
            if device not in tasks:
                tasks[device] = progress.add_task(escape(device), total=total)
            progress.update(tasks[device], completed=done)
            on_step()

        def on_failure(failure: Failure) -> None:
            outcome.failures.append(failure)
            if failure.optional:
                print_line(f"left out: {failure.device}: {failure.message}", "yellow")
            elif failure.subject is not None:  # a device that is not there is told at the end, by `Outcome.problem`
                print_line(f"failed: {_line(failure)}", "red")

        def on_note(text: str) -> None:
            print_line(text, "dim")

        yield Observer(on_progress=on_progress, on_failure=on_failure, on_note=on_note)
