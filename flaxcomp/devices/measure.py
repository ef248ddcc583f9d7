"""Measuring files on the devices of a pool: shuffled rounds of fresh processes, all raw samples kept."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from flaxcomp.devices import reference, statistics, transports
from flaxcomp.devices.cache import cache_folder, locked
from flaxcomp.devices.pool import Pool
from flaxcomp.devices.protocol import Protocol
from flaxcomp.devices.reference import Reference
from flaxcomp.devices.transports import DeviceError, DeviceOptions, Facts, Transport
from flaxcomp.errors import MissingPackageError, UserError

Row = dict[str, Any]
COUNTING_PROCESSES, COUNTED_RUNS = 2, 3  # equal to the instruction, as a rule; the second process is there to show it
COUNTS_AGREE = 1e-3
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Subject:
    """A file to measure. `artifact` is the sha256 of its content; the same content is measured once a device."""

    artifact: str
    path: Path
    precision: str
    trial: str


@dataclass(frozen=True)
class Failure:
    """A measurement that did not come about.

    Attributes:
        subject: None: the device could not be had at all.
        kind: a kind of `DeviceError`; `quarantined`: the device had failed too often before; `wrong_output`: it computes
            something else than this machine; `bad_file`: this machine cannot run the file either.
        optional: the pool says that the device may be missing.
    """

    device: str
    subject: Subject | None
    kind: str
    message: str
    optional: bool = False


def _ignore(*_: object) -> None:
    pass


def _always(*_: object) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Who is told what happens while it happens; every part may be left out."""

    on_progress: Callable[[str, int, int], None] = _ignore  # the device's name, its processes that are done, all of them
    on_failure: Callable[[Failure], None] = _ignore
    on_note: Callable[[str], None] = _ignore


class _Answer(msgspec.Struct, frozen=True):
    """What the agent says about one measurement; see there."""

    load_ms: float
    samples_ms: Annotated[list[float], msgspec.Meta(min_length=1)]
    baseline_memory_bytes: int
    peak_memory_bytes: int
    max_output_error: float


class _Counted(msgspec.Struct, frozen=True):
    """What the agent says about one process that counted; see there."""

    instructions: Annotated[list[int], msgspec.Meta(min_length=1)]
    overhead: Annotated[list[int], msgspec.Meta(min_length=1)]

    def of_an_inference(self) -> int:
        return round(float(np.median(self.instructions) - np.median(self.overhead)))


@dataclass
class _Session:
    """One device while it is measured."""

    device: DeviceOptions
    transport: Transport
    facts: Facts
    results: dict[str, list[_Answer]] = field(default_factory=dict)  # by artifact, one a round
    counted: dict[str, list[int]] = field(default_factory=dict)  # by artifact, instructions of an inference, one a process
    failed: set[str] = field(default_factory=set)
    faults_in_a_row: int = 0


def measure(
    pool: Pool,
    subjects: Sequence[Subject],
    protocol: Protocol,
    *,
    seed: int = 0,
    observer: Observer | None = None,
    missing: Callable[[DeviceOptions, Subject], bool] = _always,
    wanted: Callable[[DeviceOptions, Facts, Subject], bool] = _always,
) -> Iterator[Row]:
    """Measure every file on every device, one device after the other, and yield a row as soon as a figure is complete.

    A device that cannot be had, fails or is quarantined is reported to `observer.on_failure` and the others go on.

    Args:
        seed: of the random inputs, the order in each round and the bootstrap.
        observer: is told of progress, failures and waiting.
        missing: says whether a file may still have to be measured on a device, before the device is asked who it is. One for
            which nothing is missing is neither connected to nor waited for.
        wanted: says whether a file is still to be measured on a device, when the device has said who it is; a UserError from it
            counts as a device that cannot be had.

    Yields:
        rows: `trial, artifact, precision, size_bytes, device, device_model, emulated, latency_ms, latency_ci_low,
        latency_ci_high, ci_unit, peak_memory_bytes, peak_memory_of, baseline_memory_bytes (without the model), load_ms,
        max_output_error, output_flagged, protocol, statistic, threads, runtime, machine, samples_ms (a list a process),
        instructions (of an inference with one thread; None where the device does not count), instructions_counted (a number a
        process), measured_at`.
    """
    observer = observer or Observer()
    devices = [device for device in pool.devices if any(missing(device, subject) for subject in subjects)]
    if not devices:
        return
    references = _references(subjects, seed, observer)
    subjects = [subject for subject in subjects if subject.artifact in references]
    for device in devices:
        with ExitStack() as stack:
            try:
                session = stack.enter_context(_session(device, observer))
                chosen = [subject for subject in subjects if wanted(device, session.facts, subject)]
            except (UserError, DeviceError) as error:
                kind = error.kind if isinstance(error, DeviceError) else "unreachable"
                observer.on_failure(Failure(device.name, None, kind, str(error), device.optional))
                continue
            yield from _measure_device(session, chosen, references, protocol, seed, observer)


def _references(subjects: Sequence[Subject], seed: int, observer: Observer) -> dict[str, Reference]:
    """Compute every file's reference, by artifact; report files that cannot be run."""
    found: dict[str, Reference] = {}
    for subject in subjects:
        if subject.artifact not in found:
            try:
                found[subject.artifact] = reference.compute(subject.path, seed)
            except MissingPackageError:
                raise
            except UserError as error:
                observer.on_failure(Failure("this machine, for reference", subject, "bad_file", str(error)))
    return found


