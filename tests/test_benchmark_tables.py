"""The tables of `benchmarks`, printed of runs whose trials are those of the sweep files and whose figures are known."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import cramnet_table, distillation_table, distillnet_table, pruning_table, quantization_table
from flaxcomp.cli.catalog import RoomCatalog
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.expand import expand
from flaxcomp.sweep.load import load_sweep
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.trial import Trial

SWEEPS = Path(__file__).parents[1] / "sweeps"
Figures = Callable[[Trial], dict[str, Any]]
Files = Callable[[Trial], list[dict[str, Any]]]


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a table prints of a sweep whose trials have finished with these figures and files: (table, sweep, ...) -> lines."""

    def lines(table: Any, sweep: str, figures: Figures, files: Files = lambda trial: [], *overrides: str) -> list[str]:
        paths = RunPaths.at(tmp_path / "run")
        loaded = load_sweep(SWEEPS / f"{sweep}.yaml", overrides)
        trials = list(expand(loaded, RoomCatalog(planning=True)))
        with Store.create(paths, name=sweep, sweep_text="", sweep_json=msgspec.json.encode(loaded.sweep)) as store:
            lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
            store.add_trials(lease, trials)
            for trial in trials:
                store.form_packs(lease, [Pack(f"p-{trial.id}", (trial.id,), trial.signature)])
                attempt = store.start_pack(lease, f"p-{trial.id}", "w")
                store.finish_pack(lease, f"p-{trial.id}", attempt, {trial.id: figures(trial)})
                if trial.config.cramnet is not None:
                    steps = [{"val_accuracy": 0.5, "stays": True}, {"val_accuracy": 0.25, "stays": False}]
                    paths.compression_file(trial.id).parent.mkdir(parents=True)
                    paths.compression_file(trial.id).write_text(json.dumps({"details": {"sub_problems": steps}}))
                for row in files(trial):
                    file = {"trial": trial.id, "artifact": f"{trial.id}{row['precision']}", "format": "tflite", "flagged": False}
                    store.add_artifact(lease, file | row)
            store.release(lease)
        monkeypatch.setattr("sys.argv", ["table", str(paths.root)])
        table.main()
        return capsys.readouterr().out.splitlines()

    return lines


def cells(lines: list[str], *begin: str) -> list[str]:
    """The cells of the one row that begins so."""
    (row,) = [line for line in lines if line.startswith(f"| {' | '.join(begin)} |")]
    return row.strip("| ").split(" | ")


def test_cramnet(printed: Any) -> None:
    def figures(trial: Trial) -> dict[str, Any]:
        asked = trial.config.cramnet
        widths = tuple(asked.widths if asked else trial.config.model.get("widths", cramnet_table.ORIGINAL))
        small = {"cramnet_sub_problems": 5, "cramnet_ended": "done", "cramnet_val_accuracy": 0.6} if asked else {}
        accuracy = 0.68 if widths == cramnet_table.ORIGINAL else 0.67 if asked else 0.66
        params = cramnet_table.PUBLISHED[widths][1]
        return {"test_accuracy": accuracy, "trainable_params": params, "macs": 2 * params} | small

    lines = printed(cramnet_table, "cramnet_short", figures)
    assert cells(lines, "0")[1:8] == ["32 32 64 64", "512", "1,250,858", "100.00", "100.00 (100.00)", "68.00", "-"]
    assert cells(lines, "1")[3:] == [
        "128,314", "10.26", "10.26 (25.17)", "67.00", "-1.00", "+1.02", "60.00", "66.00", "-2.00"
    ]  # fmt: skip
    assert [line.split(" | ")[0] for line in lines[2:7]] == ["| 0", "| 1", "| 3", "| 5", "| 5b"]
    variants = [line.strip("| ").split(" | ") for line in lines[10:]]
    assert [row[:2] for row in variants] == [["16 16 32 32 96", "-"], ["16 16 32 32 96", "input_first"]]
    assert variants[0][3:] == ["5", "done", "50.0 25.0 (taken back)", "67.00", "-1.00"]
