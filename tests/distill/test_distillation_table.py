"""The table of a distillation run, from rows as a store gives them."""

from typing import Any

import pytest

from benchmarks.distillation_table import PUBLISHED, table


def row(trial: str, width: int, accuracy: float, teacher: str | list[str] | None = None, **more: Any) -> dict[str, Any]:
    taught = {"distill.teacher": teacher, "distill.lambda": 0.2, "distill.temperature": 2.0} if teacher else {}
    model = {"model.name": "mobilenet_v1", "model.layout": "embedded", "model.width": width}
    figures = {"val_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "status": "finished"}
    return {"trial": trial} | model | taught | figures | more


TRIALS = [
    row("large", 100, 0.95),
    row("medium0", 64, 0.93),
    row("medium1", 64, 0.91),
    row("taught", 64, 0.94, "large"),
    row("small", 32, 0.90, "taught"),
    row("both", 32, 0.88, ["large", "taught"]),
    row("cold", 64, 0.90, "large", **{"distill.temperature": 5.0}),
    row("waiting", 32, 0.0, status="pending"),
]


def test_the_same_network_alone_and_taught() -> None:
    lines = {(line.student, line.teachers, line.options): line for line in table(TRIALS)}
    medium, large = "mobilenet_v1 width=64", "mobilenet_v1 width=100"
    alone, taught = lines[medium, "", ""], lines[medium, large, ""]
    assert (alone.validation.count, alone.validation.mean, alone.gained) == (2, pytest.approx(8.0), None)
    assert (taught.validation.mean, taught.test.mean, taught.gained) == tuple(map(pytest.approx, (6.0, 7.0, 2.0)))
    assert lines[medium, large, "0.2, 5"].gained == pytest.approx(-2.0)


def test_chains_are_told_from_their_beginning_and_students_of_one_network_stand_together() -> None:
    lines = table(TRIALS)
    assert [line.student.rpartition("=")[2] for line in lines] == ["100", "64", "64", "64", "32", "32"]
    assert [line.teachers for line in lines][-2:] == [
        "mobilenet_v1 width=100 + mobilenet_v1 width=100 > mobilenet_v1 width=64",
        "mobilenet_v1 width=100 > mobilenet_v1 width=64",
    ]
    assert lines[-1].gained is None, "nobody trained the small one alone"
    assert table([row("a", 1, 0.5, status="failed")]) == []


def test_the_published_figures_stand_beside() -> None:
    assert "6.35 | 5.79 | 0.56" in PUBLISHED
