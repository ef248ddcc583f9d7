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

    def lines(table: Any, sweep: str, figures: Figures, files: Files = lambda _: [], *overrides: str) -> list[str]:
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
                for row in files(trial) if trial.role == "trial" else ():
                    file = {
                        "trial": trial.id,
                        "artifact": f"{trial.id}{row['precision']}",
                        "format": "tflite",
                        "flagged": False,
                    }
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


def test_pruning(printed: Any) -> None:
    def figures(trial: Trial) -> dict[str, Any]:
        block = trial.config.prune
        if block is None:
            return {"test_accuracy": 0.75, "trainable_params": 1000, "macs": 4_000_000}
        accuracy = {"uniform": 0.5, "fisher": 0.625}.get(block.criterion, 0.25) + (0.125 if block.then == "fine_tune" else 0)
        return {"test_accuracy": accuracy, "trainable_params": 500, "macs": round(4e6 * (1 - block.ratio))}

    lines = printed(pruning_table, "embedded_pruning_short", figures)
    assert cells(lines, "dense") == ["dense", "0", "-", "4.00", "1,000", "25.00", "-", "1"]
    assert cells(lines, "fisher", "0.25", "fine-tune") == ["fisher", "0.25", "fine-tune", "3.00", "500", "25.00", "-12.50", "1"]
    assert cells(lines, "l1", "0.75", "scratch")[5:] == ["75.00", "+25.00", "1"]
    assert len(lines) == 2 + 1 + 54


def test_pruning_of_the_whole_study(printed: Any) -> None:
    figures = {"test_accuracy": 0.5, "trainable_params": 5, "macs": 1_000_000}
    lines = printed(pruning_table, "embedded_pruning", lambda _: figures, lambda _: [], "seed=0,1")
    methods = {line.split(" | ")[0].strip("| ") for line in lines[2:]}
    assert methods >= {
        "dense", "fisher, in 10 steps", "fisher, per macs, in 10 steps", "fisher, in 10 steps, retrained 2 times",
        "batch_norm_scale, slimmed, in 10 steps", "uniform, in 10 steps", "uniform", "netadapt, fisher, small prunings",
        "netadapt, l2, 7 layers sampled", "morphnet, strength 0.1", "morphnet, strength 0, restored",
    }  # fmt: skip
    assert {line.split(" | ")[-1].strip("| ") for line in lines[2:]} == {"2"}, "seeds alone are averaged"


def test_distillation(printed: Any) -> None:
    def figures(trial: Trial) -> dict[str, Any]:
        taught = trial.config.distill
        val = 0.5 if taught is None else 0.5 + taught.hard_weight + taught.temperature / 100
        return {"val_accuracy": val, "test_accuracy": val - 0.25}

    lines = printed(distillation_table, "embedded_distillation_short", figures)
    medium, large = "mobilenet_v1 width=16 blocks=6", "mobilenet_v1 blocks=6"
    assert cells(lines, medium, "labels alone") == [medium, "labels alone", "-", "50.00 +- 0.00", "-", "75.00 +- 0.00", "2"]
    assert cells(lines, medium, large, "-") == [medium, large, "-", "28.00 +- 0.00", "+22.00", "53.00 +- 0.00", "2"]
    assert cells(lines, medium, large, "0.02, 10")[3:] == ["38.00", "+12.00", "63.00", "1"]
    small, wide = "mobilenet_v1 width=8 blocks=6", "wide_resnet blocks=6 se=2"
    assert [cells(lines, small, f"{chain}{medium}")[-1] for chain in (f"{large} > ", f"{wide} > {large} > ")] == ["2", "1"]
    assert "24 of 24 trainings have finished" in "\n".join(lines)


def test_quantization(printed: Any) -> None:
    def files(trial: Trial) -> list[dict[str, Any]]:
        trained = trial.config.quantize is not None
        sizes = {"float32": (0.75, 4096), "int8": (0.625 if trained else 0.5, 2048 if trained else 1024)}
        return [
            {"precision": precision, "accuracy": accuracy, "accuracy_drop": 0.75 - accuracy, "size_bytes": size,
             "quantizer": "tensorflow", "calibration_images": None if trained or precision == "float32" else 200}
            for precision, (accuracy, size) in sizes.items()
        ] + [
            {"precision": "int8", "artifact": f"{trial.id} by another way", "accuracy": 0.25, "accuracy_drop": 0.5,
             "size_bytes": 1024, "quantizer": "ai_edge", "calibration_images": 200}
        ] * (not trained)  # fmt: skip

    lines = printed(quantization_table, "quantization_short", lambda _: {"test_accuracy": 0.75}, files)
    figures = ["1", "75.00", "50.00", "+25.00", "62.50", "+12.50", "1.5"]
    names = ["mobilenet_v2 expansion=4", "resnet depth=8 pruned 0.5", "simplenet_v5"]
    assert [line.strip("| ").split(" | ") for line in lines[2:5]] == [[name, *figures] for name in names]
    assert lines[8:] == ["| int8 | ai_edge | 200 | 3 | +50.00 | +50.00 |", "| int8 | tensorflow | 200 | 3 | +25.00 | +25.00 |"]


def test_distillnet(printed: Any) -> None:
    def figures(trial: Trial) -> dict[str, Any]:
        block = trial.config.subset
        if block is None:
            return {"test_accuracy": 0.9, "trainable_params": 1000, "macs": 400}
        gone = round(10 * block.remove_fraction)
        lost = {"val": 0.0078125, "test": 0.03125 if gone == 8 else 0.0}
        accuracies = {f"subset_{part}_accuracy_{when}": 0.5 - (lost[part] if when == "after" else 0)
                      for part in lost for when in ("before", "after")}  # fmt: skip
        return accuracies | {
            "test_accuracy": 0.5, "trainable_params": 750, "macs": 300, "subset_removed_classes": gone,
            "subset_kept_classes": 10 - gone, "subset_parameters_removed_share": 0.25, "subset_macs_skipped": 100,
            "subset_macs_skipped_partial": 0,
        }  # fmt: skip

    def files(trial: Trial) -> list[dict[str, Any]]:
        size = 4096 if trial.config.subset is None else 3072
        return [{"precision": "float32", "accuracy": 0.5, "accuracy_drop": 0.0, "size_bytes": size}]

    lines = printed(distillnet_table, "distillnet_short", figures, files)
    titles = [line for line in lines if line.endswith("removed") and not line.startswith("|")]
    assert titles == ["tf_mnist, mnist, whole channels removed", "tf_cifar, norm none, cifar10, whole channels removed"]
    mnist = lines[: lines.index(titles[1])]
    assert cells(mnist, "30", "1") == ["30", "1", "25.0 (30)", "25.0 (0.0)", "0.78", "0.00, 0.00 (0.06)", "0", "3 (4)"]
    assert cells(mnist, "80", "1")[5:7] == ["3.12, 3.12 (0.93)", "1"]
    assert mnist[-2].startswith("In 1 of 8 class sets the held-out images promised one point at most")
    assert mnist[-2].endswith("80 % of seed 0 lost 3.12.")
