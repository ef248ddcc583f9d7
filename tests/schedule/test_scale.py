"""A trial costs the same in a run of many as in one of few: counted, not timed."""

import sys
from pathlib import Path
from typing import Any

import pytest

import flaxcomp
from flaxcomp.cli.progress import PlainDisplay, Tally
from flaxcomp.schedule.controller import Controller, acquire
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Dataset, Distill, Metric, Resources, TrialConfig
from flaxcomp.sweep.trial import Trial
from test_controller import SWEEP, Scripted, done, failing

SLOTS, STUDENTS = 4, 9  # of a teacher


def trials(count: int) -> list[Trial]:
    made = []
    for number in range(count // (1 + STUDENTS)):
        config = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v1"}, seed=number)
        made.append(Trial(f"t{number}", config, (), "dependency", "teachers"))
        for student in range(STUDENTS):
            config = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"}, seed=student,
                                 distill=Distill(teacher=f"t{number}"))  # fmt: skip
            made.append(Trial(f"s{number}-{student}", config, (f"t{number}",), "trial", "students"))
    return made


class Counts:
    """Calls of flaxcomp's own functions, and steps of SQLite's machine in hundreds."""

    def __init__(self) -> None:
        self.calls = self.steps = self.commits = 0
        self._inside = str(Path(flaxcomp.__file__).parent)

    def called(self, frame: Any, event: str, _argument: object) -> None:
        self.calls += event == "call" and frame.f_code.co_filename.startswith(self._inside)

    def stepped(self) -> int:
        self.steps += 1
        return 0


def cost(folder: Path, count: int, script: Any = done) -> Counts:
    """What it takes to train so many trials one by one, after the run has begun."""
    import sqlalchemy as sa

    counts, wanted, paths = Counts(), trials(count), RunPaths.at(folder / str(count))
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = acquire(store)
        display = PlainDisplay(Tally(Metric(name="val_accuracy", goal="maximize"), str.upper))
        controller = Controller(store, paths, wanted, Scripted(script, SLOTS), display, Resources(pack=1))
        begin = display.started

        def started(statuses: dict[str, str], slots: int) -> None:
            begin(statuses, slots)
            assert store._database is not None
            engine = store._database.engine
            with engine.connect() as connection:
                connection.connection.driver_connection.set_progress_handler(counts.stepped, 100)  # type: ignore[union-attr]
            sa.event.listen(engine, "commit", lambda _: setattr(counts, "commits", counts.commits + 1))
            sys.setprofile(counts.called)

        display.started = started  # type: ignore[method-assign]
        try:
            summary = controller.run(lease)
        finally:
            sys.setprofile(None)
        store.release(lease)
    assert len(summary.statuses) == count
    return counts


def fail_every_fifth(job: Any) -> Any:
    return failing("error")(job) if next(iter(job.configs.values())).seed == 4 and job.teachers else done(job)


@pytest.mark.parametrize("script", [done, fail_every_fifth])
def test_a_trial_costs_the_same_in_a_larger_run(tmp_path: Path, script: Any) -> None:
    few, many = cost(tmp_path, 40, script), cost(tmp_path, 400, script)
    assert many.calls < 11 * few.calls, "calls grow faster than the number of trials"
    assert many.steps < 13 * few.steps, "work in the store grows faster than the number of trials"
    assert many.commits < 11 * few.commits
