"""The controller against a real store; only the place where packs train is played by the test."""

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxcomp.errors import UserError
from flaxcomp.schedule.controller import Controller, Summary, acquire
from flaxcomp.schedule.heartbeat import beating
from flaxcomp.schedule.retention import Trimmer
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, Distill, Resources, Retention, Retry, Train, TrialConfig
from flaxcomp.sweep.trial import Trial
from flaxcomp.train.job import EpochDone, Event, Failed, Finished, PackJob, Stopped, Tick

SWEEP = b'{"version":1,"name":"n","base":{}}'
Script = Callable[[PackJob], list[Event]]


def done(job: PackJob) -> list[Event]:
    for trial in job.configs:
        model = RunPaths.at(job.root).model(trial)
        model.mkdir(parents=True, exist_ok=True)
        (model / "weights").write_bytes(b"w" * 1000)
    rows = [{"trial": t, "epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "learning_rate": 1e-3,
             "images_per_second": 1.0} for t in job.configs]  # fmt: skip
    results: dict[str, dict[str, Any]] = {t: {"params": 5, "test_accuracy": 0.5, "val_accuracy": 0.5} for t in job.configs}
    return [EpochDone(job.pack_id, job.attempt, rows), Finished(job.pack_id, job.attempt, results)]


def failing(kind: str) -> Script:
    return lambda job: [Failed(job.pack_id, job.attempt, kind, f"{kind}!")]


class Scripted:
    """An executor whose packs do what the test says."""

    def __init__(self, script: Script = done, slots: int = 2) -> None:
        self.slots, self.script = slots, script
        self.jobs: list[PackJob] = []
        self._events: deque[Event] = deque()
        self._busy: dict[str, PackJob] = {}
        self.hang = False

    @property
    def free(self) -> list[str]:
        return ["worker"] * (self.slots - len(self._busy))

    def start(self, job: PackJob) -> None:
        assert self.free, "more packs than slots"
        self.jobs.append(job)
        self._busy[job.pack_id] = job
        if not self.hang:
            self._events.extend(self.script(job))

    def events(self, timeout_s: float) -> list[Event]:
        if not self._events:
            return []
        event = self._events.popleft()
        if isinstance(event, Finished | Failed | Stopped):
            self._busy.pop(event.pack_id, None)
        return [event]

    def request_stop(self) -> None:
        self._events.extend(Stopped(job.pack_id, job.attempt) for job in self._busy.values())

    def close(self) -> None:
        pass


class Silent:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[Event] = []

    def started(self, statuses: dict[str, str], slots: int) -> None: ...
    def pack_started(self, pack: Pack, attempt: int) -> None: ...

    def happened(self, event: Event) -> None:
        self.seen.append(event)

    def said(self, text: str) -> None:
        self.lines.append(text)


def trials(n: int = 4, *, students: int = 0) -> list[Trial]:
    config = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v1"}, train=Train())
    made = [Trial(f"t{i}", config, (), "trial", "sig-a") for i in range(n)]
    student = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"}, distill=Distill(teacher="t0"))
    return made + [Trial(f"s{i}", student, ("t0",), "trial", "sig-b") for i in range(students)]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths.at(tmp_path / "a run's ünusual folder")


def run(
    paths: RunPaths,
    executor: Scripted,
    wanted: list[Trial],
    *,
    retry: Retry | None = None,
    pack: Any = "auto",
    prepare: Callable[[Controller], None] = lambda _: None,
    trimmer: Trimmer | None = None,
) -> tuple[Summary, Silent]:
    observer = Silent()
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = acquire(store)
        try:
            controller = Controller(store, paths, wanted, executor, observer, Resources(pack=pack), retry or Retry(), trimmer)
            prepare(controller)
            return controller.run(lease), observer
        finally:
            store.release(lease)


def test_everything_is_trained_once_in_even_packs(paths: RunPaths) -> None:
    executor = Scripted()
    summary, _ = run(paths, executor, trials(5))
    assert summary.count("finished") == 5
    assert sorted(len(job.configs) for job in executor.jobs) == [2, 3]
    assert sorted(t for job in executor.jobs for t in job.configs) == ["t0", "t1", "t2", "t3", "t4"]


