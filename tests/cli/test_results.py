"""`flaxcomp results`."""

import csv
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_runs import Done, create, trial
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS
from flaxcomp.sweep.spec import Dataset, Phase, Schedule, Train, TrialConfig
from flaxcomp.sweep.trial import Trial
from parts import require

pytest_plugins = ("calling",)
Program = Callable[..., Done]


def test_csv_has_a_row_per_trial_and_the_columns_of_the_contract(flaxcomp: Program, run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(flaxcomp("results", run, "--format", "csv").out)))
    assert [row["trial"] for row in rows] == ["t0", "t1", "t2", "t3", "bad", "student", "later"]
    names = list(rows[0])
    first = names.index("status")
    assert tuple(names[first : first + len(TRIAL_COLUMNS)]) == TRIAL_COLUMNS
    assert {"dataset.name", "model.name", "model.width", "train.epochs", "distill.temperature", "seed"} < set(names[2:first])
    assert names[first + len(TRIAL_COLUMNS) :] == ["confusion_matrix"]
    assert (rows[0]["seed"], rows[2]["seed"], rows[0]["val_accuracy"], rows[0]["params"]) == ("1", "0", "0.9", "100")
    assert (rows[0]["confusion_matrix"], rows[0]["train.optimizer.nesterov"]) == ("[[1,0],[0,1]]", "false")
    assert (rows[5]["distill.teacher"], rows[5]["val_accuracy"], rows[0]["distill.teacher"]) == ("bad", "", "")


def test_json_has_nulls_and_lists(flaxcomp: Program, run: Path) -> None:
    rows = json.loads(flaxcomp("results", run, "--format", "json").out)
    assert rows[0]["confusion_matrix"] == [[1, 0], [0, 1]]
    assert rows[0]["test_accuracy"] is None
    assert len({tuple(row) for row in rows}) == 1  # the same columns in the same order


@pytest.mark.parametrize(
    ("arguments", "trials"), [(["failed"], ["bad"]), (["blocked", "pending"], ["student", "later"]), (["running"], [])]
)
def test_only_some_states(flaxcomp: Program, run: Path, arguments: list[str], trials: list[str]) -> None:
    wanted = [part for status in arguments for part in ("--status", status)]
    rows = json.loads(flaxcomp("results", run, "--format", "json", *wanted).out)
    assert [row["trial"] for row in rows] == trials


def test_a_table_is_short(flaxcomp: Program, run: Path) -> None:
    table = flaxcomp("results", run).out.splitlines()
    names = "trial model.width distill.teacher seed status params val_accuracy"
    assert table[0].split() == names.split()
    assert table[2].split() == ["t0", "2", "1", "finished", "100", "0.9"]
    assert len(table) == 2 + 7


def test_chosen_columns(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("results", run, "--columns", "seed, trial", "--format", "csv", "--status", "finished")
    assert done.out == "seed,trial\n1,t0\n2,t1\n0,t2\n0,t3\n"
    done = flaxcomp("results", run, "--columns", "trial,val_acuracy")
    assert (done.code, done.err) == (2, "error: No column 'val_acuracy' in this run. Did you mean 'val_accuracy'?\n")


def test_measurements_are_rows_of_their_own(flaxcomp: Program, run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(flaxcomp("results", run, "--measurements", "--format", "csv").out)))
    names = list(rows[0])
    first = names.index("artifact")
    assert tuple(names[first : first + len(MEASUREMENT_COLUMNS)]) == MEASUREMENT_COLUMNS
    assert "model.width" in names[:first]
    assert [
        (row["trial"], row["device"], row["emulated"], row["latency_ms"], row["size_bytes"], row["accuracy"]) for row in rows
    ] == [
        ("t1", "board", "false", "3.0", "1000", "0.91"),
        ("t1", "emulated", "true", "3.0", "1000", "0.91"),
        ("t2", "board", "false", "5.0", "1000", "0.93"),
        ("t2", "emulated", "true", "5.0", "1000", "0.93"),
    ]
    table = flaxcomp("results", run, "--measurements").out.splitlines()
    assert table[0].split()[:4] == ["trial", "model.width", "seed", "artifact"]
    assert "1" * 12 + "…" in table[2]


