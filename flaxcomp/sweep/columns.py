"""The columns that expressions and metrics may name."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flaxcomp.sweep.check import fields, struct_of
from flaxcomp.sweep.compression import METHODS, figures_of
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
METHOD_COLUMNS = ("search_seconds", *(name for method in METHODS for name in figures_of(method)))

# Of all these, what cannot be ordered, so that it is no metric.
TEXT_COLUMNS = frozenset({"status", "artifact", "precision", "device", "device_model", "emulated", "cramnet_ended"})

OPTIONAL_SECTIONS = ("distill", *METHODS)
# The columns that tell best which trials have a section: the first that there is, else its first.
_TELLING = {
    "distill": ("distill.teacher", "distill.loss"),
    "prune": ("prune.ratio",),
    "morphnet": ("morphnet.strength",),
    "netadapt": ("netadapt.ratio",),
    "cramnet": ("cramnet.widths", "cramnet.ratio"),
    "subset": ("subset.remove_fraction", "subset.classes"),
}

_OTHERS = ("distill.teacher.", "train.init_from.trial.")  # before the columns of trainings that a trial needs


def differing(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str], told: Collection[str] = OPTIONAL_SECTIONS
) -> list[str]:
    """The columns in which rows differ. Those of a section that not all rows have are compared among the rows that have it.

    Args:
        told: sections of which one column more tells which rows have it, where some have.
    """
    columns = [name for name in columns if name != "source"]  # which the others tell, and better than an id
    inside = {section: [name for name in columns if _section(name) == section] for section in OPTIONAL_SECTIONS}
    having = {section: [row for row in rows if any(row.get(name) is not None for name in names)]
              for section, names in inside.items()}  # fmt: skip
    found = {name for name in columns if len({repr(row.get(name)) for row in having.get(_section(name), rows)}) > 1}
    for section, some in having.items():
        own = [name for name in inside[section] if any(row.get(name) is not None for row in some)]
        if section in told and 0 < len(some) < len(rows) and own:
            found.add(next((name for name in _TELLING.get(section, ()) if name in own), own[0]))
    return [name for name in columns if name in found]


def _section(column: str) -> str:
    return column.partition(".")[0]


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