def test_the_same_command_again_does_nothing(paths: RunPaths) -> None:
    run(paths, Scripted(), trials(3))
    again = Scripted()
    summary, _ = run(paths, again, trials(3))
    assert again.jobs == []
    assert summary.count("finished") == 3


def test_added_values_add_work_and_repeat_none(paths: RunPaths) -> None:
    run(paths, Scripted(), trials(3))
    more = Scripted()
    summary, _ = run(paths, more, trials(5))
    assert sorted(t for job in more.jobs for t in job.configs) == ["t3", "t4"]
    assert summary.count("finished") == 5


def test_students_wait_for_their_teacher_and_know_its_configuration(paths: RunPaths) -> None:
    executor = Scripted()
    run(paths, executor, trials(1, students=3))
    assert list(executor.jobs[0].configs) == ["t0"]
    assert executor.jobs[0].teaches == ("t0",)
    assert [set(job.teachers) for job in executor.jobs[1:]] == [{"t0"}] * len(executor.jobs[1:])
    assert sum(len(job.configs) for job in executor.jobs[1:]) == 3


def test_students_of_several_teachers_wait_for_all_of_them(paths: RunPaths) -> None:
    first, second, _ = trials(3)
    distill = Distill(teacher=("t0", "t1"))
    student = Trial("s", TrialConfig(dataset=first.config.dataset, model={"name": "simplenet_v5"}, distill=distill),
                    ("t0", "t1"), "trial", "sig-b")  # fmt: skip
    executor = Scripted()
    run(paths, executor, [first, second, student], pack=1)
    *teaching, last = executor.jobs
    assert [job.teaches for job in teaching] == [("t0",), ("t1",)]
    assert (list(last.configs), set(last.teachers)) == (["s"], {"t0", "t1"})


def test_students_of_a_failed_teacher_are_blocked_and_freed_by_retry(paths: RunPaths) -> None:
    summary, _ = run(paths, Scripted(failing("error")), trials(1, students=2))
    assert summary.statuses == {"t0": "failed", "s0": "blocked", "s1": "blocked"}
    with Store.open(paths) as store:
        lease = acquire(store)
        assert store.reset_failed(lease) == 3
        store.release(lease)
    summary, _ = run(paths, Scripted(), trials(1, students=2))
    assert summary.count("finished") == 3


def test_out_of_memory_halves_the_pack_down_to_one(paths: RunPaths) -> None:
    def script(job: PackJob) -> list[Event]:
        return failing("out_of_memory")(job) if len(job.configs) > 1 else done(job)

    executor = Scripted(script, slots=1)
    summary, _ = run(paths, executor, trials(4))
    assert summary.count("finished") == 4
    assert [len(job.configs) for job in executor.jobs] == [4, 2, 2, 1, 1, 1, 1]


def test_the_last_try_after_out_of_memory_is_alone(paths: RunPaths) -> None:
    def script(job: PackJob) -> list[Event]:
        paths.pack(job.pack_id).mkdir(parents=True)  # a checkpoint
        return failing("out_of_memory")(job) if len(job.configs) > 1 else done(job)

    executor = Scripted(script, slots=1)
    summary, _ = run(paths, executor, trials(8), retry=Retry(out_of_memory=2))
    assert summary.count("finished") == 8
    assert [len(job.configs) for job in executor.jobs] == [8, 4, 4, *[1] * 8]
    assert list(paths.pack("any").parent.iterdir()) == [], "checkpoints that nobody goes on from"


@pytest.mark.parametrize(("allowed", "sizes"), [(5, [4, 4]), (1, [1] * 8)])
def test_the_next_controller_remembers_that_memory_ran_out(paths: RunPaths, allowed: int, sizes: list[int]) -> None:
    def failing_then_stopped(job: PackJob) -> list[Event]:
        controllers[0].request_stop()
        return failing("out_of_memory")(job)

    controllers: list[Controller] = []
    first = Scripted(failing_then_stopped, slots=1)
    run(paths, first, trials(8), retry=Retry(out_of_memory=allowed), prepare=controllers.append)
    assert [len(job.configs) for job in first.jobs] == [8]
    second = Scripted(slots=1)
    summary, _ = run(paths, second, trials(8), retry=Retry(out_of_memory=allowed))
    assert [len(job.configs) for job in second.jobs] == sizes
    assert summary.count("finished") == 8


