"""Early stopping in the controller, against a real store; only the training itself is played by the test."""

import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flaxcomp.schedule.controller import Controller, Summary, acquire
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, Distill, Resources, Retry, Train, TrialConfig
from flaxcomp.sweep.stopping import EarlyStop
from flaxcomp.sweep.trial import Trial
from flaxcomp.train.job import EpochDone, Event, Failed, Finished, PackJob, Paused, Stopped

SWEEP = b'{"version":1,"name":"n","base":{}}'
EPOCHS = 9
ASHA = EarlyStop(name="asha", grace_epochs=1, factor=3)  # rungs 1, 3


class KilledError(Exception):
    """What a SIGKILL leaves behind is what was committed before."""


def quality(trial: str, epoch: int) -> float:
    """A curve for every trial: t7 is better than t6, and so on; all grow."""
    return int(trial[1:]) / 100 + epoch / 1000


class Played:
    """An executor whose packs record their curves and whose events come in any order; perhaps it is killed on the way."""

    def __init__(self, slots: int = 1, seed: int = 0, kill_after: int | None = None) -> None:
        self.slots, self._random, self._left = slots, random.Random(seed), kill_after
        self.jobs: list[PackJob] = []
        self._busy: dict[str, deque[Event]] = {}
        self.fail: dict[str, str] = {}  # by trial: how its pack fails, once

    @property
    def free(self) -> list[str]:
        return ["worker"] * (self.slots - len(self._busy))

    def start(self, job: PackJob) -> None:
        self.jobs.append(job)
        self._busy[job.pack_id] = deque(self._training(job))

    def _training(self, job: PackJob) -> list[Event]:
        for trial in job.configs:
            if kind := self.fail.pop(trial, None):
                return [Failed(job.pack_id, job.attempt, kind, f"{kind}!")]  # type: ignore[arg-type]
        end = job.pause_at or EPOCHS
        events: list[Event] = [
            EpochDone(job.pack_id, job.attempt, [{"trial": t, "epoch": e, "val_accuracy": quality(t, e)} for t in job.configs])
            for e in range(job.origin_epoch + 1, end + 1)
        ]
        results: dict[str, dict[str, Any]] = {t: {"params": 5, "val_accuracy": quality(t, end)} for t in job.configs}
        for trial in job.configs:
            if end == EPOCHS:
                RunPaths.at(job.root).model(trial).mkdir(parents=True, exist_ok=True)
        last = Paused(job.pack_id, job.attempt, end, results) if job.pause_at else Finished(job.pack_id, job.attempt, results)
        RunPaths.at(job.root).pack(job.pack_id).mkdir(parents=True, exist_ok=True)
        return [*events, last]

    def events(self, timeout_s: float) -> list[Event]:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KilledError
        if not self._busy:
            return []
        pack = self._random.choice(sorted(self._busy))
        event = self._busy[pack].popleft()
        if isinstance(event, Finished | Stopped | Failed):
            del self._busy[pack]
        return [event]

    def request_stop(self) -> None:
        for pack, (event, *_) in self._busy.items():
            self._busy[pack] = deque([Stopped(event.pack_id, event.attempt)])

    def close(self) -> None: ...


class Silent:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, statuses: dict[str, str], slots: int) -> None: ...
    def pack_started(self, pack: Pack, attempt: int) -> None: ...
    def happened(self, event: Event) -> None: ...
    def stopped(self, trials: Any) -> None: ...
    def added(self, statuses: dict[str, str]) -> None: ...

    def said(self, text: str) -> None:
        self.lines.append(text)


def config(**changes: Any) -> TrialConfig:
    return TrialConfig(
        dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v1"}, train=Train(epochs=EPOCHS), **changes
    )


def trials(n: int, first: int = 0) -> list[Trial]:
    return [Trial(f"t{i:02}", config(seed=i), (), "trial", "sig") for i in range(first, first + n)]


def run(
    paths: RunPaths, executor: Played, wanted: list[Trial], rule: EarlyStop | None = ASHA, *, pack: Any = "auto",
    retry: Retry | None = None,
) -> tuple[Summary, Silent]:  # fmt: skip
    observer = Silent()
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = acquire(store)
        try:
            chief = Controller(
                store, paths, wanted, executor, observer, Resources(pack=pack), retry or Retry(), early_stop=rule
            )
            return chief.run(lease), observer
        finally:
            store.release(lease)


def verdicts(paths: RunPaths) -> dict[tuple[str, int], bool | None]:
    with Store.open(paths) as store:
        return {(row["trial_id"], row["epoch"]): row["goes_on"] for row in store.rungs()}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths.at(tmp_path / "run")


