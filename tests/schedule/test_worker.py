"""A warm worker: what it keeps, how it stops, and what it calls the errors that end an attempt."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.schedule.worker import Worker, kind_of
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Distill, Train, TrialConfig
from flaxcomp.train import runtime
from flaxcomp.train.job import Event, Failed, Finished, PackJob, Stopped
from flaxcomp.train.pack import Trainer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("shapes do not fit"), "error"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes."), "out_of_memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "storage"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "storage"),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']"), "storage"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "storage"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), "error"),
        (UserError("the trained network cannot be read"), "error"),
    ],
)
def test_failures_are_told_apart(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    full = load("mnist_sample")
    return Arrays(full.train_images[:80], full.train_labels[:80], full.test_images[:50], full.test_labels[:50], full.info)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(runtime, "configure", lambda **_: None)  # this process has the tests' own cache
    return Worker()


def make_job(root: Path, attempt: int = 1, *, distill: Distill | None = None) -> PackJob:
    config = TrialConfig(
        dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"}, train=Train(batch_size=32), distill=distill
    )
    return PackJob(str(root), "pack", attempt, signature(config), {"t": config}, {"gone": config} if distill else {})


def test_it_stays_warm_between_packs(worker: Worker, arrays: Arrays, tmp_path: Path) -> None:
    assert isinstance(list(worker.run(make_job(tmp_path), arrays))[-1], Finished)
    kept = worker._trainers["mnist_sample"]
    assert isinstance(list(worker.run(make_job(tmp_path, 2), arrays))[-1], Finished)
    assert worker._trainers == {"mnist_sample": kept}


def test_a_stop_asked_for_is_kept_in_mind(worker: Worker, arrays: Arrays, tmp_path: Path) -> None:
    worker.request_stop()
    for attempt in (1, 2):
        assert list(worker.run(make_job(tmp_path, attempt), arrays)) == [Stopped("pack", attempt)]


def test_a_users_error_is_told_in_its_own_words_and_leaves_nothing_behind(
    worker: Worker, arrays: Arrays, tmp_path: Path
) -> None:
    (failed,) = worker.run(make_job(tmp_path, 3, distill=Distill(teacher="gone")), arrays)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.attempt) == ("error", 3)
    assert failed.error.startswith(str(tmp_path))
    assert failed.error.endswith("Has its trial finished, or has the sweep's `retention` removed it?")
    assert "Traceback" in failed.detail
    assert worker._trainers == {}
    assert isinstance(list(worker.run(make_job(tmp_path), arrays))[-1], Finished)


def test_any_other_error_is_told_with_its_class_and_one_line(
    worker: Worker, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: Trainer, *_: object) -> Iterator[Event]:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte\nand a long story")
        yield

    monkeypatch.setattr(Trainer, "train", train)
    (failed,) = worker.run(make_job(tmp_path), arrays)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.error) == (
        "out_of_memory",
        "RuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 1 byte",
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_a_worker_given_a_gpu_does_not_train_on_the_cpu(arrays: Arrays, tmp_path: Path) -> None:
    (failed,) = Worker(accelerator=True).run(make_job(tmp_path), arrays)
    assert isinstance(failed, Failed)
    assert "install flaxcomp[gpu]" in failed.error
