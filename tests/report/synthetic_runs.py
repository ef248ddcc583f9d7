"""Invented runs for the tests of the report: deterministic, shaped like a temperature study on MNIST."""

import hashlib
import math
import random
from typing import Any

from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.sweep.spec import Metric

SIZES = {"simplenet_v1": 3_484, "simplenet_v2": 5_968, "simplenet_v3": 3_982, "simplenet_v4": 6_007, "simplenet_v5": 4_000}
ACCURACY = {"simplenet_v1": 0.958, "simplenet_v2": 0.977, "simplenet_v3": 0.967, "simplenet_v4": 0.981, "simplenet_v5": 0.956}
TEACHER = "7eac4e0000000000"
PRECISIONS = {"float32": (4.0, 0.0), "float16": (2.0, 0.0001), "dynamic": (1.2, 0.002), "int8": (1.1, 0.004)}
REAL = {
    "device": "pi3",
    "device_model": "Raspberry Pi 3B",
    "emulated": False,
    "runtime": "tflite 2.1",
    "protocol": "standard",
    "threads": 1,
}
EMULATED = {**REAL, "device": "board0", "device_model": "emulated board", "emulated": True}
DEFAULT_METRICS = (Metric(name="val_accuracy", goal="maximize"), Metric(name="params", goal="minimize"))


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def trial(name: str = "simplenet_v1", temperature: float | None = 1.0, seed: int = 0, **columns: Any) -> Row:
    """A finished trial; `temperature` None means hard targets."""
    chance = random.Random(sha(name, temperature, seed))
    shift = -0.002 * abs(math.log((temperature or 0.6) / 2.5))
    accuracy = min(0.995, ACCURACY[name] + shift + chance.gauss(0, 0.0015 if name == "simplenet_v1" else 0.005))
    row: Row = {
        "trial": sha(name, temperature, seed)[:16],
        "role": "trial",
        "dataset.name": "mnist",
        "model.name": name,
        "train.epochs": 20,
        "train.batch_size": 128,
        "seed": seed,
        "status": "finished",
        "params": SIZES[name],
        "trainable_params": SIZES[name],
        "macs": SIZES[name] * 97,
        "test_accuracy": round(accuracy, 4),
        "test_precision": round(accuracy - 0.0003, 4),
        "test_recall": round(accuracy - 0.0002, 4),
        "test_f1": round(accuracy - 0.00025, 4),
        "val_accuracy": round(accuracy + chance.gauss(0, 0.001), 4),
        "train_seconds": 20 + 10 * chance.random(),
        "confusion_matrix": confusion(accuracy),
    }
    if temperature is not None:
        row |= {"distill.teacher": TEACHER, "distill.temperature": temperature, "distill.loss": "soft_mse"}
    return row | columns


def teacher() -> Row:
    return {
        "trial": TEACHER,
        "role": "dependency",
        "dataset.name": "mnist",
        "model.name": "simplenet_lm",
        "train.epochs": 10,
        "seed": 0,
        "status": "finished",
        "params": 3_274_634,
        "trainable_params": 3_274_634,
        "test_accuracy": 0.9928,
        "test_f1": 0.99275,
        "val_accuracy": 0.9931,
    }


def confusion(accuracy: float, classes: int = 10, images: int = 1000) -> list[list[int]]:
    wrong = round(images * (1 - accuracy))
    matrix = [[0] * classes for _ in range(classes)]
    for true in range(classes):
        matrix[true][true] = images - wrong
        matrix[true][(true * 3 + 5) % classes if (true * 3 + 5) % classes != true else (true + 1) % classes] = wrong
    return matrix


def epochs(row: Row, count: int = 20) -> list[Row]:
    chance = random.Random(sha("epochs", row["trial"]))
    return [
        {
            "trial": row["trial"],
            "epoch": epoch,
            "train_loss": round(0.6 * math.exp(-epoch / 4) + 0.05 + 0.01 * chance.random(), 5),
            "val_loss": round(0.6 * math.exp(-epoch / 4) + 0.07 + 0.01 * chance.random(), 5),
            "val_accuracy": round(row.get("val_accuracy", 0.9) - 0.25 * math.exp(-epoch / 3) - 0.004 * chance.random(), 5),
            "learning_rate": 1e-3,
            "images_per_second": 50_000.0,
        }
        for epoch in range(1, count + 1)
    ]