def test_the_best_third_goes_on_at_each_rung(paths: RunPaths) -> None:
    executor = Played()
    summary, observer = run(paths, executor, trials(9))
    assert [list(job.configs) for job in executor.jobs] == [[f"t{i:02}" for i in range(9)], ["t06", "t07", "t08"], ["t08"]]
    assert [(job.origin_epoch, job.pause_at) for job in executor.jobs] == [(0, 1), (1, 3), (3, None)]
    assert summary.statuses == {f"t{i:02}": "stopped" for i in range(8)} | {"t08": "finished"}
    assert verdicts(paths) == {
        **{(f"t{i:02}", 1): i >= 6 for i in range(9)}, ("t06", 3): False, ("t07", 3): False, ("t08", 3): True,
    }  # fmt: skip
    assert observer.lines == [
        "early stopping after epoch 1: 3 of 9 trials go on",
        "early stopping after epoch 3: 1 of 3 trials go on",
    ]
    assert list(paths.pack("any").parent.iterdir()) == [], "checkpoints that nobody goes on from"


def test_survivors_of_several_packs_fill_new_ones_and_know_where_they_come_from(paths: RunPaths) -> None:
    executor = Played()
    run(paths, executor, trials(12), pack=4)
    first, second = executor.jobs[:3], executor.jobs[3]
    assert [len(job.configs) for job in first] == [4, 4, 4]
    assert list(second.configs) == ["t08", "t09", "t10", "t11"]
    assert second.origins == dict.fromkeys(second.configs, first[2].pack_id)
    mixed = Played()
    reordered = [trial for start in range(4) for trial in trials(12)[start::4]]  # good and bad in each pack
    other = RunPaths.at(paths.root.parent / "other")
    run(other, mixed, reordered, pack=4)
    assert sorted(mixed.jobs[3].configs) == sorted(second.configs)
    assert len(set(mixed.jobs[3].origins.values())) == 3
    assert verdicts(other) == verdicts(paths), "packs decide nothing"


def test_what_a_stopped_trial_had_reached_is_kept(paths: RunPaths) -> None:
    run(paths, Played(), trials(9))
    with Store.open(paths) as store:
        frame = store.frame()
        rows = {row["trial"]: row for row in frame.trials}
        assert (rows["t07"]["status"], rows["t07"]["val_accuracy"]) == ("stopped", quality("t07", 3))
        assert [row["epoch"] for row in frame.epochs if row["trial"] == "t07"] == [1, 2, 3]
        assert store.counts() == {"pending": 0, "running": 0, "finished": 1, "stopped": 8, "failed": 0, "blocked": 0}
        best = store.best("val_accuracy", largest=False)
        assert best is not None
        assert best["trial"] == "t08", "the only one that finished, though others are smaller"


def test_the_same_command_again_restarts_nothing(paths: RunPaths) -> None:
    run(paths, Played(), trials(9))
    with Store.open(paths) as store:
        lease = acquire(store)
        assert store.reset_failed(lease) == 0, "stopped is not failed"
        store.release(lease)
    again = Played()
    summary, _ = run(paths, again, trials(9))
    assert again.jobs == []
    assert summary.count("stopped") == 8


def test_a_rung_waits_for_the_slowest_pack_and_for_failed_ones_no_more(paths: RunPaths) -> None:
    executor = Played(slots=2, seed=3)
    executor.fail = {"t11": "error"}  # of the best pack
    summary, _ = run(paths, executor, trials(12), pack=4)
    assert [t for t, status in summary.statuses.items() if status == "failed"] == ["t09", "t10", "t11"]
    assert [t for t, status in summary.statuses.items() if status == "finished"] == ["t08"], "of the nine that came"
    assert sum(verdict is not None for (_, epoch), verdict in verdicts(paths).items() if epoch == 1) == 9


def test_a_trial_that_comes_late_is_ranked_among_those_before_and_changes_no_decision(paths: RunPaths) -> None:
    run(paths, Played(), trials(9))
    before = verdicts(paths)
    late = Played()
    summary, _ = run(paths, late, [*trials(9), *trials(2, first=9), *trials(1, first=-1)][:11])
    assert list(late.jobs[0].configs) == ["t09", "t10"]
    after = verdicts(paths)
    assert {key: after[key] for key in before} == before
    # After epoch 1: ceil(11 / 3) = 4 of 11 go on, both are among them; after epoch 3: ceil(5 / 3) = 2 of 5.
    assert {trial for (trial, epoch), goes_on in after.items() if epoch == 3 and goes_on} == {"t08", "t09", "t10"}
    assert summary.count("finished") == 3


