"""Which trials are exported."""

import pytest

from flaxcomp.errors import UserError
from flaxcomp.report.winners import not_yet_known, select
from flaxcomp.store.frame import RunFrame
from flaxcomp.sweep.spec import Metric

ACCURACY, PARAMS = Metric(name="val_accuracy", goal="maximize"), Metric(name="params", goal="minimize")
SIZE, LATENCY = Metric(name="size_bytes", goal="minimize"), Metric(name="latency_ms", goal="minimize")


def trial(id_: str, accuracy: float | None, params: int, *, status: str = "finished", role: str = "trial", **more) -> dict:
    return {"trial": id_, "status": status, "role": role, "val_accuracy": accuracy, "params": params, **more}


ROWS = [
    trial("a", 0.90, 100, **{"model.name": "x"}),
    trial("b", 0.95, 200, **{"model.name": "x"}),
    trial("c", 0.94, 300, **{"model.name": "y"}),  # b is better and smaller
    trial("d", 0.97, 900, **{"model.name": "y"}),
    trial("teacher", 0.99, 50, role="dependency"),
    trial("running", None, 10, status="running"),
    trial("failed", None, 10, status="failed"),
]


def frame(*metrics: Metric, constraints: tuple[str, ...] = (), rows=ROWS) -> RunFrame:
    return RunFrame(name="run", metrics=metrics, constraints=constraints, trials=rows)


def test_front():
    assert select(frame(ACCURACY, PARAMS), "front") == ["a", "b", "d"]


def test_all_means_finished_trials_without_teachers():
    assert select(frame(ACCURACY, PARAMS), "all") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("rule", "chosen"), [("best:1", ["d"]), ("best:3", ["d", "b", "c"]), ("best:99", ["d", "b", "c", "a"])]
)
def test_best(rule, chosen):
    assert select(frame(ACCURACY, PARAMS), rule) == chosen


def test_best_follows_the_goal_of_the_first_metric():
    assert select(frame(PARAMS, ACCURACY), "best:2") == ["a", "b"]


def test_what_is_not_known_yet_is_left_out():
    run = frame(
        ACCURACY, SIZE, PARAMS, LATENCY, constraints=("size_bytes <= 4 KiB", "params < 500", "latency_ms < 1 or params < 1")
    )
    assert select(run, "front") == ["a", "b"]
    assert not_yet_known(run) == ["size_bytes", "latency_ms", "size_bytes <= 4 KiB", "latency_ms < 1 or params < 1"]


def test_constraints_bind_best_too():
    assert select(frame(ACCURACY, PARAMS, constraints=("model.name == 'x'",)), "best:1") == ["b"]


def test_what_training_knows_stands_in_for_size_and_latency():
    """Parameters for size: the front of accuracy and size is that of accuracy and parameters."""
    assert select(frame(ACCURACY, SIZE), "front") == select(frame(ACCURACY, PARAMS), "front")


def test_nothing_to_choose_by():
    with pytest.raises(UserError, match=r"cannot be selected by accuracy_drop.*or select all"):
        select(frame(Metric(name="accuracy_drop", goal="minimize")), "front")
    assert select(frame(Metric(name="accuracy_drop", goal="minimize")), "all") == ["a", "b", "c", "d"]


def test_no_finished_trial():
    assert select(frame(ACCURACY, PARAMS, rows=ROWS[4:]), "front") == []


@pytest.mark.parametrize("rule", ["best", "best:0", "best:-1", "best:x", "Front", ""])
def test_unknown_rules(rule):
    with pytest.raises(UserError, match="front, all or best:N"):
        select(frame(ACCURACY, PARAMS), rule)
