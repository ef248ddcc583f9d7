"""`flaxcomp status`, and how quickly a run is read."""

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cli_runs import Done, create, trial
from flaxcomp.cli.commands.status import duration, last_line, read_state
from flaxcomp.cli.commands.status import lines as describe
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack

pytest_plugins = ("calling",)
Program = Callable[..., Done]


def lines_of(said: str) -> list[str]:
    """The lines of `status`, whatever the seconds: a busy machine may take some to make the run."""
    return re.sub(r"worked \d+ s", "worked 0 s", said).splitlines()


def test_a_run_at_rest(flaxcomp: Program, run: Path) -> None:
    assert lines_of(flaxcomp("status", run).out) == [
        "study: 4 of 7 trials finished, 1 pending, 1 failed, 1 blocked",
        "controller: none at work; worked 0 s",
        "best val_accuracy: 0.95 (trial t2)",
        "last failures:",
        "  error: 1 trial (bad): ValueError: it went wrong",
    ]


def test_a_run_at_work(flaxcomp: Program, tmp_path: Path) -> None:
    store = create(tmp_path / "run", [trial("a"), trial("b"), trial("c")])
    lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
    store.form_packs(lease, [Pack("p", ("a", "b"), "same")])
    attempt = store.start_pack(lease, "p", "worker-1")
    store.progress(lease, "p", attempt, [{"trial": t, "epoch": e, "train_loss": 1.0} for t in "ab" for e in (1, 2, 3)])
    lines = lines_of(flaxcomp("status", tmp_path / "run").out)
    assert lines == [
        "study: 0 of 3 trials finished, 1 pending, 2 running",
        f"controller: process {os.getpid()} on {socket.gethostname()}; worked 0 s",
        "running:",
        "  worker-1: epoch 3 of 5, 2 trials, pack p",
    ]
    store.interrupt_pack(lease, "p", attempt)
    store.start_pack(lease, "p", "")
    store.request_stop()
    lines = lines_of(flaxcomp("status", tmp_path / "run").out)
    assert lines[1].endswith(", asked to stop; worked 0 s")
    assert lines[3] == "  epoch 3 of 5, 2 trials, pack p, attempt 2"
    with Store.open(RunPaths.at(tmp_path / "run")) as reader:
        killed = read_state(reader) | {"overrides": [], "controller": None}
    assert describe(killed)[2] == "broken off; the next `flaxcomp run` goes on with them:"
    store.close()


def test_what_set_has_changed(flaxcomp: Program, run: Path) -> None:
    with Store.open(RunPaths.at(run)) as store:
        lease = store.acquire(host="here", pid=1)
        overrides = ["train.epochs=3", "model.name=a, b"]
        store.update_sweep(lease, sweep_text="text", sweep_json=msgspec.json.encode(store.sweep()), overrides=overrides)
        store.release(lease)
    assert flaxcomp("status", run).out.splitlines()[1] == "changed by --set train.epochs=3 --set 'model.name=a, b'"
    assert json.loads(flaxcomp("status", run, "--json").out)["overrides"] == overrides
    RunPaths.at(run).overrides_file.write_text("{")
    assert "overrides.json is damaged" in flaxcomp("status", run).err


def test_json(flaxcomp: Program, run: Path) -> None:
    state = json.loads(flaxcomp("status", run, "--json").out)
    assert state["counts"] == {"pending": 1, "running": 0, "finished": 4, "stopped": 0, "failed": 1, "blocked": 1}
    assert state["best"] == {"metric": "val_accuracy", "goal": "maximize", "trial": "t2", "value": 0.95}
    assert (state["controller"], state["running"], state["stop_requested"]) == (None, [], False)
    assert state["failures"][0] | {"at": 0} == {
        "trial": "bad", "trials": 1, "kind": "error", "error": "Traceback:\n  somewhere\nValueError: it went wrong\n", "at": 0,
    }  # fmt: skip


def test_a_damaged_store_ends_with_2(flaxcomp: Program, run: Path) -> None:
    RunPaths.at(run).sqlite_file.write_bytes(b"x" * 5000)
    done = flaxcomp("status", run)
    assert done.code == 2
    assert "store.sqlite is damaged" in done.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3725, "1 h 02 min"), (9e4, "25 h 00 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("error", "text"), [(None, "no message"), ("\n \n", "no message"), ("a\nb \n\n", "b"), ("x" * 200, "x" * 159 + "…")]
)
def test_the_last_line_of_a_traceback(error: str | None, text: str) -> None:
    assert last_line(error) == text