def test_out_of_memory_alone_fails_after_its_retries(paths: RunPaths) -> None:
    executor = Scripted(failing("out_of_memory"), slots=1)
    summary, _ = run(paths, executor, trials(1), retry=Retry(out_of_memory=2))
    assert summary.statuses == {"t0": "failed"}
    assert len(executor.jobs) == 3


def test_a_lost_worker_gets_the_same_pack_again(paths: RunPaths) -> None:
    def script(job: PackJob) -> list[Event]:
        return failing("lost")(job) if job.attempt == 1 else done(job)

    executor = Scripted(script)
    summary, _ = run(paths, executor, trials(4))
    assert summary.count("finished") == 4
    first, again = executor.jobs[:2], executor.jobs[2:]
    assert {(j.pack_id, tuple(j.configs)) for j in first} == {(j.pack_id, tuple(j.configs)) for j in again}
    assert {j.attempt for j in again} == {2}


def test_a_configurations_own_error_is_not_tried_again(paths: RunPaths) -> None:
    executor = Scripted(failing("error"))
    summary, _ = run(paths, executor, trials(2), pack=1)
    assert summary.count("failed") == 2
    assert len(executor.jobs) == 2
    with Store.open(paths) as store:
        assert [row["error"] for row in store.frame().failures] == ["error!", "error!"]


def test_late_events_of_an_attempt_that_was_given_up_are_not_recorded(paths: RunPaths) -> None:
    def script(job: PackJob) -> list[Event]:
        late = Finished(job.pack_id, job.attempt - 1, {t: {"test_accuracy": 0.99} for t in job.configs})
        return [late, *done(job)] if job.attempt == 2 else failing("lost")(job)

    run(paths, Scripted(script, slots=1), trials(1))
    with Store.open(paths) as store:
        assert store.frame().trials[0]["test_accuracy"] == 0.5


def test_stopping_leaves_packs_open_and_the_next_start_takes_the_same_ones(paths: RunPaths) -> None:
    executor = Scripted()
    executor.hang = True
    original = executor.start

    def start_then_stop(job: PackJob) -> None:
        original(job)
        if len(executor.jobs) == 2:
            controllers[0].request_stop()

    executor.start = start_then_stop  # type: ignore[method-assign]
    controllers: list[Controller] = []
    summary, _ = run(paths, executor, trials(4), prepare=controllers.append)
    assert summary.stopped
    assert summary.count("pending") == 4
    again = Scripted()
    run(paths, again, trials(4))
    assert {(j.pack_id, tuple(j.configs)) for j in again.jobs} == {(j.pack_id, tuple(j.configs)) for j in executor.jobs}


def test_a_stop_requested_through_the_store_is_seen(paths: RunPaths) -> None:
    executor = Scripted()
    executor.hang = True

    def ask(controller: Controller) -> None:
        controller.store.request_stop()

    summary, _ = run(paths, executor, trials(2), prepare=ask)
    assert summary.stopped


def test_a_full_disk_stops_the_run_and_loses_nothing(paths: RunPaths) -> None:
    summary, _ = run(paths, Scripted(failing("storage")), trials(2))
    assert summary.storage_error == "storage!"
    assert summary.count("pending") == 2
    assert run(paths, Scripted(), trials(2))[0].count("finished") == 2


