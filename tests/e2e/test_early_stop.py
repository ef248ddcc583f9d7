"""Early stopping and search as a user runs them: what was decided before a SIGKILL is what a run without one decides."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from parts import require
from runs import figures, flaxcomp, frame, kill_group, parameters, start

EARLY = """\
version: 1
name: early
base:
  dataset: {name: mnist_sample, train_limit: 600}
  model: {name: simplenet_v5}
  train: {epochs: 5, batch_size: 64}
parameters:
  train.optimizer.learning_rate: {values: [1e-4, 1e-3, 1e-2]}
  seed: {range: [0, 2]}
early_stop: {name: asha, factor: 2}
resources: {pack: 4}
"""
SEARCH = """\
version: 1
name: search
method: optuna
trials: 10
sampler: {name: NAME, batch: 4}
base:
  dataset: {name: mnist_sample, train_limit: 600}
  model: {name: simplenet_v5}
  train: {epochs: 2, batch_size: 64}
parameters:
  model.name: {values: [simplenet_v2, simplenet_v5]}
  train.optimizer.learning_rate: {min: 1e-4, max: 1e-1, distribution: log_uniform}
MORE"""


def records(run: Path) -> tuple[dict[tuple[str, int], Any], list[Any]]:
    """Verdicts by trial and epoch; what a search has asked for."""
    with Store.open(RunPaths.at(run)) as store:
        verdicts = {(row["trial_id"], row["epoch"]): row["goes_on"] for row in store.rungs()}
        return verdicts, [(row["point"], row["trial_id"]) for row in store.suggestions()]


def assert_same(run: Path, other: Path) -> None:
    assert records(run) == records(other)
    assert figures(run) == figures(other)
    finished = [row["trial"] for row in frame(run).trials if row["status"] == "finished"]
    assert finished
    for trial in finished:
        expected = parameters(other, trial)
        for name, array in parameters(run, trial).items():
            np.testing.assert_array_equal(array, expected[name])


def kill_when(ready: Any, run: Path, *arguments: Any, log: Path) -> None:
    """Begin a run and kill it, with all it started, once its records are so far."""
    process = start("run", *arguments, "--out", run, "--executor", "inline", "--train-only", log=log)
    deadline = time.monotonic() + 400
    while True:
        time.sleep(0.05)
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        try:
            if ready(run):
                break
        except UserError:
            continue  # it is being created
    kill_group(process)


@pytest.mark.e2e
def test_killed_between_rungs_the_same_trials_go_on(tmp_path: Path) -> None:
    sweep = tmp_path / "early.yaml"
    sweep.write_text(EARLY)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = flaxcomp("run", sweep, "--out", whole, "--executor", "inline", "--train-only")
    assert [line for line in done.stderr.splitlines() if "early stopping" in line] == [
        "early stopping after epoch 1: 3 of 6 trials go on",
        "early stopping after epoch 2: 2 of 3 trials go on",
        "early stopping after epoch 4: 1 of 2 trials go on",
    ]
    kill_when(lambda run: records(run)[0], killed, sweep, log=tmp_path / "log")  # a pack waits for the other
    first = records(killed)[0]
    flaxcomp("run", sweep, "--out", killed, "--executor", "inline", "--train-only")
    assert len(first) < len(records(whole)[0])
    assert_same(killed, whole)
    assert not list((killed / "packs").glob("*")), "checkpoints that nobody goes on from"
    status = flaxcomp("status", whole).stdout
    assert "1 of 6 trials finished, 5 stopped" in status
    results = flaxcomp(
        "results", whole, "--status", "stopped", "--format", "csv", "--columns", "trial,status,epochs_done"
    ).stdout
    assert sorted(line.split(",")[1:] for line in results.splitlines()[1:]) == [["stopped", e] for e in "11124"]
    front = flaxcomp("front", whole).stdout
    assert "stopped" not in front


@pytest.mark.e2e
@pytest.mark.slow
def test_workers_under_ray_decide_as_one_process_does(tmp_path: Path) -> None:
    sweep = tmp_path / "early.yaml"
    sweep.write_text(EARLY)
    flaxcomp("run", sweep, "--out", tmp_path / "ray", "--train-only", "--set", "resources.pack=2")
    flaxcomp("run", sweep, "--out", tmp_path / "inline", "--executor", "inline", "--train-only")
    assert records(tmp_path / "ray") == records(tmp_path / "inline")


@pytest.mark.e2e
@pytest.mark.parametrize(("sampler", "more"), [("tpe", ""), ("nsga2", "early_stop: {name: asha, factor: 2, compare: sweep}\n")])
def test_a_killed_search_goes_on_with_the_same_suggestions(tmp_path: Path, sampler: str, more: str) -> None:
    require(importlib.util.find_spec("optuna"), "optuna: pip install 'flaxcomp[full]'")
    sweep = tmp_path / "search.yaml"
    sweep.write_text(SEARCH.replace("NAME", sampler).replace("MORE", more))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flaxcomp("run", sweep, "--out", whole, "--executor", "inline", "--train-only")
    suggestions = records(whole)[1]
    assert len(suggestions) == 10
    kill_when(lambda run: len(records(run)[1]) > 4, killed, sweep, log=tmp_path / "log")
    asked = records(killed)[1]  # two batches, or all three where the second asks for nothing new
    assert len(asked) in (8, 10)
    assert asked == suggestions[: len(asked)]
    flaxcomp("run", sweep, "--out", killed, "--executor", "inline", "--train-only")
    assert_same(killed, whole)
    more_trials = flaxcomp("run", sweep, "--out", killed, "--executor", "inline", "--train-only", "--set", "trials=12")
    assert "12 trials" in more_trials.stderr or "trials; nothing" not in more_trials.stderr
    assert records(killed)[1][:10] == suggestions
