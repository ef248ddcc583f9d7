"""What a run shows: counts, speed, time left, the best so far."""

import pytest

from flaxcomp.cli.progress import BURST, BarDisplay, PlainDisplay, Tally
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Metric
from flaxcomp.train.job import EpochDone, Failed, Finished, Tick


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tally(clock: Clock, goal: str = "maximize", name: str = "val_accuracy", **work: float) -> Tally:
    return Tally(Metric(name=name, goal=goal), str.upper, lambda trial: work.get(trial, 1.0), clock)  # type: ignore[arg-type]


def row(trial: str, accuracy: float) -> dict[str, object]:
    return {"trial": trial, "epoch": 1, "val_accuracy": accuracy}


def test_what_is_stopped_early_is_not_left_to_do_and_what_a_search_adds_is(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    t = tally(clock)
    display = PlainDisplay(t)
    display.started({"a": "pending", "b": "pending", "c": "pending", "d": "stopped"}, 1)
    clock.now = 10.0
    t.happened(Finished("p", 1, {"a": {}}), Pack("p", ("a",), "s"))
    assert t.seconds_left() == pytest.approx(20.0)  # of three, for one was stopped before
    display.stopped(["b"])
    assert t.seconds_left() == pytest.approx(10.0)
    display.added({**dict.fromkeys("abcd", "pending"), "e": "pending", "f": "pending"})
    assert t.seconds_left() == pytest.approx(30.0)
    display.happened(Finished("p", 1, {"c": {}}))
    out = capsys.readouterr().err
    assert "6 trials, 2 of them new" in out
    assert "2/6 trials, 2 stopped early, about 10 s left" in out


def test_time_left_counts_the_work_not_the_trials(clock: Clock) -> None:
    t = tally(clock, a=90.0, b=5.0, c=5.0)
    t.started({"a": "pending", "b": "pending", "c": "pending"})
    clock.now = 45.0
    t.happened(Tick("p", 1, 500, 1000, 10.0), Pack("p", ("a",), "s"))
    assert t.seconds_left() == pytest.approx(55.0)  # 45 of 100 units in 45 s
    clock.now = 90.0
    t.happened(Finished("p", 1, {"a": {}}), Pack("p", ("a",), "s"))
    assert t.seconds_left() == pytest.approx(10.0)


def test_what_was_finished_before_does_not_make_it_look_fast(clock: Clock) -> None:
    t = tally(clock)
    t.started({"a": "finished", "b": "finished", "c": "pending", "d": "pending"})
    assert t.seconds_left() is None
    clock.now = 30.0
    t.happened(Finished("p", 1, {"c": {}}), Pack("p", ("c",), "s"))
    assert t.seconds_left() == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("goal", "best"), [("maximize", "best val_accuracy 0.9000 (B)"), ("minimize", "best val_accuracy 0.5000 (A)")]
)
def test_best_follows_the_goal(clock: Clock, goal: str, best: str) -> None:
    t = tally(clock, goal)
    t.happened(EpochDone("p", 1, [row("a", 0.5), row("b", 0.9)]), None)
    assert t.best_text() == best


def test_dependencies_are_never_the_best(clock: Clock) -> None:
    t = Tally(Metric(name="val_accuracy", goal="maximize"), str.upper, clock=clock, competes={"a"}.__contains__)
    t.happened(EpochDone("p", 1, [row("a", 0.5), row("teacher", 0.9)]), None)
    t.happened(Finished("p", 1, {"teacher": {"val_accuracy": 0.95}}), None)
    assert t.best_text() == "best val_accuracy 0.5000 (A)"


def test_no_time_left_until_the_work_is_known(clock: Clock) -> None:
    known: dict[str, float] = {}
    t = Tally(Metric(name="val_accuracy", goal="maximize"), str.upper, known.get, clock)
    t.started({"a": "pending", "b": "pending"})
    clock.now = 10.0
    t.happened(Finished("p", 1, {"a": {}}), Pack("p", ("a",), "s"))
    assert t.seconds_left() is None
    known.update(a=1.0, b=3.0)
    assert t.seconds_left() == pytest.approx(30.0)


