"""Real Ray: a two-node cluster with a sweep submitted through its Jobs API, and workers that die."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flaxcomp.schedule.submit import RayTarget, submit
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

SWEEP = """\
version: 1
name: submitted
base:
  dataset: {name: mnist_sample, train_limit: 2000}
  model: {name: simplenet_v5}
  train: {epochs: 2, batch_size: 64}
  distill: {teacher: {model: {name: simplenet_v2}, train: {epochs: 1}}}
parameters:
  distill.temperature: {values: [1, 3]}
  seed: {range: [0, 2]}
"""
PROGRAM = [sys.executable, "-m", "flaxcomp.cli.main"]


@pytest.mark.integration
@pytest.mark.slow
def test_a_submitted_sweep_runs_on_both_nodes_and_status_follows_it(ray_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "target.yaml").write_text(f"jobs: {ray_cluster.jobs}\nruns: {tmp_path / 'runs'}\n")
    environment = {**os.environ, **ray_cluster.environment}
    began = time.monotonic()
    done = subprocess.run([*PROGRAM, "submit", "sweep.yaml", "--to", "target.yaml", "--set", "train.epochs=3"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60, "submit waits for the run"
    run = tmp_path / "runs" / "submitted"
    status = subprocess.run([*PROGRAM, "status", str(run), "--json"], capture_output=True, text=True, check=True)
    assert sum(json.loads(status.stdout)["counts"].values()) == 5
    deadline = time.monotonic() + 240
    with Store.open(RunPaths.at(run)) as store:
        while store.counts().get("finished", 0) < 5:
            assert time.monotonic() < deadline, store.counts()
            assert not store.counts().get("failed"), store.failures()
            time.sleep(0.5)
        frame = store.frame()
    assert {row["train.epochs"] for row in frame.trials if row["role"] == "trial"} == {3}
    assert len(frame.epochs) == 4 * 3 + 1


@pytest.mark.integration
def test_a_cluster_that_does_not_answer_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "target.yaml").write_text(f"jobs: http://127.0.0.1:9\nruns: {tmp_path / 'runs'}\n")
    done = subprocess.run(
        [*PROGRAM, "submit", "sweep.yaml", "--to", "target.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did not take the job" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "a run that nobody will run"


class Client:
    """A Jobs API that takes note of what it is given."""

    def submit_job(self, **job: Any) -> str:
        self.job = job
        self.sweep = (Path(job["runtime_env"]["working_dir"]) / "sweep.yaml").read_text()
        return "job-1"


@pytest.mark.parametrize("store", ["postgresql://me:se%40cret@db/runs", "postgresql://me@db/runs?password=se%40cret"])
def test_a_password_travels_in_the_environment_only(store: str) -> None:
    client = Client()
    target = RayTarget(jobs="http://x", store=store, runtime_env={"pip": ["a"], "env_vars": {"A": "1"}})
    assert submit(client, target, SWEEP, Path("/runs/submitted"), ("train.epochs=3",), yes=True) == "job-1"  # type: ignore[arg-type]
    assert client.sweep == SWEEP
    assert shlex.split(client.job["entrypoint"]) == [
        *("python", "-m", "flaxcomp.cli.main", "run", "sweep.yaml", "--out", "/runs/submitted", "--address", "auto"),
        *("--set", "train.epochs=3", "--yes", "--store", "postgresql+psycopg://me@db/runs"),
    ]
    environment = client.job["runtime_env"]
    assert (environment["env_vars"], environment["pip"]) == ({"A": "1", "PGPASSWORD": "se@cret"}, ["a"])


def test_what_is_not_asked_for_is_not_passed_on() -> None:
    client = Client()
    submit(client, RayTarget(jobs="http://x", store="postgresql://me@db/runs"), SWEEP, Path("/r"), ())  # type: ignore[arg-type]
    assert client.job["entrypoint"].endswith("--address auto --store postgresql+psycopg://me@db/runs")
    assert client.job["runtime_env"].keys() == {"working_dir"}


@pytest.mark.parametrize(("text", "message"), [
    ("jobs: 3", "Expected `str`"), ("- a", "Expected `object`"), ("jobs: http://x\nrun: y", "unknown field `run`"),
    ("jobs: [", "must be a mapping"),
])  # fmt: skip
def test_bad_launch_files(tmp_path: Path, text: str, message: str) -> None:
    from flaxcomp.errors import UserError
    from flaxcomp.schedule.submit import read_target

    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_target(tmp_path / "t.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_target(tmp_path / "none.yaml")
