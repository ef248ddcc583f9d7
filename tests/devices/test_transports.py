"""The contract of a transport, tried on every file of transports/. A new one needs an entry in SETTINGS and nothing else."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from boards import FLOAT32, INT8, emulated_cache
from flaxcomp.devices import reference, transports
from flaxcomp.devices.measure import Subject
from flaxcomp.devices.process import agent_name
from flaxcomp.devices.transports import DeviceError, DeviceOptions, Transport

# What the pool file of the tests says about a device of each transport.
SETTINGS: dict[str, Callable[[pytest.TempPathFactory], dict[str, Any]]] = {
    "local": lambda _: {},
    "emulated": lambda factory: {"cache": str(emulated_cache(factory))},
}
ON_DEVICES = [pytest.param(name, marks=() if name == "local" else pytest.mark.device) for name in transports.names()]


@pytest.fixture(scope="module", params=ON_DEVICES)
def options(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DeviceOptions:
    made = transports.load(request.param).Options(name="board", **SETTINGS[request.param](tmp_path_factory))
    assert isinstance(made, DeviceOptions)
    return made


@pytest.fixture
def transport(options: DeviceOptions) -> Iterator[Transport]:
    opened = transports.connect(options, print)
    yield opened
    opened.close()
    opened.close()


def job(subject: Subject, **changes: Any) -> dict[str, Any]:
    cases = reference.compute(subject.path, 0).cases
    usual = {
        "task": "measure",
        "model": f"{subject.artifact}.tflite",
        "sha256": subject.artifact,
        "threads": 1,
        "warmup_s": 0.0,
    }
    return usual | {"runs": 6, "limit_s": None, "cases": cases} | changes


def test_says_who_it_is(transport: Transport, options: DeviceOptions) -> None:
    facts = transport.facts()
    emulated = type(options).__module__.endswith(".emulated")
    assert facts.emulated == emulated
    assert ("(qemu)" in facts.device_model) == ("qemu" in facts.runtime) == emulated
    assert facts.memory_of == ("emulator" if emulated else "process")
    assert facts.runtime.split()[0] in ("ai_edge_litert", "tflite_runtime", "tensorflow")
    assert facts.machine


@pytest.mark.parametrize("subject", [FLOAT32, INT8], ids=["float32", "int8"])
def test_measures_and_computes_what_this_machine_does(transport: Transport, subject: Subject) -> None:
    transport.put(subject.path, f"{subject.artifact}.tflite")
    answer = transport.run(job(subject), 120)
    assert len(answer["samples_ms"]) == 6
    assert min(answer["samples_ms"]) > 0
    assert answer["max_output_error"] <= reference.compute(subject.path, 0).tolerance
    assert answer["peak_memory_bytes"] >= answer["baseline_memory_bytes"] > 0


def test_a_file_that_is_there_is_not_sent_again(transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    shutil.copy(FLOAT32.path, path)
    transport.put(path, f"{FLOAT32.artifact}.tflite")
    path.write_bytes(b"changed")
    transport.put(path, f"{FLOAT32.artifact}.tflite")
    assert transport.run(job(FLOAT32), 120)["samples_ms"]


def test_a_wrong_file_is_refused(transport: Transport) -> None:
    transport.put(INT8.path, f"{FLOAT32.artifact}.tflite")
    assert fault(transport, job(FLOAT32)).kind == "wrong_file"


def test_a_missing_file_is_refused(transport: Transport) -> None:
    assert fault(transport, job(FLOAT32)).kind == "wrong_file"


def test_a_bad_model_does_not_blame_the_device(transport: Transport, tmp_path: Path) -> None:
    transport.put(FLOAT32.path, f"{FLOAT32.artifact}.tflite")
    error = fault(transport, job(FLOAT32, cases=reference.compute(INT8.path, 0).cases))
    assert error.kind == "bad_model"
    assert not error.blames_device


def test_a_timeout(transport: Transport) -> None:
    transport.put(FLOAT32.path, f"{FLOAT32.artifact}.tflite")
    start = time.monotonic()
    error = fault(transport, job(FLOAT32, warmup_s=60.0), timeout_s=2.0)
    assert error.kind == "timeout"
    assert error.blames_device
    assert time.monotonic() - start < 20
    assert not agents()


def test_a_killed_agent(transport: Transport) -> None:
    transport.put(FLOAT32.path, f"{FLOAT32.artifact}.tflite")
    killer = threading.Thread(target=kill_agent)
    killer.start()
    error = fault(transport, job(FLOAT32, warmup_s=60.0))
    killer.join()
    assert error.kind == "died"
    assert error.blames_device
    assert "SIGKILL" in str(error)


def test_the_next_job_works_after_a_fault(transport: Transport) -> None:
    assert fault(transport, {"task": "nothing"}).kind == "bad_job"
    assert transport.facts().runtime


def fault(transport: Transport, job: dict[str, Any], timeout_s: float = 120.0) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        transport.run(job, timeout_s)
    return caught.value


def agents() -> list[psutil.Process]:
    """The agents that this process has started and that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(agent_name() in word for word in child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def kill_agent() -> None:
    while not (running := agents()):
        time.sleep(0.05)
    running[0].kill()
