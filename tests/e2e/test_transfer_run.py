"""Transfer learning as a user runs it: weights of a teacher, of a file and of another run, two phases, killed and resumed."""

import contextlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from flaxcomp.errors import UserError
from flaxcomp.store.frame import RunFrame
from runs import assert_same_networks, flaxcomp, frame, kill_group, parameters, start

SWEEP = """\
version: 1
name: transfer
base:
  dataset: {name: mnist_sample, train_limit: 1000}
  model: {name: simplenet_v5}
  train:
    batch_size: 50
    optimizer: {name: rmsprop, learning_rate: 0.005}
    schedule: {name: exponential, factor: 0.94, every_epochs: 2}
    phases:
      - {train: last, steps: 27}
      - {steps: 30, optimizer: {learning_rate: 0.001}}
parameters:
  train.init_from:
    values:
      - {trial: first}
      - {file: given.npz, names: names.yaml}
      - {checkpoint: other}
      - null
teachers:
  first: {model: {name: simplenet_v5}, train: {epochs: 2}}
"""
SEVEN = {"c.0.kernel": (5, 5, 1, 2), "c.0.bias": (2,), "halvings.0.kernel": (2, 2, 2, 2), "halvings.0.bias": (2,),
         "logits.kernel": (392, 7), "logits.bias": (7,)}  # fmt: skip

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    other = "version: 1\nname: o\nbase: {dataset: {name: mnist_sample, train_limit: 500}, model: {name: simplenet_v5}}\n"
    (folder / "other.yaml").write_text(other)
    flaxcomp("run", "other.yaml", "--executor", "inline", "--train-only", "--out", "o", cwd=folder)
    (model,) = (folder / "o" / "trials").glob("*/model")
    shutil.copytree(model, folder / "sweeps" / "other")  # beside the sweep, not in the working directory
    np.savez(folder / "sweeps" / "given.npz", **{name: np.full(shape, 0.01, np.float32) for name, shape in SEVEN.items()})  # type: ignore[arg-type]
    (folder / "sweeps" / "names.yaml").write_text("convolutions: c\n")
    (folder / "sweeps" / "transfer.yaml").write_text(SWEEP)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    flaxcomp("run", "sweeps/transfer.yaml", "--executor", "inline", "--train-only", "--out", "out", cwd=folder)
    return folder / "out"


def trials(read: RunFrame) -> dict[str, str]:
    """Trial ids by what they start from."""
    starts = ("train.init_from.trial", "train.init_from.file", "train.init_from.checkpoint")
    return {next((start for start in starts if row.get(start)), row["role"]): row["trial"] for row in read.trials}


def test_those_who_need_no_teacher_train_in_one_pack_at_once(folder: Path, run: Path) -> None:
    read = frame(run)
    assert {row["status"] for row in read.trials} == {"finished"}
    ids = trials(read)
    assert len(ids) == 5
    assert {row["pack_trials"] for row in read.trials if row["role"] == "trial"} == {3, 1}
    plan = json.loads(flaxcomp("plan", "sweeps/transfer.yaml", "--cost", "--json", cwd=folder).stdout)
    assert (plan["trials"], plan["dependencies"], len(plan["signatures"])) == (4, 1, 2)
    assert plan["cost"]["seconds"] > 0
    rows = [row for row in read.epochs if row["trial"] == ids["trial"]]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4], "57 steps of 18"
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.005, 0.001, 0.001, 0.001])
    assert "5 of 5 trials finished" in flaxcomp("status", run).stdout


def test_a_kill_in_either_phase_changes_no_bit(folder: Path, run: Path) -> None:
    arguments = ("run", folder / "sweeps" / "transfer.yaml", "--executor", "inline", "--train-only", "--out", folder / "killed")
    process = start(*arguments, log=folder / "log")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(UserError):  # no records yet
            if frame(folder / "killed").epochs:
                break
        time.sleep(0.05)
    kill_group(process)
    flaxcomp(*arguments, cwd=folder)
    assert_same_networks(run, folder / "killed")


def test_a_run_needs_its_sources_no_more_once_it_has_begun(folder: Path, run: Path, tmp_path: Path) -> None:
    """They are in the run folder, by their content: two of weights and a map of names."""
    assert len(list((run / "weights").iterdir())) == 3
    here, elsewhere = (json.loads(flaxcomp("plan", run, "--json", cwd=cwd).stdout) for cwd in (folder, tmp_path))
    assert elsewhere == here
    ids = trials(frame(run))
    assert any("params/logits" in name for name in parameters(run, ids["train.init_from.file"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("file: given.npz", "file: gone.npz"), "gone.npz: initial weights must be there"),
        (("file: given.npz", "file: names.yaml"), "names.yaml: a .safetensors or .npz file must be given"),
        (("names: names.yaml", "names: other.yaml"), "other.yaml: the name map cannot be read: No such file"),
        (("checkpoint: other", "checkpoint: ."), "a model folder must be given"),
    ],
)
def test_faulty_sources_are_refused_by_plan_with_file_and_line(folder: Path, change: tuple[str, str], words: str) -> None:
    file = folder / "sweeps" / "faulty.yaml"
    file.write_text(SWEEP.replace(*change))
    line = 1 + SWEEP[: SWEEP.index(change[0])].count("\n")
    done = flaxcomp("plan", file, cwd=folder / "sweeps", check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert f"faulty.yaml:{line}: " in done.stderr


def test_weights_that_do_not_fit_fail_their_trial_with_the_layer(folder: Path) -> None:
    bad = {**{name: np.zeros(shape, np.float32) for name, shape in SEVEN.items()}, "halvings.0.kernel": np.zeros((3, 3, 2, 2))}
    np.savez(folder / "bad.npz", **bad)  # type: ignore[arg-type]
    (folder / "bad.yaml").write_text("""\
version: 1
name: bad
base:
  dataset: {name: mnist_sample, train_limit: 500}
  model: {name: simplenet_v5}
  train: {init_from: {file: bad.npz, names: {convolutions: c}}}
""")
    done = flaxcomp("run", "bad.yaml", "--executor", "inline", "--train-only", cwd=folder, check=False)
    assert done.returncode == 1
    told = flaxcomp("status", "runs/bad", cwd=folder).stdout
    assert "layer halvings.0: its kernel must have the shape [2, 2, 2, 2], but has [3, 3, 2, 2]" in told