@contextmanager
def _session(device: DeviceOptions, observer: Observer) -> Iterator[_Session]:
    """Connect to a device, hold its lock and check its health."""

    def on_wait(who: str, seconds: float) -> None:
        so_far = f", for {seconds:.0f} s now" if seconds >= 1 else ""
        observer.on_note(f"{device.name}: waiting for {who}, which measures on it{so_far}")

    transport = transports.connect(device, observer.on_note)
    try:
        lock = cache_folder() / "locks" / transport.lock
        with locked(lock, on_wait):
            yield _Session(device, transport, transport.facts())
    finally:
        transport.close()


def _measure_device(
    session: _Session,
    subjects: Sequence[Subject],
    references: dict[str, Reference],
    protocol: Protocol,
    seed: int,
    observer: Observer,
) -> Iterator[Row]:
    device = session.device
    rng = np.random.default_rng(seed)
    by_artifact: dict[str, list[Subject]] = {}
    for subject in subjects:
        by_artifact.setdefault(subject.artifact, []).append(subject)
    artifacts, done, total = sorted(by_artifact), 0, len(by_artifact) * protocol.rounds
    pause_s = max(protocol.sleep_s, device.cooldown_s)
    observer.on_progress(device.name, done, total)
    for _ in range(protocol.rounds):
        for artifact in rng.permutation(artifacts).tolist():
            same = by_artifact[artifact]
            if artifact not in session.failed:
                if done:
                    time.sleep(pause_s)
                try:
                    _run_once(session, same[0], references[artifact], protocol)
                except DeviceError as error:
                    session.failed.add(artifact)
                    for subject in same:
                        observer.on_failure(Failure(device.name, subject, error.kind, str(error)))
                else:
                    if len(session.results[artifact]) == protocol.rounds:
                        session.counted[artifact] = _count(session, same[0], references[artifact], observer)
                        yield from (_row(session, subject, references[artifact], protocol, seed) for subject in same)
            done += 1
            observer.on_progress(device.name, done, total)


def _run_once(session: _Session, subject: Subject, expected: Reference, protocol: Protocol) -> None:
    """Measure one file in one fresh process and keep the answer. Raises DeviceError."""
    device, name = session.device, f"{subject.artifact}.tflite"
    if session.faults_in_a_row >= device.quarantine_after:
        raise DeviceError("quarantined", f"not measured: the device had failed {session.faults_in_a_row} times in a row")
    job = {
        "task": "measure",
        "model": name,
        "sha256": subject.artifact,
        "threads": device.threads,
        "warmup_s": protocol.warmup_s,
        "runs": protocol.runs,
        "limit_s": protocol.limit_s,
        "cases": expected.cases,
    }
    try:
        session.transport.put(subject.path, name)
        answer = _read(session.transport.run(job, device.timeout_s + protocol.warmup_s), _Answer)
    except DeviceError as error:
        session.faults_in_a_row = session.faults_in_a_row + 1 if error.blames_device else 0
        raise
    session.faults_in_a_row = 0
    if answer.max_output_error >= expected.gross:
        raise DeviceError(
            "wrong_output", f"outputs are off by {answer.max_output_error:.3g}, allowed: {expected.tolerance:.3g}"
        )
    session.results.setdefault(subject.artifact, []).append(answer)


def _count(session: _Session, subject: Subject, expected: Reference, observer: Observer) -> list[int]:
    """Return the instructions of an inference in each of several fresh processes; [] where they cannot be had, with a note."""
    device, counted = session.device, list[int]()
    job: dict[str, Any] = {"task": "count", "model": f"{subject.artifact}.tflite", "sha256": subject.artifact}
    job |= {"runs": COUNTED_RUNS, "cases": expected.cases[:1]}
    try:
        for _ in range(COUNTING_PROCESSES):
            answer = session.transport.count(job, device.timeout_s)
            if answer is None:
                return []
            counted.append(_read(answer, _Counted).of_an_inference())
    except DeviceError as error:
        observer.on_note(f"{device.name} ({subject.path.name}): instructions were not counted: {error.kind}: {error}")
        return []
    if max(counted) - min(counted) > COUNTS_AGREE * min(counted):
        observer.on_note(f"{device.name} ({subject.path.name}): two processes counted unlike instructions: {counted}")
    return counted


def _read(answer: dict[str, Any], kind: type[Answer]) -> Answer:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise DeviceError("garbage", f"not a result of the agent: {error}") from error


def _row(session: _Session, subject: Subject, expected: Reference, protocol: Protocol, seed: int) -> Row:
    device, facts, answers = session.device, session.facts, session.results[subject.artifact]
    samples, counted = [answer.samples_ms for answer in answers], session.counted[subject.artifact]
    latency = statistics.summarise(samples, protocol.statistic, seed)
    error = max(answer.max_output_error for answer in answers)
    return {
        "trial": subject.trial,
        "artifact": subject.artifact,
        "precision": subject.precision,
        "size_bytes": subject.path.stat().st_size,
        "device": device.name,
        "device_model": facts.device_model,
        "emulated": facts.emulated,
        "latency_ms": latency.ms,
        "latency_ci_low": latency.ci_low,
        "latency_ci_high": latency.ci_high,
        "ci_unit": latency.ci_unit,
        "peak_memory_bytes": max(answer.peak_memory_bytes for answer in answers),
        "peak_memory_of": facts.memory_of,
        "baseline_memory_bytes": max(answer.baseline_memory_bytes for answer in answers),
        "load_ms": float(np.median([answer.load_ms for answer in answers])),
        "max_output_error": error,
        "output_flagged": error > expected.tolerance,
        "protocol": protocol.name,
        "statistic": protocol.statistic,
        "threads": device.threads,
        "runtime": facts.runtime,
        "machine": facts.machine,
        "samples_ms": samples,
        "instructions": round(float(np.median(counted))) if counted else None,
        "instructions_counted": counted,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
