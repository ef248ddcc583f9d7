"""The whole path as the demo goes it, on real images: sweep file to report, on both kinds of device."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS
from parts import require
from runs import flaxcomp

SWEEP = """\
version: 1
name: path
base:
  dataset: {name: mnist_sample, train_limit: 4000}
  model: {name: simplenet_v1}
  train: {epochs: 3, batch_size: 64, optimizer: {learning_rate: 4e-3}}
  distill: {teacher: {model: {name: simplenet_v2}}}
parameters:
  model.name: {values: [simplenet_v1, simplenet_v5]}
metrics:
  - {name: val_accuracy, goal: maximize}
  - {name: latency_ms, goal: minimize}
export: {select: all}
benchmark: {pool: pool.yaml, protocol: quick}
"""
POOL = """\
devices:
  - {name: this-machine, transport: local}
  - {name: board, transport: emulated, cpu: cortex-a53}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(shutil.which("qemu-aarch64-static"), "Debian's qemu-user-static")
    folder = tmp_path_factory.mktemp("whole path")
    (folder / "sweep.yaml").write_text(SWEEP)
    (folder / "pool.yaml").write_text(POOL)
    done = flaxcomp("run", "sweep.yaml", "--out", "out", cwd=folder)
    assert "Report: " in done.stdout
    return folder / "out"


def rows(run: Path, *options: str) -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = json.loads(flaxcomp("results", run, "--format", "json", *options).stdout)
    return loaded


pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.device]


def test_every_trial_has_the_contracts_figures(run: Path) -> None:
    trials = rows(run)
    assert sorted(str(row["model.name"]) for row in trials) == ["simplenet_v1", "simplenet_v2", "simplenet_v5"]
    for row in trials:
        assert set(TRIAL_COLUMNS) <= row.keys()
        assert row["status"] == "finished"
        assert isinstance(row["test_accuracy"], float)
        assert row["test_accuracy"] > 0.6, "these few steps are enough to learn digits"
    sizes = {row["model.name"]: row["trainable_params"] for row in trials}
    assert sizes == {"simplenet_v1": 3484, "simplenet_v2": 5968, "simplenet_v5": 4000}


def test_csv_columns_stand_in_the_order_of_the_contract(run: Path) -> None:
    header = next(csv.reader(io.StringIO(flaxcomp("results", run, "--format", "csv").stdout)))
    first = header.index("status")
    assert tuple(header[first : first + len(TRIAL_COLUMNS)]) == TRIAL_COLUMNS
    assert "model.name" in header[:first]


def test_four_precisions_are_measured_on_both_devices(run: Path) -> None:
    measured = rows(run, "--measurements")
    assert len(measured) == 2 * 4 * 2
    for row in measured:
        assert set(MEASUREMENT_COLUMNS) <= row.keys()
        latency, low, high = (float(str(row[name])) for name in ("latency_ms", "latency_ci_low", "latency_ci_high"))
        assert 0 < low <= latency <= high
        assert abs(float(str(row["accuracy_drop"]))) < 0.01
    emulated = {row["device"]: row["emulated"] for row in measured}
    assert emulated == {"this-machine": False, "board": True}
    assert "qemu" in str(next(row["device_model"] for row in measured if row["device"] == "board"))


def test_int8_files_are_smaller_than_float32(run: Path) -> None:
    sizes = {(row["trial"], row["precision"]): int(str(row["size_bytes"])) for row in rows(run, "--measurements")}
    for trial in {trial for trial, _ in sizes}:
        assert sizes[trial, "int8"] < 0.7 * sizes[trial, "float32"]


def test_report_front_and_status(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    assert "emulated" in page.lower()
    assert (run / "report" / "report.md").exists()
    front = json.loads(flaxcomp("front", run, "--format", "json").stdout)
    assert front
    status = json.loads(flaxcomp("status", run, "--json").stdout)
    assert status["counts"]["finished"] == 3


def test_the_same_command_again_trains_exports_and_measures_nothing(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "artifacts").iterdir()}
    done = flaxcomp("run", "sweep.yaml", "--out", "out", cwd=run.parent)
    assert "0 figures measured" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (run / "artifacts").iterdir()} == before
