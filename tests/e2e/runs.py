"""Running the program as a user does, and reading back what it made."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.trees import flatten
from flaxcomp.store.frame import RunFrame
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

PROGRAM = [sys.executable, "-m", "flaxcomp.cli.main"]


def flaxcomp(
    *arguments: str | Path, cwd: Path | None = None, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `flaxcomp ARGUMENTS` to its end."""
    done = subprocess.run([*PROGRAM, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, **environment}, timeout=900)  # fmt: skip
    assert not check or done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `flaxcomp ARGUMENTS` as the leader of a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=file, stderr=file, start_new_session=True)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a program and all it started that stayed in its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def frame(run: Path) -> RunFrame:
    with Store.open(RunPaths.at(run)) as store:
        return store.frame()


def figures(run: Path) -> dict[str, dict[str, Any]]:
    """What a trial's training decides, by trial; times and the pack it ran in left out."""
    timing = {"train_seconds", "started_at", "finished_at", "attempt", "attempts", "worker", "pack", "pack_trials"}
    return {row["trial"]: {k: v for k, v in row.items() if k not in timing} for row in frame(run).trials}


def parameters(run: Path, trial: str) -> dict[str, np.ndarray[Any, Any]]:
    return flatten(load_model(RunPaths.at(run).model(trial)))


def assert_same_networks(one: Path, other: Path) -> None:
    """All networks of two runs are equal bit for bit."""
    trials = [row["trial"] for row in frame(one).trials]
    assert trials
    for trial in trials:
        a, b = parameters(one, trial), parameters(other, trial)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{trial} {name}")
