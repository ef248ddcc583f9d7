"""Figures over runs, against the numbers of the source."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.report.configurations import Naming
from flaxcomp.report.statistics import by_configuration, comp_rate, comp_rates, configuration, summarise
from flaxcomp.store.frame import RunFrame


def test_the_interval_of_the_source():
    """A deviation of 0.1022 over 10 runs gives 0.0633 (SimpLeNet)."""
    spread = 0.1022 * math.sqrt(9 / 10)
    summary = summarise([98.046 + spread, 98.046 - spread] * 5)
    assert summary.deviation == pytest.approx(0.1022)
    assert summary.half_width == pytest.approx(0.0633, abs=5e-5)
    assert (summary.low, summary.high) == pytest.approx((98.046 - summary.half_width, 98.046 + summary.half_width))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_mean_and_deviation_are_the_standard_librarys(sample):
    summary = summarise(sample)
    assert summary.mean == pytest.approx(statistics.fmean(sample), rel=1e-12, abs=1e-9)
    assert summary.deviation == pytest.approx(statistics.stdev(sample), rel=1e-6, abs=1e-6)
    assert summary.half_width == pytest.approx(1.96 * summary.deviation / math.sqrt(len(sample)))


def test_one_run_has_no_interval():
    summary = summarise([0.5])
    assert (summary.count, summary.mean, summary.deviation, summary.half_width) == (1, 0.5, None, None)
    assert summary.low == summary.high == 0.5


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


def test_comp_rate_is_relative_to_the_teacher():
    teacher = {"trial": "t", "trainable_params": 3_274_634}
    larger = {"trial": "l", "trainable_params": 9_000_000}
    student = {"trial": "s", "trainable_params": 3_484, "distill.teacher": "t"}
    assert round(100 * comp_rate(student, [teacher, larger, student]), 2) == 99.89
    assert comp_rate(teacher, [teacher, larger, student]) == pytest.approx(1 - 3_274_634 / 9_000_000)
    assert comp_rate(larger, [teacher, larger, student]) == 0


def test_several_teachers_are_compared_with_together():
    rows = [{"trial": name, "trainable_params": size} for name, size in (("a", 300), ("b", 100), ("largest", 900))]
    student = {"trial": "s", "trainable_params": 100, "distill.teacher": ["a", "b"]}
    assert comp_rates([student, student | {"distill.teacher": ["a", "gone"]}], rows) == [0.75, 1 - 100 / 900]
    naming = Naming.of(RunFrame("n", (), (), [row | {"model.name": row["trial"]} for row in rows]))
    assert naming.value(student, "distill.teacher") == "a + b"


def test_comp_rate_needs_counts():
    rows = [{"trial": "a"}, {"trial": "b", "trainable_params": None}]
    assert comp_rates(rows, rows) == [None, None]


def test_a_teacher_without_a_count_falls_back_to_the_largest_model():
    rows = [
        {"trial": "t"},
        {"trial": "l", "trainable_params": 200},
        {"trial": "s", "trainable_params": 50, "distill.teacher": "t"},
    ]
    assert comp_rate(rows[2], rows) == 0.75


def test_runs_differ_in_the_seed_alone():
    rows = [
        {"trial": "1", "model.name": "v1", "distill.temperature": 1.0, "seed": 0, "val_accuracy": 0.1},
        {"trial": "2", "model.name": "v1", "distill.temperature": 2.0, "seed": 0},
        {"trial": "3", "model.name": "v1", "distill.temperature": 1.0, "seed": 1, "val_accuracy": 0.2},
        {"trial": "4", "model.name": "v1", "seed": 0},
        {"trial": "5", "model.name": "v1", "distill.temperature": None, "seed": 1},
    ]
    assert [[row["trial"] for row in group] for group in by_configuration(rows)] == [["1", "3"], ["2"], ["4", "5"]]
    assert configuration(rows[0]) == {"model.name": "v1", "distill.temperature": 1.0, "seed": 0}