def test_best_of_a_figure_known_at_the_end_only(clock: Clock) -> None:
    t = tally(clock, "minimize", "params")
    t.happened(EpochDone("p", 1, [row("a", 0.5)]), None)
    assert t.best_text() == ""
    t.happened(Finished("p", 1, {"a": {"params": 40}, "b": {"params": 30}}), None)
    assert t.best_text() == "best params 30.0000 (B)"


def test_speed_is_the_sum_of_the_packs_that_train(clock: Clock) -> None:
    t = tally(clock)
    t.started({"a": "pending", "b": "pending"})
    for pack, trial, speed in (("p", "a", 100.0), ("q", "b", 50.0)):
        t.happened(Tick(pack, 1, 1, 10, speed), Pack(pack, (trial,), "s"))
    assert t.images_per_second == 150.0
    t.happened(Failed("q", 1, "lost", "gone"), None)
    assert t.images_per_second == 100.0


def test_compiling_says_nothing_about_speed_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    t, pack = tally(clock), Pack("p", ("a",), "s")
    display = PlainDisplay(t)
    display.started({"a": "pending"}, 1)
    display.pack_started(pack, 1)
    capsys.readouterr()
    clock.now = 40.0
    display.happened(Tick("p", 1, 20, 1000, None))
    assert (t.rates, t.seconds_left()) == ({}, None)
    assert capsys.readouterr().err == "0/1 trials\n"
    clock.now = 50.0
    display.happened(Tick("p", 1, 500, 1000, 48.0))
    assert t.seconds_left() == pytest.approx(10.0)
    display.happened(Tick("p", 1, 510, 1000, None))  # the next phase is another program
    assert t.images_per_second == 48.0


def test_bars_wait_for_a_speed(clock: Clock) -> None:
    display = BarDisplay(tally(clock))
    display.started({"a": "pending"}, 1)
    display.pack_started(Pack("p", ("a",), "s"), 1)
    for rate, text in ((None, "compiling"), (48.0, "48 images/s"), (None, "48 images/s")):
        display.happened(Tick("p", 1, 20, 1000, rate))
        assert display._progress.tasks[1].description == text


def test_packs_that_take_no_time_do_not_fill_the_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(tally(clock))
    display.started({str(n): "pending" for n in range(1000)}, 1)
    for n in range(1000):
        clock.now = n / 100  # ten seconds in all
        display.pack_started(Pack(f"p{n}", (str(n),), "s"), 1)
        display.happened(Finished(f"p{n}", 1, {str(n): {}}))
    assert BURST <= len(capsys.readouterr().err.splitlines()) <= BURST + 12
    display.happened(Failed("p", 1, "error", "it broke"))
    assert capsys.readouterr().err == "pack p failed (error): it broke\n", "failures are always told"


def test_an_event_adds_up_the_work_of_its_own_trials_alone(clock: Clock) -> None:
    asked: list[str] = []
    t = Tally(Metric(name="params", goal="minimize"), str.upper, lambda trial: (asked.append(trial), 1.0)[1], clock)
    t.started({str(n): "pending" for n in range(100)})
    clock.now = 10.0
    t.happened(Finished("p", 1, {"0": {}, "1": {}}), Pack("p", ("0", "1"), "s"))
    assert t.seconds_left() == pytest.approx(490.0)
    asked.clear()
    t.happened(Finished("q", 1, {"2": {}}), Pack("q", ("2",), "s"))
    clock.now = 15.0
    assert t.seconds_left() == pytest.approx(485.0)
    assert asked == ["2"]
    t.happened(Finished("q", 1, {"2": {}}), Pack("q", ("2",), "s"))
    assert t.seconds_left() == pytest.approx(485.0), "told twice, done once"


def test_plain_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(tally(clock))
    with display:
        display.started({"a": "finished", "b": "pending"}, 2)
        display.pack_started(Pack("p", ("b",), "s"), 2)
        clock.now = 60.0
        display.happened(Finished("p", 2, {"b": {"val_accuracy": 0.75}}))
        display.happened(Failed("p", 2, "error", "it broke"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "2 trials, 1 of them finished before; 2 workers",
        "pack p: 1 trial of B, attempt 2",
        "pack p finished; 2/2 trials, best val_accuracy 0.7500 (B)",
        "pack p failed (error): it broke",
    ]
