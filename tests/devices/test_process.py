"""The ends that a process can come to are told apart."""

import os
import sys
import time

import pytest

from flaxcomp.devices.process import run_agent
from flaxcomp.devices.transports import DeviceError


def run(program: str, timeout_s: float = 30, threads: int = 0) -> dict[str, object]:
    return run_agent([sys.executable, "-c", program], {"task": "x"}, timeout_s, environment=dict(os.environ), threads=threads)


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "died", "killed by SIGKILL"),
        ("import sys; print('cannot go on', file=sys.stderr); sys.exit(3)", "died", "(exit status 3): cannot go on"),
        ("pass", "died", "exit status 0"),
        ("print('hello')", "garbage", "'hello\\n'"),
        ("print('[1, 2]')", "garbage", "[1, 2]"),
        ("print('{\"samples_ms\": [1.0')", "garbage", "samples_ms"),
        ("import sys; sys.stdout.buffer.write(bytes(range(128, 256)))", "garbage", "not an answer"),
        ('print(\'{"error": {"kind": "bad_model", "message": "no such operator"}}\')', "bad_model", "no such operator"),
    ],
)
def test_tells_ends_apart(program: str, kind: str, words: str) -> None:
    with pytest.raises(DeviceError) as caught:
        run(program)
    assert caught.value.kind == kind
    assert words in str(caught.value)


def test_a_timeout_ends_the_process_and_its_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"no answer within 0\.5 s") as caught:
        run(program, timeout_s=0.5)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - start < 10  # the child kept the pipes open: had it lived, this would have taken a minute


def test_a_missing_program_is_a_missing_device() -> None:
    with pytest.raises(DeviceError) as caught:
        run_agent(["/no/such/program"], {}, 1, environment={})
    assert caught.value.kind == "unreachable"


def test_jobs_arrive_as_they_are() -> None:
    program = "import json, sys; print(json.dumps({'got': json.load(sys.stdin)}))"
    job = {"model": "; rm -rf $HOME `x` \"' \n ü"}
    assert run_agent([sys.executable, "-c", program], job, 30, environment=dict(os.environ)) == {"got": job}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no processes to processors")
def test_binds_the_process_and_not_this_one() -> None:
    before = os.sched_getaffinity(0)
    program = "import json, os; print(json.dumps({'cpus': sorted(os.sched_getaffinity(0))}))"
    assert run(program, threads=1) == {"cpus": sorted(before)[-1:]}
    assert run(program, threads=len(before) + 1) == {"cpus": sorted(before)}
    assert os.sched_getaffinity(0) == before