def test_teachers_and_networks_of_another_kind_are_not_compared(paths: RunPaths) -> None:
    teacher = Trial("t00", config(), (), "trial", "sig")  # a trial of the sweep that others learn from
    other = config(seed=1)
    small = Trial(
        "t01", TrialConfig(dataset=other.dataset, model={"name": "simplenet_v5"}, train=other.train), (), "trial", "small"
    )
    students = [Trial(f"t{i:02}", config(seed=i, distill=Distill(teacher="t00")), ("t00",), "trial", "student") for i in (2, 3)]
    executor = Played()
    summary, _ = run(paths, executor, [teacher, small, *students])
    assert summary.statuses == {"t00": "finished", "t01": "finished", "t02": "stopped", "t03": "finished"}
    assert next(job for job in executor.jobs if "t00" in job.configs).pause_at is None
    everybody = RunPaths.at(paths.root.parent / "together")
    summary, _ = run(everybody, Played(), [teacher, small, *students], EarlyStop(name="asha", compare="sweep"))
    assert summary.statuses == {"t00": "finished", "t01": "stopped", "t02": "stopped", "t03": "finished"}


def test_a_stopped_trial_that_becomes_a_teacher_is_trained_after_all(paths: RunPaths) -> None:
    run(paths, Played(), trials(3))
    student = Trial("t50", config(seed=50, distill=Distill(teacher="t00")), ("t00",), "trial", "student")
    summary, _ = run(paths, Played(), [*trials(3), student])
    assert summary.statuses == {"t00": "finished", "t01": "stopped", "t02": "finished", "t50": "finished"}


def test_out_of_memory_after_a_rung_goes_on_from_it_in_smaller_packs(paths: RunPaths) -> None:
    executor = Played()
    run_before = executor.start

    def start(job: PackJob) -> None:
        if job.origin_epoch == 1 and len(job.configs) > 2:
            executor.fail = {next(iter(job.configs)): "out_of_memory"}
        run_before(job)

    executor.start = start  # type: ignore[method-assign]
    summary, _ = run(paths, executor, trials(12))
    first = executor.jobs[0].pack_id
    halves = [job for job in executor.jobs if job.origin_epoch == 1 and len(job.configs) == 2]
    assert [set(job.origins.values()) for job in halves] == [{first}, {first}]
    assert summary.count("finished") == 2, "ceil(4 / 3)"


def test_smaller_packs_find_the_checkpoint_that_a_pack_left_which_went_on_as_a_whole(paths: RunPaths) -> None:
    """The best four are one pack, whose identity does not change, so that its folder is what it goes on from."""
    executor, found = Played(), []
    run_before = executor.start

    def start(job: PackJob) -> None:
        if job.origin_epoch == 1:
            found.append([RunPaths.at(job.root).pack(origin).is_dir() for origin in set(job.origins.values())])
            if len(job.configs) > 2:
                executor.fail = {next(iter(job.configs)): "out_of_memory"}
        run_before(job)

    executor.start = start  # type: ignore[method-assign]
    run(paths, executor, trials(12), pack=4)
    assert [len(job.configs) for job in executor.jobs if job.origin_epoch == 1] == [4, 2, 2]
    assert found == [[True]] * 3
    assert not any((paths.root / "packs").iterdir()), "and in the end it is gone"


def test_without_the_rule_what_has_paused_goes_on_to_its_end(paths: RunPaths) -> None:
    with pytest.raises(KilledError):
        run(paths, Played(kill_after=3), trials(9), pack=3)  # the first pack waits at its rung
    summary, _ = run(paths, after := Played(), trials(9), rule=None, pack=3)
    assert summary.count("finished") == 9
    assert {job.origin_epoch for job in after.jobs} == {0, 1}


def test_median_stops_those_below_it(paths: RunPaths) -> None:
    rule = EarlyStop(name="median", grace_epochs=2, every_epochs=3)  # rungs 2, 5, 8
    executor = Played()
    summary, _ = run(paths, executor, trials(6), rule)
    assert [(job.origin_epoch, job.pause_at) for job in executor.jobs] == [(0, 2), (2, 5), (5, 8), (8, None)]
    assert [t for t, status in summary.statuses.items() if status == "finished"] == ["t03", "t04", "t05"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pack=st.integers(1, 8), slots=st.integers(1, 3), seed=st.integers(0, 1000),
    kills=st.lists(st.integers(0, 25), max_size=4), count=st.integers(2, 10),
)  # fmt: skip
def test_no_decision_depends_on_arrival_packs_workers_or_kills(
    tmp_path_factory: pytest.TempPathFactory, pack: int, slots: int, seed: int, kills: list[int], count: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    plain, other = RunPaths.at(folder / "plain"), RunPaths.at(folder / "other")
    run(plain, Played(), trials(count))
    for number, kill_after in enumerate(kills):
        try:
            run(other, Played(slots, seed + number, kill_after), trials(count), pack=pack)
        except KilledError:
            known = {key: verdict for key, verdict in verdicts(other).items() if verdict is not None}
            assert known.items() <= verdicts(plain).items()
    summary, _ = run(other, Played(slots, seed - 1), trials(count), pack=pack)
    assert verdicts(other) == verdicts(plain)
    assert summary.count("pending") == 0
    assert list(other.pack("any").parent.glob("*")) == []
