"""Ctrl-C once stops after a checkpoint, twice at once; `flaxcomp stop` does the first from elsewhere; nothing is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flaxcomp.errors import UserError
from runs import figures, flaxcomp, frame, kill_group, start

SWEEP = """\
version: 1
name: stopping
base:
  dataset: {name: mnist_sample, train_limit: 6000}
  model: {name: simplenet_v5}
  train: {epochs: 40, batch_size: 32}
parameters:
  seed: {range: [0, 4]}
"""

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


def epochs_recorded(run: Path) -> int:
    try:
        return len(frame(run).epochs)
    except UserError:
        return 0  # the run is being created


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("executor", ["ray", "inline"])
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(sweep: Path, tmp_path: Path, executor: str) -> None:
    command = ("run", sweep, "--out", tmp_path / "run", "--executor", executor, "--train-only")
    process = start(*command, log=tmp_path / "log")
    wait_until(lambda: epochs_recorded(tmp_path / "run") >= 8, process, tmp_path / "log")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends: to the whole group
    assert process.wait(timeout=90) == 130, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "The same command goes on from here" in text
    assert "Traceback" not in text
    stopped_at = epochs_recorded(tmp_path / "run")
    assert 8 <= stopped_at < 160
    assert {row["status"] for row in frame(tmp_path / "run").trials} == {"pending"}
    flaxcomp(*command)
    flaxcomp("run", sweep, "--out", tmp_path / "whole", "--executor", "inline", "--train-only")
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    assert not frame(tmp_path / "run").failures


def test_a_second_ctrl_c_ends_at_once(sweep: Path, tmp_path: Path) -> None:
    process = start("run", sweep, "--out", tmp_path / "run", "--executor", "inline", "--train-only", log=tmp_path / "log")
    wait_until(lambda: epochs_recorded(tmp_path / "run") >= 4, process, tmp_path / "log")
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    assert process.wait(timeout=10) == 130
    assert time.monotonic() - began < 3


def test_stop_from_elsewhere(sweep: Path, tmp_path: Path) -> None:
    process = start("run", sweep, "--out", tmp_path / "run", "--executor", "inline", "--train-only", log=tmp_path / "log")
    try:
        wait_until(lambda: epochs_recorded(tmp_path / "run") >= 4, process, tmp_path / "log")
        flaxcomp("stop", tmp_path / "run", "--wait")
        assert process.wait(timeout=30) == 130
    finally:
        if process.poll() is None:
            kill_group(process)