def artifacts(row: Row) -> list[Row]:
    """The four TFLite files of a trial; the int8 file of simplenet_v5 loses too much."""
    made = []
    for precision, (width, drop) in PRECISIONS.items():
        lost = 0.08 if (precision, row["model.name"]) == ("int8", "simplenet_v5") else drop
        made.append(
            {
                "trial": row["trial"], "artifact": sha(row["trial"], precision), "precision": precision, "format": "tflite",
                "size_bytes": int(2_300 + width * row["params"]), "accuracy": round(row["test_accuracy"] - lost, 4),
                "accuracy_drop": lost, "flagged": lost > 0.01,
            }
        )  # fmt: skip
    return made


def measurement(row: Row, artifact: Row, setting: Row) -> Row:
    chance = random.Random(sha(row["trial"], artifact["precision"], setting["device"]))
    speed = {"float32": 1.0, "float16": 1.02, "dynamic": 0.8, "int8": 0.45}[artifact["precision"]]
    latency = 1e-3 * row["params"] ** 0.7 * speed * (3.0 if setting["emulated"] else 1.0) * (1 + 0.05 * chance.random())
    configuration = {name: value for name, value in row.items() if "." in name or name == "seed"}
    figures = {name: artifact[name] for name in ("artifact", "precision", "size_bytes", "accuracy", "accuracy_drop")}
    return {
        "trial": row["trial"], **configuration, **figures, **setting, "latency_ms": latency, "latency_ci_low": latency * 0.97,
        "latency_ci_high": latency * 1.03, "peak_memory_bytes": 3_000_000 + 10 * row["params"], "samples_ms": [[latency] * 3],
        "measured_at": "2026-01-02T03:04:05Z",
    }  # fmt: skip


def study(
    *,
    models: tuple[str, ...] = tuple(SIZES),
    temperatures: tuple[float | None, ...] = (None, 1.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0),
    seeds: int = 10,
    settings: tuple[Row, ...] = (REAL, EMULATED),
    exported: int = 12,
    failed: int = 3,
    metrics: tuple[Metric, ...] = DEFAULT_METRICS,
    constraints: tuple[str, ...] = (),
    epoch_count: int = 20,
) -> RunFrame:
    """A run of len(models) * len(temperatures) * seeds trials and their teacher.

    Args:
        settings: devices on which the files of `exported` trials, spread evenly, are measured.
        failed: how many trials failed once and stay so.
    """
    trials = [trial(name, t, seed) for name in models for t in temperatures for seed in range(seeds)]
    failures = []
    for number, row in enumerate(trials[:: max(1, len(trials) // (failed or 1))][:failed]):
        row["status"] = "failed"
        for column in (
            "val_accuracy",
            "test_accuracy",
            "test_precision",
            "test_recall",
            "test_f1",
            "confusion_matrix",
            "train_seconds",
        ):
            row.pop(column)
        kind = ("out_of_memory", "error", "lost")[number % 3]
        text = f"XlaRuntimeError: <{kind}> & more\n  at step {number}: allocating 12.5 GiB failed"
        failures.append(
            {"trial": row["trial"], "attempt": number + 1, "kind": kind, "error": text, "at": f"2026-01-02T03:0{number}:05"}
        )
    finished = [row for row in trials if row["status"] == "finished"]
    chosen = finished[:: max(1, len(finished) // (exported or 1))][:exported]
    files = [(row, artifact) for row in chosen for artifact in artifacts(row)]
    return RunFrame(
        name="simplenet-temperature",
        metrics=metrics,
        constraints=constraints,
        trials=[teacher(), *trials],
        epochs=[its for row in trials for its in epochs(row, epoch_count)],
        artifacts=[artifact for _, artifact in files],
        measurements=[measurement(row, artifact, setting) for row, artifact in files for setting in settings],
        failures=failures,
    )