def test_parquet(flaxcomp: Program, run: Path, tmp_path: Path) -> None:
    require(importlib.util.find_spec("pyarrow"), "pyarrow: install flaxcomp[full]")
    import pyarrow.parquet as parquet

    done = flaxcomp("results", run, "--format", "parquet", "--output", tmp_path / "out.parquet")
    assert (done.code, done.out) == (0, "")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    expected = json.loads(flaxcomp("results", run, "--format", "json").out)
    lists = ("train.schedule.milestones", "train.phases", "distill.weights")
    assert rows == [row | {name: "[]" for name in lists if row.get(name) == []} for row in expected]
    assert rows[0]["train.phases"] == "[]"


def test_lists_of_the_configuration_are_lists_in_json_and_text_elsewhere(flaxcomp: Program, tmp_path: Path) -> None:
    require(importlib.util.find_spec("pyarrow"), "pyarrow: install flaxcomp[full]")
    import pyarrow.parquet as parquet

    phases = (Phase(train=("logits",), epochs=1), Phase(steps=3))
    train = Train(phases=phases, schedule=Schedule(name="multi_step", milestones=(2, 4)))
    model = {"name": "net", "widths": [16, 32]}
    config = TrialConfig(dataset=Dataset(name="mnist"), model=model, train=train)
    folder = tmp_path / "run"
    create(folder, [Trial("a", config, (), "trial", "same"), trial("b")]).close()
    (a, b) = json.loads(flaxcomp("results", folder, "--format", "json").out)
    assert (a["train.schedule.milestones"], b["train.schedule.milestones"]) == ([2, 4], [])
    assert a["model.widths"] == [16, 32]
    assert [phase["train"] for phase in a["train.phases"]] == [["logits"], "all"]
    (row, _) = csv.DictReader(io.StringIO(flaxcomp("results", folder, "--format", "csv").out))
    assert (row["train.schedule.milestones"], row["model.widths"]) == ("[2,4]", "[16,32]")
    flaxcomp("results", folder, "--format", "parquet", "--output", tmp_path / "x.parquet")
    (stored, other) = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert (stored["train.schedule.milestones"], other["train.schedule.milestones"]) == ("[2,4]", "[]")
    table = flaxcomp("results", folder, "--columns", "trial,model.widths,train.schedule.milestones").out
    assert table.splitlines()[2].split() == ["a", "[16,32]", "[2,4]"]
    for command in ("front", "status"):
        assert flaxcomp(command, folder).code == 0


@pytest.mark.parametrize("format_", ["table", "csv", "json"])
def test_no_folder_is_made_for_an_output(flaxcomp: Program, run: Path, tmp_path: Path, format_: str) -> None:
    done = flaxcomp("results", run, "--format", format_, "--output", tmp_path / "none" / "x.csv")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: --output must name a file in a folder that exists; {tmp_path / 'none'} does not. Make it first.\n"
    )
    assert not (tmp_path / "none").exists()


def test_parquet_without_pyarrow(flaxcomp: Program, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = flaxcomp("results", run, "--format", "parquet", "--output", run / "x.parquet")
    assert done.code == 2
    assert done.err.startswith("error: Parquet needs pyarrow: install flaxcomp[full]")


def test_an_empty_run(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("results", run, "--status", "running", "--format", "json")
    assert json.loads(done.out) == []
    assert flaxcomp("results", run, "--status", "running", "--format", "csv").out.startswith("trial,role,")


@pytest.mark.parametrize("command", ["results", "status", "front", "stop", "retry"])
def test_a_folder_that_is_no_run(flaxcomp: Program, tmp_path: Path, command: str) -> None:
    done = flaxcomp(command, tmp_path)
    assert (done.code, done.out) == (2, "")
    assert (
        done.err == f"error: {tmp_path} is not a run folder: it has no run.json. Give the folder that `flaxcomp run` wrote.\n"
    )
    assert "is not a folder" in flaxcomp(command, tmp_path / "nowhere").err
