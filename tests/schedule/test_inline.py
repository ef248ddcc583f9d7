"""The executor of one process."""

from pathlib import Path

import pytest

from flaxcomp.schedule.inline import InlineExecutor
from flaxcomp.schedule.worker import Worker
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.train.job import Event, Failed, Finished, PackJob, Stopped, Tick


def make_job(name: str) -> PackJob:
    config = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"})
    return PackJob("run", name, 1, "signature", {name: config})


def wait_for_the_end(executor: InlineExecutor) -> list[Event]:
    found: list[Event] = []
    for _ in range(100):
        found += executor.events(0.1)
        if found and isinstance(found[-1], Finished | Stopped | Failed):
            return found
    pytest.fail(f"no end: {found}")


def test_one_pack_at_a_time_and_free_as_soon_as_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Worker, job: PackJob) -> list[Event]:
        return [Tick(job.pack_id, 1, 1, 1, 1.0), Finished(job.pack_id, 1, {})]

    monkeypatch.setattr(Worker, "run", run)
    executor = InlineExecutor()
    for name in ("a", "b"):
        assert len(executor.free) == 1
        executor.start(make_job(name))
        events = wait_for_the_end(executor)
        assert [(type(event), event.pack_id) for event in events] == [(Tick, name), (Finished, name)]
        assert len(executor.free) == 1
    assert executor.events(0.01) == []
    executor.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_a_lost_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Worker, job: PackJob) -> list[Event]:
        raise SystemExit(3)

    monkeypatch.setattr(Worker, "run", run)
    executor = InlineExecutor()
    executor.start(make_job("a"))
    (failed,) = wait_for_the_end(executor)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.error) == ("lost", "SystemExit: 3")
    assert len(executor.free) == 1


def test_closing_waits_for_the_checkpoint(tmp_path: Path) -> None:
    executor = InlineExecutor()
    executor.start(PackJob(str(tmp_path), "a", 1, "signature", make_job("a").configs))
    executor.close()
    assert isinstance(wait_for_the_end(executor)[-1], Stopped)
    assert (tmp_path / "packs" / "a" / "1").is_dir()
