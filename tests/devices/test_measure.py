"""Measuring on devices that do what a test wants, and on this machine."""

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boards import FLOAT32, INT8
from flaxcomp.devices import cache, reference
from flaxcomp.devices import measure as measuring
from flaxcomp.devices.cache import cache_folder, locked
from flaxcomp.devices.measure import Failure, Observer, Subject, measure
from flaxcomp.devices.pool import Pool, local_pool
from flaxcomp.devices.protocol import Protocol, preset
from flaxcomp.devices.transports import DeviceError, DeviceOptions, Facts, Note, Transport
from flaxcomp.errors import UserError

FAST = Protocol(name="fast", rounds=3, warmup_s=0.0, runs=5)
NETS = [FLOAT32, INT8]


class Options(DeviceOptions, frozen=True):
    """This module is a transport too: a device of this kind behaves as BEHAVIOUR says."""

    there: bool = True


BEHAVIOUR: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
COUNTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # what devices that count instructions answer
JOBS: list[tuple[str, str]] = []  # (device, artifact) in the order they ran


def connect(options: Options, note: Note) -> Transport:
    if not options.there:
        raise UserError(f"device {options.name!r} is not there; plug it in")
    return Scripted(options.name)


class Scripted(Transport):
    lock = "scripted"

    def __init__(self, name: str) -> None:
        self.name = name

    def facts(self) -> Facts:
        return Facts(device_model="toy", emulated=False, runtime="toy 1", machine="toy", memory_of="process")

    def put(self, source: Path, name: str) -> None: ...

    def run(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        JOBS.append((self.name, job["sha256"]))
        return BEHAVIOUR.get(self.name, well)(job)

    def count(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        return COUNTS[self.name](job) if self.name in COUNTS else None

    def close(self) -> None: ...


def well(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    usual = {"load_ms": 1.0, "samples_ms": [1.0, 2.0, 3.0], "baseline_memory_bytes": 10, "peak_memory_bytes": 20}
    return usual | {"max_output_error": 0.0} | changes


def dies(job: dict[str, Any]) -> dict[str, Any]:
    raise DeviceError("died", "gone")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXCOMP_CACHE", str(tmp_path / "cache"))
    BEHAVIOUR.clear()
    COUNTS.clear()
    JOBS.clear()


def run(*devices: DeviceOptions, subjects: list[Subject] = NETS, protocol: Protocol = FAST, **more: Any) -> tuple[Any, Any]:
    failures: list[Failure] = []
    observer = Observer(on_failure=failures.append)
    rows = list(measure(Pool(devices), subjects, protocol, observer=observer, **more))
    return rows, failures


def copies(folder: Path, count: int) -> list[Subject]:
    """Networks with as many different hashes: bytes after the end of a flatbuffer change nothing."""
    made = []
    for number in range(count):
        path = folder / f"net{number}.tflite"
        path.write_bytes(FLOAT32.path.read_bytes() + bytes([number]))
        made.append(Subject(f"{number:064x}", path, "float32", f"trial{number}"))
    return made


def test_measures_this_machine() -> None:
    seen: list[tuple[str, int, int]] = []
    observer = Observer(on_progress=lambda *step: seen.append(step))
    rows = list(measure(local_pool(), NETS, FAST, observer=observer))
    assert {row["artifact"] for row in rows} == {FLOAT32.artifact, INT8.artifact}
    for row in rows:
        assert (row["device"], row["emulated"], row["threads"], row["protocol"]) == ("local", False, 1, "fast")
        assert [len(samples) for samples in row["samples_ms"]] == [5, 5, 5]
        assert 0 < row["latency_ci_low"] <= row["latency_ms"] <= row["latency_ci_high"]
        assert row["ci_unit"] == "process"
        assert row["size_bytes"] == (FLOAT32 if row["precision"] == "float32" else INT8).path.stat().st_size
        assert not row["output_flagged"]
    assert seen == [("local", done, 6) for done in range(7)]


def test_every_round_runs_every_network_once_in_a_fresh_order(tmp_path: Path) -> None:
    subjects = copies(tmp_path, 6)
    rows, failures = run(Options(name="a"), subjects=subjects)
    assert not failures
    assert len(rows) == 6
    rounds = [tuple(artifact for _, artifact in JOBS[start : start + 6]) for start in (0, 6, 12)]
    assert len(JOBS) == 18
    assert all(sorted(order) == sorted(subject.artifact for subject in subjects) for order in rounds)
    assert len(set(rounds)) == 3
    first = list(JOBS)
    JOBS.clear()
    run(Options(name="a"), subjects=subjects)
    assert first == JOBS  # the same seed, the same order


def test_the_same_content_is_measured_once_and_reported_for_each() -> None:
    twin = Subject(FLOAT32.artifact, FLOAT32.path, "float32", "another trial")
    rows, _ = run(Options(name="a"), subjects=[FLOAT32, twin])
    assert len(JOBS) == FAST.rounds
    assert {row["trial"] for row in rows} == {"float32", "another trial"}


def test_a_device_that_is_not_there_loses_nothing_of_the_others() -> None:
    rows, failures = run(
        Options(name="gone", there=False), Options(name="a"), Options(name="maybe", there=False, optional=True)
    )
    assert Counter(row["device"] for row in rows) == {"a": 2}
    assert [(failure.device, failure.subject, failure.kind, failure.optional) for failure in failures] == [
        ("gone", None, "unreachable", False),
        ("maybe", None, "unreachable", True),
    ]
    assert "plug it in" in failures[0].message


def test_a_failing_device_is_quarantined_and_its_jobs_are_reported(tmp_path: Path) -> None:
    BEHAVIOUR["bad"] = dies
    rows, failures = run(Options(name="bad", quarantine_after=2), Options(name="good"), subjects=copies(tmp_path, 5))
    assert Counter(device for device, _ in JOBS) == {"bad": 2, "good": 15}
    assert Counter(failure.kind for failure in failures) == {"died": 2, "quarantined": 3}
    assert {failure.device for failure in failures} == {"bad"}
    assert len(rows) == 5


def test_faults_that_are_not_in_a_row_do_not_quarantine(tmp_path: Path) -> None:
    turns = itertools.cycle([dies, well])
    BEHAVIOUR["shaky"] = lambda job: next(turns)(job)
    _, failures = run(Options(name="shaky", quarantine_after=2), subjects=copies(tmp_path, 4))
    assert failures
    assert {failure.kind for failure in failures} == {"died"}


def test_bad_models_do_not_quarantine(tmp_path: Path) -> None:
    subjects = copies(tmp_path, 5)

    def refuses(job: dict[str, Any]) -> dict[str, Any]:
        if job["sha256"] != subjects[0].artifact:
            raise DeviceError("bad_model", "no such operator")
        return well(job)

    BEHAVIOUR["old"] = refuses
    rows, failures = run(Options(name="old", quarantine_after=1), subjects=subjects)
    assert [row["trial"] for row in rows] == ["trial0"]
    assert [failure.kind for failure in failures] == ["bad_model"] * 4


def test_a_failed_network_is_not_tried_in_later_rounds() -> None:
    BEHAVIOUR["a"] = lambda job: well(job) if job["sha256"] == INT8.artifact else dies(job)
    rows, failures = run(Options(name="a"))
    assert [row["artifact"] for row in rows] == [INT8.artifact]
    assert [failure.subject for failure in failures] == [FLOAT32]
    assert Counter(artifact for _, artifact in JOBS) == {FLOAT32.artifact: 1, INT8.artifact: 3}


@pytest.mark.parametrize("answer", [{}, well({}) | {"samples_ms": []}, well({}) | {"samples_ms": "fast"}])
def test_an_incomplete_answer_is_garbage(answer: dict[str, Any]) -> None:
    BEHAVIOUR["a"] = lambda _: answer
    rows, failures = run(Options(name="a"), subjects=[FLOAT32])
    assert not rows
    assert [failure.kind for failure in failures] == ["garbage"]


def test_wrong_outputs_are_flagged_or_refused() -> None:
    expected = reference.compute(FLOAT32.path, 0)
    BEHAVIOUR["exact"] = lambda job: well(job, max_output_error=expected.tolerance)
    BEHAVIOUR["off"] = lambda job: well(job, max_output_error=1.01 * expected.tolerance)
    BEHAVIOUR["wrong"] = lambda job: well(job, max_output_error=expected.gross)
    BEHAVIOUR["nan"] = lambda job: well(job, max_output_error=float("inf"))
    rows, failures = run(*(Options(name=name) for name in BEHAVIOUR), subjects=[FLOAT32])
    assert {row["device"]: row["output_flagged"] for row in rows} == {"exact": False, "off": True}
    assert [(failure.device, failure.kind) for failure in failures] == [("wrong", "wrong_output"), ("nan", "wrong_output")]


def test_a_file_that_is_no_model_is_reported_and_the_others_measured(tmp_path: Path) -> None:
    path = tmp_path / "text.tflite"
    path.write_text("hello hello")
    rows, failures = run(Options(name="a"), subjects=[Subject("0" * 64, path, "float32", "text"), INT8])
    assert [row["artifact"] for row in rows] == [INT8.artifact]
    assert [failure.kind for failure in failures] == ["bad_file"]
    assert "is not a TFLite model" in failures[0].message


def test_only_what_is_wanted_is_measured() -> None:
    rows, _ = run(Options(name="a"), wanted=lambda _, facts, subject: facts.runtime == "toy 1" and subject == INT8)
    assert [row["artifact"] for row in rows] == [INT8.artifact]


def test_an_error_of_the_caller_is_not_taken_for_a_device() -> None:
    def stop(*_: object) -> None:
        raise UserError("another controller has taken over")

    with pytest.raises(UserError, match="taken over"):
        list(measure(Pool((Options(name="a"),)), NETS, FAST, observer=Observer(on_progress=stop)))


@pytest.mark.parametrize(("cooldown_s", "pause_s"), [(0.0, 10.0), (12.0, 12.0)])
def test_sleeps_between_processes(monkeypatch: pytest.MonkeyPatch, cooldown_s: float, pause_s: float) -> None:
    slept: list[float] = []
    monkeypatch.setattr(measuring.time, "sleep", slept.append)
    rows, _ = run(Options(name="a", cooldown_s=cooldown_s), protocol=preset("seed"))
    assert slept == [pause_s] * 5  # 2 networks, 3 rounds
    assert {(row["latency_ms"], row["statistic"]) for row in rows} == {(2.0, "mean")}


def test_two_benches_do_not_measure_at_once() -> None:
    waiting, rows = threading.Event(), []
    notes: list[str] = []
    observer = Observer(on_note=lambda text: (notes.append(text), waiting.set()))  # type: ignore[func-returns-value]

    def bench() -> None:
        rows.extend(measure(Pool((Options(name="a"),)), [FLOAT32], FAST, observer=observer))

    with locked(cache_folder() / "locks" / "scripted", lambda who, _: notes.append(who)):
        other = threading.Thread(target=bench)
        other.start()
        assert waiting.wait(30)
        assert not JOBS
    other.join(30)
    assert len(rows) == 1
    assert notes == [f"a: waiting for process {os.getpid()}, which measures on it"]


def test_a_long_wait_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WAIT_TOLD_EVERY_S", 0.3)
    told: list[float] = []
    file, waited = cache_folder() / "locks" / "any", threading.Event()

    def wait() -> None:
        with locked(file, lambda _, seconds: (told.append(seconds), waited.set() if len(told) > 2 else None)):  # type: ignore[func-returns-value]
            pass

    with locked(file, lambda *_: pytest.fail("nobody holds it")):
        other = threading.Thread(target=wait)
        other.start()
        assert waited.wait(30)
    other.join(30)
    assert told[0] < 0.3 <= told[1] < 0.6 <= told[2]


def counts(device: str, *answers: Any) -> tuple[dict[str, Any], list[str]]:
    """Measure one file on a device that answers the jobs that count like this; return the row and the notes."""
    left = iter(answers)
    COUNTS[device] = lambda _: next(left)
    notes: list[str] = []
    (row,) = measure(Pool((Options(name=device),)), [FLOAT32], FAST, observer=Observer(on_note=notes.append))
    return row, notes


def test_instructions_are_those_of_an_inference_without_the_counting() -> None:
    first = {"instructions": [12_345, 10_010, 10_020], "overhead": [10, 10, 900]}
    row, notes = counts("a", first, {"instructions": [10_012], "overhead": [10]})
    assert (row["instructions"], row["instructions_counted"], notes) == (10_006, [10_010, 10_002], [])


def test_processes_that_count_unlike_are_noted() -> None:
    row, notes = counts("a", {"instructions": [1010], "overhead": [10]}, {"instructions": [1020], "overhead": [10]})
    assert row["instructions"] == 1005
    assert notes == ["a (float32.tflite): two processes counted unlike instructions: [1000, 1010]"]


def test_a_counter_that_fails_leaves_the_latency() -> None:
    row, notes = counts("a", {"instructions": [1010], "overhead": [10]}, {"instructions": "many"})
    assert (row["instructions"], row["instructions_counted"], row["latency_ms"]) == (None, [], 2.0)
    assert notes[0].startswith("a (float32.tflite): instructions were not counted: garbage: ")


def test_a_device_that_does_not_count_says_nothing() -> None:
    row = next(measure(local_pool(), [FLOAT32], FAST, observer=Observer(on_note=pytest.fail)))
    assert (row["instructions"], row["instructions_counted"]) == (None, [])
