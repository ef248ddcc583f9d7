"""A run as plain rows: what results, front and report read. Needs neither JAX nor Ray."""

from dataclasses import dataclass, field
from typing import Any

from flaxcomp.sweep.spec import Metric

Row = dict[str, Any]

# The column names are a contract with users.
TRIAL_COLUMNS = ("status", "params", "trainable_params", "macs", "test_accuracy", "test_precision", "test_recall", "test_f1",
                 "val_accuracy", "train_seconds")  # fmt: skip
MEASUREMENT_COLUMNS = ("artifact", "precision", "size_bytes", "accuracy", "accuracy_drop", "device", "device_model", "emulated",
                       "latency_ms", "latency_ci_low", "latency_ci_high", "peak_memory_bytes", "instructions")  # fmt: skip


@dataclass(frozen=True)
class RunFrame:
    """One run, read at one moment.

    Attributes:
        name: the sweep's name.
        metrics: what the sweep optimises; constraints: expressions over the rows' columns.
        trials: a row a trial: `trial`, `role` ("trial" or "dependency"), the configuration in dotted columns
            (`model.name`, ...), then TRIAL_COLUMNS, then whatever else was recorded (`confusion_matrix`: list of lists, row
            true, column predicted).
        epochs: a row per trial and epoch: `trial, epoch, train_loss, val_loss, val_accuracy, learning_rate, images_per_second`.
        artifacts: a row a file: `trial, artifact (sha256), precision, format, size_bytes, accuracy, accuracy_drop, flagged`.
        measurements: a row per artifact and device: `trial` and its configuration columns, MEASUREMENT_COLUMNS, then
            `protocol, threads, runtime, samples_ms (list of lists, one a process), measured_at`.
        failures: a row a failed attempt: `trial, attempt, kind, error, at`.
    """

    name: str
    metrics: tuple[Metric, ...]
    constraints: tuple[str, ...] = ()
    trials: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)
    artifacts: list[Row] = field(default_factory=list)
    measurements: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
