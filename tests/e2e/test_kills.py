"""SIGKILL at any moment: the same command goes on, and everything comes out as if nothing had happened."""

import os
import random
import time
from pathlib import Path

import psutil
import pytest

from flaxcomp.errors import UserError
from runs import assert_same_networks, figures, flaxcomp, frame, kill_group, start

KILLS = int(os.environ.get("FLAXCOMP_KILLS", "6"))  # `make kills`: 20
SWEEP = """\
version: 1
name: kills
base:
  dataset: {{name: mnist_sample, train_limit: {images}}}
  model: {{name: simplenet_v5}}
  train: {{epochs: {epochs}, batch_size: 64}}
  distill: {{teacher: {{model: {{name: simplenet_v2}}, train: {{epochs: 2}}}}}}
parameters:
  distill.temperature: {{values: [1, 3]}}
  seed: {{range: [0, {seeds}]}}
resources: {{pack: {pack}}}
retry: {{lost: 40}}
"""


def write_sweep(folder: Path, *, images: int, epochs: int, seeds: int, pack: int) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.format(images=images, epochs=epochs, seeds=seeds, pack=pack))
    return file


def finished(run: Path) -> int:
    return sum(row["status"] == "finished" for row in frame(run).trials)


def second_epochs(run: Path) -> int:
    """How many trials have ended their second epoch; none while the run is being created."""
    try:
        return sum(row["epoch"] == 2 for row in frame(run).epochs)
    except UserError:
        return 0


@pytest.mark.e2e
def test_killed_in_the_middle_of_an_epoch_ends_bit_for_bit_as_if_uninterrupted(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, images=6000, epochs=6, seeds=2, pack=4)
    flaxcomp("run", sweep, "--out", tmp_path / "whole", "--executor", "inline", "--train-only")
    process = start("run", sweep, "--out", tmp_path / "killed", "--executor", "inline", "--train-only", log=tmp_path / "log")
    deadline = time.monotonic() + 120
    while True:  # let the students' pack write two checkpoints and begin another epoch
        time.sleep(0.05)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        if second_epochs(tmp_path / "killed") >= 5:
            break
    time.sleep(0.1)
    kill_group(process)
    before = finished(tmp_path / "killed")
    assert before == 1, "the teacher alone is finished"
    flaxcomp("run", sweep, "--out", tmp_path / "killed", "--executor", "inline", "--train-only")
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert_same_networks(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed" / "packs").glob("*")), "checkpoints of finished packs are removed"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_of_controller_and_workers(tmp_path: Path) -> None:
    """40 students of one teacher on a real Ray cluster; every kill strikes the whole group or one worker."""
    sweep = write_sweep(tmp_path, images=3000, epochs=5 * KILLS, seeds=20, pack=5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flaxcomp("run", sweep, "--out", whole, "--train-only")
    rng = random.Random(0)
    kills = {"controller": 0, "worker": 0}
    process = start("run", sweep, "--out", killed, "--train-only", log=tmp_path / "log")
    while sum(kills.values()) < KILLS and process.poll() is None:
        time.sleep(rng.uniform(0.5, 14))
        if kills["controller"] < KILLS // 2 and rng.random() < 0.4:
            if process.poll() is None:
                kill_group(process)
                kills["controller"] += 1
                process = start("run", sweep, "--out", killed, "--train-only", log=tmp_path / "log")
        else:
            workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "_RayWorker" in " ".join(_command(p))]
            if workers and process.poll() is None:
                rng.choice(workers).kill()
                kills["worker"] += 1
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()[-3000:]
    assert sum(kills.values()) == KILLS, f"the sweep was over after {kills}"
    assert min(kills.values()) >= KILLS // 4
    assert figures(killed) == figures(whole)
    assert len(figures(killed)) == 41
    assert_same_networks(whole, killed)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
