"""Workers under a real Ray on this machine: two packs at once, killed, failing, stopped and homeless workers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.errors import UserError
from flaxcomp.schedule import ray_executor
from flaxcomp.schedule.ray_executor import RayExecutor, count_workers, worker_environment
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Distill, Resources, Train, TrialConfig
from flaxcomp.train.job import Event, Failed, Finished, PackJob, Stopped, Tick

# Numbers, no cluster.


@pytest.mark.parametrize(("resources", "nodes", "count"), [
    (Resources(), [{"CPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}, {}], 4),
    (Resources(cpu=2.0), [{"CPU": 3.0}, {"CPU": 3.0}], 2),
    (Resources(cpu=0.5), [{"CPU": 2.0}], 4),
    (Resources(workers=3), [{"CPU": 8.0}], 3),
    (Resources(workers=30), [{"CPU": 8.0}], 8),
    (Resources(gpu=0.5, cpu=2.0), [{"CPU": 16.0, "GPU": 2.0}], 4),
    (Resources(gpu=1.0), [{"CPU": 2.0, "GPU": 8.0}], 2),
])  # fmt: skip
def test_as_many_workers_as_the_nodes_have_room_for(resources: Resources, nodes: list[dict[str, float]], count: int) -> None:
    assert count_workers(resources, nodes) == count


@pytest.mark.parametrize("resources", [Resources(cpu=3.0), Resources(gpu=1.0)])
def test_a_worker_that_fits_on_no_node_is_refused_and_does_not_wait_for_ever(resources: Resources) -> None:
    with pytest.raises(UserError, match="the largest node of the Ray cluster has 2 and 0"):
        count_workers(resources, [{"CPU": 2.0}, {"CPU": 2.0}])


@pytest.mark.parametrize(("resources", "workers", "cpus", "threads"), [
    (Resources(), 2, [2.0], "2"), (Resources(), 64, [64.0], "2"), (Resources(cpu=8.0), 8, [64.0], "16"),
    (Resources(workers=1), 1, [64.0], "64"), (Resources(workers=4), 4, [8.0, 8.0], "4"),
    (Resources(workers=1), 1, [8.0, 8.0], "8"),
])  # fmt: skip
def test_workers_do_not_start_a_thread_for_every_core_each(
    resources: Resources, workers: int, cpus: list[float], threads: str
) -> None:
    environment = worker_environment(resources, workers, [{"CPU": cpu} for cpu in cpus])
    assert environment == {"NPROC": threads, "JAX_PLATFORMS": "cpu"}


def test_a_ray_client_address_is_refused() -> None:
    with pytest.raises(UserError, match="auto or HOST:PORT, got ray://head:10001"):
        RayExecutor(Resources(), "ray://head:10001")


def test_memory_that_ray_saw_running_out_is_no_lost_worker() -> None:
    assert ray_executor._kind_of(ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory")) == (
        "out_of_memory"
    )
    assert ray_executor._kind_of(ray.exceptions.WorkerCrashedError()) == "lost"


# A cluster of this machine.


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    """Three workers where there is room for two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody answers there
        patch.setattr(ray_executor, "count_workers", lambda *_: 3)
        executor = RayExecutor(Resources(cpu=(os.cpu_count() or 1) / 2))
    yield executor
    executor.close()


@pytest.fixture
def warm(executor: RayExecutor) -> RayExecutor:
    wait_for(lambda: len(executor.free) == 2)
    return executor


def make_job(root: Path, name: str, *, epochs: int = 1, teacher: str | None = None) -> PackJob:
    config = TrialConfig(
        dataset=Dataset(name="mnist_sample", train_limit=200), model={"name": "simplenet_v5"},
        train=Train(epochs=epochs, batch_size=32), distill=Distill(teacher=teacher) if teacher else None,
    )  # fmt: skip
    teachers = {teacher: config} if teacher else {}
    return PackJob(str(root), name, 1, signature(config), {name: config}, teachers)


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def events_until(executor: RayExecutor, last: Callable[[Event], bool], seconds: float = 120) -> list[Event]:
    found: list[Event] = []
    deadline = time.monotonic() + seconds
    while not any(map(last, found)):
        assert time.monotonic() < deadline, found
        found += executor.events(0.2)
    return found


def ended(event: Event) -> bool:
    return isinstance(event, Finished | Failed | Stopped)


def process_of(executor: RayExecutor, pack: str) -> int:
    slot = next(slot for slot in executor._slots if slot.job is not None and slot.job.pack_id == pack)
    pid: int = ray.get(slot.actor.__ray_call__.remote(lambda _: os.getpid()))
    return pid


@pytest.mark.integration
def test_two_packs_train_at_once_and_a_worker_without_room_is_given_none(warm: RayExecutor, tmp_path: Path) -> None:
    assert warm.slots == 3
    warm.start(make_job(tmp_path, "long", epochs=100_000))
    first = events_until(warm, lambda event: isinstance(event, Tick))
    assert len(warm.free) == 1
    warm.start(make_job(tmp_path, "short"))
    assert len(warm.free) == 0
    both = events_until(warm, ended)
    finished = next(event for event in both if ended(event))
    assert isinstance(finished, Finished)
    assert finished.pack_id == "short"
    assert set(finished.results) == {"short"}
    assert {event.pack_id for event in first} == {"long"}
    assert any(event.pack_id == "long" for event in both), "the other one went on meanwhile"
    assert len(warm.free) == 1, "free as soon as the end is known"

    os.kill(process_of(warm, "long"), signal.SIGKILL)
    lost = events_until(warm, ended)[-1]
    assert isinstance(lost, Failed)
    assert (lost.kind, lost.pack_id, lost.attempt) == ("lost", "long", 1)
    assert "worker process has died" in lost.error
    assert "\n" not in lost.error
    wait_for(lambda: len(warm.free) == 2)
    warm.start(make_job(tmp_path, "after"))
    assert isinstance(events_until(warm, ended)[-1], Finished)


@pytest.mark.integration
def test_an_error_is_told_and_its_worker_replaced(warm: RayExecutor, tmp_path: Path) -> None:
    actors = [slot.actor for slot in warm._slots]
    warm.start(make_job(tmp_path, "pupil", teacher="nobody"))
    (failed,) = events_until(warm, ended)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.pack_id) == ("error", "pupil")
    assert "Has its trial finished" in failed.error
    assert sum(slot.actor in actors for slot in warm._slots) == 2


@pytest.mark.integration
def test_stopping_leaves_a_checkpoint(warm: RayExecutor, tmp_path: Path) -> None:
    """The last test: after it no pack may be started."""
    warm.start(make_job(tmp_path, "stopping", epochs=100_000))
    events_until(warm, lambda event: isinstance(event, Tick) and event.images_done > 1000)
    warm.request_stop()
    assert isinstance(events_until(warm, ended)[-1], Stopped)
    with PackCheckpoints(RunPaths.at(tmp_path).pack("stopping"), 2) as checkpoints:
        found = checkpoints.restore(pytest.fail)
    assert found is not None
    assert found[2]["epoch"] > 1
