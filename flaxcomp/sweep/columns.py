"""The columns that expressions and metrics may name."""

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from flaxcomp.sweep.check import fields, struct_of
from flaxcomp.sweep.compression import METHODS
from flaxcomp.sweep.ids import flatten
from flaxcomp.sweep.spec import TrialConfig

# What is recorded of a trial and of a file made from it; the names are a contract with users.
RESULT_COLUMNS = (
    *("status", "params", "trainable_params", "macs", "test_accuracy", "test_precision", "test_recall", "test_f1"),
    *("val_accuracy", "train_seconds", "artifact", "precision", "size_bytes", "accuracy", "accuracy_drop", "device"),
    *("device_model", "emulated", "latency_ms", "latency_ci_low", "latency_ci_high", "peak_memory_bytes", "instructions"),
)

# Recorded of a trial besides, where its data set has more than five classes.
TOP5_COLUMNS = ("test_top5_accuracy", "val_top5_accuracy")

# What methods of compression record besides, of the trials that have them.
METHOD_COLUMNS: tuple[str, ...] = tuple(
    name
    for method in METHODS
    for name in getattr(importlib.import_module(f"flaxcomp.sweep.compression.{method}"), "FIGURES", ())
)

_OTHERS = ("distill.teacher.", "train.init_from.trial.")  # before the columns of trainings that a trial needs


def config_columns() -> tuple[str, ...]:
    """The dotted columns of a configuration, of a model only its name."""
    return tuple(_leaves(TrialConfig, ""))


def model_options(values: Iterable[Any]) -> set[str]:
    """The columns `model.OPTION` of all models found anywhere inside the values of a sweep file."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, dict):
            model = value.get("model")
            if isinstance(model, dict):
                found.update(flatten({"model": model}))
            found |= model_options(value.values())
        elif isinstance(value, list):
            found |= model_options(value)
    return found


def with_teachers_own(names: Iterable[str]) -> Iterator[str]:
    """The names, and of those that are a teacher's (`distill.teacher.model.name`) also what the teacher itself calls them.

    Likewise of those of a training that initial weights come from (`train.init_from.trial.model.name`).
    """
    for name in names:
        yield name
        while other := next(filter(name.startswith, _OTHERS), None):
            name = name.removeprefix(other)
            yield name


def _leaves(struct: type, prefix: str) -> Iterator[str]:
    for key, field in fields(struct).items():
        inner = struct_of(field.type)
        if inner is not None:
            yield from _leaves(inner, f"{prefix}{key}.")
        elif key == "model":
            yield f"{prefix}model.name"
        else:
            yield f"{prefix}{key}"
