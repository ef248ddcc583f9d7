"""`flaxcomp stop` and `flaxcomp retry`: with a controller at work, and without."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli_runs import Done
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store

pytest_plugins = ("calling",)
Program = Callable[..., Done]


@pytest.fixture
def controller(run: Path) -> Iterator[tuple[Store, Lease]]:
    with Store.open(RunPaths.at(run)) as store:
        yield store, store.acquire(host=socket.gethostname(), pid=os.getpid())


def test_nobody_to_stop(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("stop", run)
    assert done == (0, "No controller is at work on this run.\n", "")
    with Store.open(RunPaths.at(run)) as store:
        assert not store.stop_requested()


def test_asking_to_stop(flaxcomp: Program, run: Path, controller: tuple[Store, Lease]) -> None:
    done = flaxcomp("stop", run)
    assert done.out.startswith(f"Asked process {os.getpid()} on {socket.gethostname()}, since ")
    assert controller[0].stop_requested()


def test_waiting_for_the_end(flaxcomp: Program, run: Path, controller: tuple[Store, Lease]) -> None:
    store, lease = controller

    def obey() -> None:
        while not store.stop_requested():
            time.sleep(0.05)
        store.release(lease)

    thread = threading.Thread(target=obey)
    thread.start()
    done = flaxcomp("stop", run, "--wait")
    thread.join()
    assert done.code == 0
    assert done.out.endswith("It has ended.\n")


def test_waiting_in_vain(flaxcomp: Program, run: Path, controller: tuple[Store, Lease]) -> None:
    done = flaxcomp("stop", run, "--timeout", "0.1")
    assert done.code == 2
    assert "has not ended within 0.1 s" in done.err


def test_retrying_at_rest(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("retry", run)
    assert done == (0, "2 trials are pending again; the next `flaxcomp run` takes them up.\n", "")
    with Store.open(RunPaths.at(run)) as store:
        assert {store.statuses()[id_] for id_ in ("bad", "student")} == {"pending"}
        assert store.controller() is None
    assert flaxcomp("retry", run).out == "No trial has failed.\n"


def test_retrying_what_a_blocked_trial_waits_for(flaxcomp: Program, run: Path) -> None:
    assert flaxcomp("retry", run, "--trial", "student").out.startswith("2 trials are pending again")


def test_retrying_through_a_controller(flaxcomp: Program, run: Path, controller: tuple[Store, Lease]) -> None:
    store, lease = controller
    done = flaxcomp("retry", run, "--trial", "bad")
    assert done.out.startswith(f"Asked process {os.getpid()} on ")
    assert store.statuses()["bad"] == "failed"
    assert store.retry_requested()
    assert store.apply_retries(lease) == 2


def test_a_finished_trial_whose_network_is_gone_is_trained_again(flaxcomp: Program, run: Path) -> None:
    done = flaxcomp("retry", run, "--trial", "t0", "--trial", "ba")
    assert done.out == "3 trials are pending again; the next `flaxcomp run` takes them up.\n"
    with Store.open(RunPaths.at(run)) as store:
        assert {id_ for id_, status in store.statuses().items() if status == "pending"} == {"t0", "bad", "student", "later"}


def test_a_network_is_not_asked_for_again_from_a_controller(
    flaxcomp: Program, run: Path, controller: tuple[Store, Lease]
) -> None:
    done = flaxcomp("retry", run, "--trial", "t0")
    assert done.code == 2
    assert "The removed networks of t0 can be asked for when no controller is at work" in done.err
    assert not controller[0].retry_requested()


@pytest.mark.parametrize(
    ("trial", "error"),
    [
        ("baad", "No trial 'baad' in this run: `flaxcomp results RUN` lists all."),
        ("t", "Several ids begin with 't': t0, t1, t2, t3. Give more of one."),
        ("t0", "Only failed and blocked trials can be tried again, trial t0 is finished."),
    ],
)
def test_what_cannot_be_retried(flaxcomp: Program, run: Path, trial: str, error: str) -> None:
    RunPaths.at(run).model("t0").mkdir(parents=True)
    assert flaxcomp("retry", run, "--trial", trial) == (2, "", f"error: {error}\n")
