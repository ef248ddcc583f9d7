"""Configurations as people read them: what varies in a run, short names for it, one line a trial."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxcomp.report.statistics import configuration, teachers_of
from flaxcomp.store.frame import Row, RunFrame
from flaxcomp.sweep.columns import differing
from flaxcomp.sweep.compression import METHODS

_SHORT = {
    "distill.temperature": "T",
    "distill.lambda": "λ",
    "train.optimizer.learning_rate": "lr",
    "model.name": "model",
    "distill.teacher": "teacher",
}
HARD_TARGETS = "hard targets"


@dataclass(frozen=True)
class Naming:
    """How the configurations of one run are told apart.

    Attributes:
        columns: the configuration columns (but the seed) that differ between trials, the model's name first.
        names: a short name for each of them.
        teachers: teacher's trial id to its model's name.
        distils: whether some trials learn from a teacher.
    """

    columns: tuple[str, ...]
    names: Mapping[str, str]
    teachers: Mapping[str, str]
    distils: bool

    @classmethod
    def of(cls, frame: RunFrame) -> "Naming":
        rows = [row for row in frame.trials if row.get("role") != "dependency"]
        varied = varying(rows)
        last = Counter(column.rpartition(".")[2] for column in varied)
        names = {}
        for column in varied:
            short = column.rpartition(".")[2]
            names[column] = _SHORT.get(column) or (short if last[short] == 1 else column).replace("_", " ")
        teachers = {str(row["trial"]): str(row.get("model.name", row["trial"])) for row in frame.trials}
        return cls(varied, names, teachers, any(row.get("distill.teacher") for row in rows))

    def value(self, row: Mapping[str, Any], column: str) -> str:
        """A cell of the configuration, in words."""
        value = row.get(column)
        if value is None:
            return HARD_TARGETS if column == "distill.teacher" else "–"
        if column == "distill.teacher":
            return " + ".join(self.teachers.get(teacher, str(teacher)) for teacher in teachers_of(row))
        return f"{value:g}" if isinstance(value, float) else str(value)

    def label(self, row: Mapping[str, Any], without: Sequence[str] = (), seed: bool = False) -> str:
        """One line: `simplenet_v1 · T 3 · ratio 0.25`.

        Args:
            row: a row with configuration columns.
            without: columns to leave out.
            seed: whether to end with the seed.
        """
        parts = [str(row.get("model.name") or row.get("trial", ""))]
        if self.distils and not row.get("distill.teacher") and "distill.teacher" not in without:
            parts.append(HARD_TARGETS)
        told = (column for column in self.columns if column != "model.name" and column not in without)
        parts += [f"{self.names[column]} {self.value(row, column)}" for column in told if row.get(column) is not None]
        if seed and row.get("seed") is not None:
            parts.append(f"seed {row['seed']}")
        return " · ".join(parts)


def varying(rows: Iterable[Row]) -> tuple[str, ...]:
    """The configuration columns, but the seed, that hold more than one value; `model.name` first, then by name.

    What concerns distillation, or a method that makes networks smaller, is compared among the trials that have it.
    """
    settings = [configuration(row) for row in rows]
    names = {name for setting in settings for name in setting if name != "seed"}
    varied = differing(settings, sorted(names, key=lambda name: (name != "model.name", name)), told=METHODS)
    return tuple(varied)


def architecture(row: Mapping[str, Any]) -> str:
    """The model's name, by which charts are coloured."""
    return str(row.get("model.name") or "model")