def test_progress_that_is_only_shown_costs_no_transaction(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(job: PackJob) -> list[Event]:
        return [*(Tick(job.pack_id, job.attempt, i, 5, 1.0) for i in range(5)), *done(job)]

    opened: list[object] = []
    batch = Store.batch
    monkeypatch.setattr(Store, "batch", lambda self, lease: (opened.append(lease), batch(self, lease))[1])
    _, observer = run(paths, Scripted(script), trials(1))
    assert len(opened) == 3, "one for the start, one for the epoch, one for the results"
    assert [type(event) for event in observer.seen] == [*[Tick] * 5, EpochDone, Finished]


def test_a_second_controller_is_refused(paths: RunPaths) -> None:
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = acquire(store)
        with pytest.raises(UserError, match="process"):
            run(paths, Scripted(), trials(1))
        store.release(lease)


def test_epochs_are_recorded_once_even_if_told_twice(paths: RunPaths) -> None:
    run(paths, Scripted(lambda job: [done(job)[0], *done(job)]), trials(2))
    with Store.open(paths) as store:
        assert sorted((row["trial"], row["epoch"]) for row in store.frame().epochs) == [("t0", 1), ("t1", 1)]


def test_a_network_that_is_gone_and_still_needed_is_trained_again(paths: RunPaths) -> None:
    run(paths, Scripted(), trials(2))
    shutil.rmtree(paths.model("t0"))
    shutil.rmtree(paths.model("t1"))  # nobody needs this one
    executor = Scripted()
    summary, observer = run(paths, executor, trials(2, students=2))
    assert sorted(executor.jobs[0].configs) == ["t0"]
    assert sorted(t for job in executor.jobs for t in job.configs) == ["s0", "s1", "t0"]
    assert summary.count("finished") == 4
    assert "1 networks that others need are gone and are trained again" in observer.lines


def test_an_open_pack_waits_until_its_lost_teacher_is_back(paths: RunPaths) -> None:
    def stop_after_teacher(job: PackJob) -> list[Event]:
        return done(job) if "t0" in job.configs else [Stopped(job.pack_id, job.attempt)]

    stopping = Scripted(stop_after_teacher)
    run(paths, stopping, trials(1, students=2))
    shutil.rmtree(paths.model("t0"))
    executor = Scripted()
    summary, _ = run(paths, executor, trials(1, students=2))
    assert sorted(executor.jobs[0].configs) == ["t0"]
    assert {job.pack_id for job in executor.jobs[1:]} == {job.pack_id for job in stopping.jobs[1:]}, "the same packs again"
    assert summary.count("finished") == 3


def test_retention_removes_the_oldest_networks_that_nobody_needs(paths: RunPaths) -> None:
    size = 10_000_000  # the store's file and its log are small beside it

    def large(job: PackJob) -> list[Event]:
        events = done(job)
        for trial in job.configs:
            os.truncate(paths.model(trial) / "weights", size)
        return events

    trimmer = Trimmer(Retention(total="45 MB", keep=("front",)), paths, kept=lambda: ["t1", "t2"])
    _, observer = run(paths, Scripted(large, slots=1), trials(8), pack=1, trimmer=trimmer)
    left = {path.parent.name for path in paths.trials.glob("*/model")}
    assert left == {"t1", "t2", "t6", "t7"}, "the front, the export's choice, and the newest that there is room for"
    assert any(line.startswith("retention: the run folder holds") for line in observer.lines)


def test_retention_says_once_when_nothing_may_go(paths: RunPaths) -> None:
    spec = Retention(total="1 KiB", keep=("latest",))
    asked: list[None] = []
    trimmer = Trimmer(spec, paths, kept=lambda: asked.append(None) or [])  # type: ignore[func-returns-value]
    _, observer = run(paths, Scripted(slots=1), trials(4), pack=1, trimmer=trimmer)
    assert len(asked) == 1, "reads the whole run again although nothing has come that may go"
    assert sum("nothing is left that may be removed" in line for line in observer.lines) == 1
    assert len(list(paths.trials.glob("*/model"))) == 4


def test_what_failed_trials_need_stays(paths: RunPaths) -> None:
    def script(job: PackJob) -> list[Event]:
        return failing("error")(job) if "s0" in job.configs else done(job)

    trimmer = Trimmer(Retention(total="1 KiB", keep=()), paths, kept=list)
    summary, _ = run(paths, Scripted(script, slots=1), trials(1, students=2), pack=1, trimmer=trimmer)
    assert summary.statuses == {"t0": "finished", "s0": "failed", "s1": "finished"}
    assert {path.parent.name for path in paths.trials.glob("*/model")} == {"t0"}


def test_a_live_retry_trains_the_teacher_again_whose_network_is_gone(paths: RunPaths) -> None:
    controllers: list[Controller] = []

    def script(job: PackJob) -> list[Event]:
        if "s0" in job.configs and len(jobs) == 2:
            return failing("error")(job)
        if "s1" in job.configs:
            shutil.rmtree(paths.model("t0"))
            controllers[0].store.request_retry(["s0"])
        return done(job)

    def prepare(controller: Controller) -> None:
        controller.clock = iter(range(0, 100_000, 10)).__next__
        controllers.append(controller)

    executor = Scripted(script, slots=1)
    jobs = executor.jobs
    summary, _ = run(paths, executor, trials(1, students=2), pack=1, prepare=prepare)
    assert [list(job.configs) for job in jobs] == [["t0"], ["s0"], ["s1"], ["t0"], ["s0"]]
    assert summary.count("finished") == 3


def fill(paths: RunPaths, *parts: str) -> None:
    """Parts of finished trials: `t0/best`, `t0/model`, `t0/train_logits.f32`, each of 10 kB."""
    for part in parts:
        path = paths.trials / part
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            path.mkdir(parents=True)
            path = path / "weights"
        path.write_bytes(b"w" * 10_000)


def test_the_run_is_looked_at_again_only_when_something_may_go(paths: RunPaths) -> None:
    asked: list[None] = []
    fill(paths, "t0/model", "t0/train_logits.f32")
    trimmer = Trimmer(Retention(total=1, keep=("latest",)), paths, lambda: asked.append(None) or [])  # type: ignore[func-returns-value]
    said = trimmer.trim((), {"t0"})
    assert said is not None
    assert "nothing is left that may be removed" in said
    fill(paths, "t1/model")
    assert trimmer.trim(["t1"], {"t0"}) is None
    assert len(asked) == 1
    fill(paths, "t2/model", "t2/best")
    assert "after 1 files and networks of 9.8 KiB were removed" in (trimmer.trim(["t2"], {"t0"}) or "")
    assert len(asked) == 2
    assert "after 1 files and networks" in (trimmer.trim(["t3"], ()) or ""), (
        "the students have ended, their teacher's logits go"
    )
    assert not paths.teacher_logits("t0").exists()
    assert len(asked) == 3


def test_memos_of_teachers_that_nobody_needs_go_first(paths: RunPaths) -> None:
    fill(paths, "t0/model", "t0/memo/of-some-images", "t0/train_logits.f32")
    trimmer = Trimmer(Retention(total=25_000, keep=("latest",)), paths, list)
    assert trimmer.trim((), {"t0"}) is not None, "needed: nothing may go"
    trimmer.trim((), ())
    assert not paths.teacher_memos("t0").exists()
    assert paths.teacher_logits("t0").exists()


def test_heat_maps_go_when_nobody_starts_from_their_network_any_more(paths: RunPaths) -> None:
    fill(paths, "t0/model", "t0/heat_maps")
    trimmer = Trimmer(Retention(total=15_000, keep=("latest",)), paths, list)
    assert trimmer.trim((), {"t0"}) is not None, "needed: nothing may go"
    trimmer.trim((), ())
    assert not paths.heat_maps("t0").exists()
    assert paths.model("t0").exists()


def test_a_lease_lives_while_its_holder_is_busy_with_something_else(paths: RunPaths) -> None:
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = store.acquire(host="here", pid=1, ttl_s=0.3)
        with beating(store, lease, 0.05):
            time.sleep(0.6)
            with pytest.raises(UserError, match="A controller is at work"):
                store.acquire(host="there", pid=1)
        time.sleep(0.4)
        assert store.acquire(host="there", pid=1).fence == lease.fence + 1


def test_the_heartbeat_of_a_lost_lease_ends(paths: RunPaths) -> None:
    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = store.acquire(host="here", pid=1, ttl_s=0.0)
        time.sleep(0.01)
        other = store.acquire(host="there", pid=1)
        with beating(store, lease, 0.01):
            deadline = time.monotonic() + 10
            while any(thread.name == "heartbeat" for thread in threading.enumerate()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        store.renew(other)
