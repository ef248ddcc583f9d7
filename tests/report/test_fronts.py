"""The front is the mathematics of the report: exact, for any number of metrics, on rows that may be compared."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.errors import UserError
from flaxcomp.report.fronts import Setting, applicable, pareto, satisfying
from flaxcomp.sweep.spec import Metric

NAMES = ("a", "b", "c")
values = st.one_of(st.integers(-3, 3), st.floats(-2, 2, allow_nan=False), st.sampled_from([float("inf"), float("-inf")]))
metric_lists = st.integers(1, 3).flatmap(
    lambda count: st.tuples(
        *(st.builds(Metric, name=st.just(n), goal=st.sampled_from(["maximize", "minimize"])) for n in NAMES[:count])
    )
)
row_lists = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, values)), max_size=30)


def maximise(*names):
    return [Metric(name=name, goal="maximize") for name in names]


def dominates(better, worse, metrics):
    """The definition, spelled out."""
    pairs = [(better[m.name], worse[m.name]) if m.goal == "maximize" else (-better[m.name], -worse[m.name]) for m in metrics]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def places(rows, chosen):
    """Where the chosen objects stand among the rows."""
    return [index for index, row in enumerate(rows) if any(row is other for other in chosen)]


@given(row_lists, metric_lists)
def test_members_are_those_that_nobody_dominates(rows, metrics):
    expected = [i for i, row in enumerate(rows) if not any(dominates(other, row, metrics) for other in rows)]
    assert places(rows, pareto(rows, metrics)) == expected


@given(row_lists, metric_lists)
def test_whoever_is_left_out_is_dominated_by_a_member(rows, metrics):
    front = pareto(rows, metrics)
    for row in rows:
        if not any(row is member for member in front):
            assert any(dominates(member, row, metrics) for member in front)


@given(row_lists, metric_lists, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_the_order_of_the_front_alone(rows, metrics, chance):
    shuffled = chance.sample(rows, len(rows))
    assert sorted(map(id, pareto(rows, metrics))) == sorted(map(id, pareto(shuffled, metrics)))
    assert places(shuffled, pareto(shuffled, metrics)) == sorted(places(shuffled, pareto(shuffled, metrics)))


@given(row_lists, metric_lists)
def test_turning_values_and_goals_around_changes_nothing(rows, metrics):
    flipped = [{name: -value for name, value in row.items()} for row in rows]
    other = {"maximize": "minimize", "minimize": "maximize"}
    turned = [Metric(name=m.name, goal=other[m.goal]) for m in metrics]
    assert places(rows, pareto(rows, metrics)) == places(flipped, pareto(flipped, turned))


def test_equal_rows_stay_together():
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 1}]
    assert places(rows, pareto(rows, maximise("a", "b"))) == [0, 1]


@pytest.mark.parametrize("cell", [{}, {"a": None}, {"a": float("nan")}, {"a": True}, {"a": "1"}])
def test_rows_without_a_figure_are_left_out(cell):
    known = {"a": 0}
    assert pareto([cell, known], maximise("a")) == [known]


def test_no_metric_is_an_error():
    with pytest.raises(ValueError, match="at least one metric"):
        pareto([{"a": 1}], [])


def test_constraints_decide_who_competes():
    rows = [{"a": 3, "size_bytes": 600 * 1024}, {"a": 2, "size_bytes": 100}, {"a": 1, "size_bytes": 50}, {"a": 9}]
    assert pareto(rows, maximise("a"), ["size_bytes <= 512 KiB"]) == [rows[1]]
    with pytest.raises(UserError):
        pareto(rows, maximise("a"), ["size_bytes <="])


def test_a_constraint_on_an_absent_column_does_not_apply():
    rows = [{"a": 1, "size_bytes": None}, {"a": 2}]
    assert applicable(rows, ["size_bytes <= 1", "a > 1"]) == ("a > 1",)
    assert satisfying(rows, ["a > 1"]) == [rows[1]]


def test_emulated_and_real_devices_never_compete():
    real = {"latency_ms": 9.0, "device": "pi3", "emulated": False}
    slower = {"latency_ms": 10.0, "device": "pi3", "emulated": False}
    emulated = {"latency_ms": 1.0, "device": "pi3", "emulated": True}
    latency = [Metric(name="latency_ms", goal="minimize")]
    assert pareto([slower, emulated, real], latency) == [emulated, real]


@pytest.mark.parametrize("column", ["device", "device_model", "protocol", "threads", "runtime"])
def test_other_circumstances_are_another_front(column):
    first = {"latency_ms": 1.0, column: 1 if column == "threads" else "x"}
    second = {"latency_ms": 2.0, column: 4 if column == "threads" else "y"}
    assert pareto([first, second], [Metric(name="latency_ms", goal="minimize")]) == [first, second]


def test_figures_of_training_compete_across_devices():
    rows = [{"a": 1, "device": "pi3"}, {"a": 2, "device": "pi4"}]
    assert pareto(rows, maximise("a")) == [rows[1]]


def test_a_setting_says_that_it_is_emulated():
    row = {
        "device": "board0",
        "device_model": "rpi3b",
        "emulated": True,
        "threads": 2,
        "protocol": "quick",
        "runtime": "tflite",
    }
    assert str(Setting.of(row)) == "board0 (rpi3b), tflite, 2 threads, quick, EMULATED"


def test_a_hundred_thousand_rows_take_seconds_at_most():
    rows = [{"a": i, "b": -i} for i in range(100_000)]  # the worst case: all are on the front
    started = time.process_time()
    assert len(pareto(rows, maximise("a", "b"))) == 100_000
    assert time.process_time() - started < 5
