"""One controller at a time, and nothing from one that was superseded; in SQLite and in PostgreSQL alike."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from flaxcomp.errors import UserError
from flaxcomp.store.lease import Lease, LeaseLostError, process_identity
from flaxcomp.store.records import Store
from run_stores import SWEEP_JSON, Pack, Runs, trial

pytest_plugins = ("store_fixtures",)

HERE = socket.gethostname()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_controller_is_refused_and_told_who_is_first(runs: Runs) -> None:
    runs.create().acquire(host="node7", pid=4242)
    with pytest.raises(UserError, match=r"process 4242 on node7, since 1970-01-1\d \d\d:\d\d:\d\d"):
        runs.create().acquire(host=HERE, pid=os.getpid())


def test_the_same_process_is_a_second_controller_too(runs: Runs) -> None:
    store = runs.create()
    store.acquire(host=HERE, pid=os.getpid())
    with pytest.raises(UserError, match=f"process {os.getpid()} on {HERE}"):
        store.acquire(host=HERE, pid=os.getpid())


def test_a_released_lease_is_free_and_worthless(runs: Runs) -> None:
    store = runs.create()
    first = store.acquire(host="a", pid=1)
    store.release(first)
    with pytest.raises(LeaseLostError):
        store.log_event(first, "x", "y")
    assert store.acquire(host="b", pid=2).fence == first.fence + 1


def test_on_the_same_host_a_dead_controller_is_superseded_at_once(runs: Runs) -> None:
    runs.create().acquire(host=HERE, pid=dead_pid())
    assert runs.create().acquire(host=HERE, pid=os.getpid()).fence == 2


def test_a_recycled_process_number_is_not_the_owner(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    store = runs.create()
    with monkeypatch.context() as patch:
        patch.setattr("flaxcomp.store.lease_statements.process_identity", lambda _: "an earlier process")
        store.acquire(host=HERE, pid=os.getpid())
    assert store.acquire(host=HERE, pid=os.getpid()).fence == 2


def test_elsewhere_a_silent_controller_is_superseded_after_its_time(runs: Runs) -> None:
    store, second = runs.create(), runs.create()
    lease = store.acquire(host="far", pid=1, ttl_s=30)
    runs.clock.now += 29
    store.renew(lease)
    runs.clock.now += 30
    with pytest.raises(UserError, match="process 1 on far"):
        second.acquire(host=HERE, pid=os.getpid())
    runs.clock.now += 0.1
    assert second.acquire(host=HERE, pid=os.getpid()).fence == 2
    owner = second.owner()
    assert owner is not None
    assert (owner.host, owner.pid, owner.active_s) == (HERE, os.getpid(), 29)


def test_every_write_is_a_heartbeat(runs: Runs) -> None:
    store = runs.create()
    lease = store.acquire(host="far", pid=1, ttl_s=30)
    runs.clock.now += 20
    store.log_event(lease, "a", "b")
    runs.clock.now += 20
    with pytest.raises(UserError, match="A controller is at work"):
        store.acquire(host=HERE, pid=1)


def writes(store: Store, lease: Lease) -> list[Callable[[], object]]:
    figure = {"trial": "a", "artifact": "x", "precision": "int8"}
    return [
        lambda: store.renew(lease),
        lambda: store.add_trials(lease, [trial("c")]),
        lambda: store.set_model_facts(lease, "a", 1, 1, 1),
        lambda: store.reset_failed(lease),
        lambda: store.form_packs(lease, [Pack("r", ("a",))]),
        lambda: store.start_pack(lease, "q", "w"),
        lambda: store.progress(lease, "p", 1, [{"trial": "a", "epoch": 1}]),
        lambda: store.finish_pack(lease, "p", 1, {"a": {}}),
        lambda: store.fail_pack(lease, "p", 1, kind="error", error="", statuses={"a": "failed"}),
        lambda: store.interrupt_pack(lease, "p", 1),
        lambda: store.close_pack(lease, "q"),
        lambda: store.add_artifact(lease, {**figure, "format": "tflite"}),
        lambda: store.add_measurement(lease, {**figure, "device": "d", "protocol": "quick"}),
        lambda: store.log_event(lease, "a", "b"),
        lambda: store.update_sweep(lease, sweep_text="", sweep_json=SWEEP_JSON),
        lambda: store.apply_retries(lease),
        lambda: store.release(lease),
        lambda: store.batch(lease).__enter__(),
    ]


def test_a_superseded_controller_writes_nothing(runs: Runs) -> None:
    store = runs.create()
    lease = store.acquire(host=HERE, pid=dead_pid())
    store.add_trials(lease, [trial("a"), trial("b")])
    store.form_packs(lease, [Pack("p", ("a",)), Pack("q", ("b",))])
    store.start_pack(lease, "p", "w")
    second = runs.create()
    second.acquire(host=HERE, pid=os.getpid())
    before, owner = second.frame(), second.owner()
    for write in writes(store, lease):
        with pytest.raises(LeaseLostError, match=f"process {os.getpid()} on {HERE}"):
            write()
    assert second.frame() == before
    assert second.owner() == owner
    assert [pack.status for pack in second.open_packs()] == ["open", "open"]


@pytest.mark.parametrize("end", ["dies", "releases"])
def test_packs_left_running_are_opened_and_no_trial_is_blamed(runs: Runs, end: str) -> None:
    store = runs.create()
    lease = store.acquire(host=HERE, pid=dead_pid())
    store.add_trials(lease, [trial("a"), trial("b")])
    store.form_packs(lease, [Pack("p", ("a", "b"))])
    assert store.start_pack(lease, "p", "w") == 1
    store.progress(lease, "p", 1, [{"trial": "a", "epoch": 1, "train_loss": 1.0}])
    if end == "releases":
        store.release(lease)
    second = runs.create()
    lease = second.acquire(host=HERE, pid=os.getpid())
    assert second.statuses() == {"a": "pending", "b": "pending"}
    (pack,) = second.open_packs()
    assert (pack.status, pack.worker, pack.attempt) == ("open", None, 1)
    assert second.failures_of("a") == {"controller_lost": 1}
    assert [row["kind"] for row in second.frame().failures] == ["controller_lost"] * 2
    assert second.frame().epochs[0]["train_loss"] == 1.0
    assert second.start_pack(lease, "p", "w") == 2


def test_of_many_at_once_one_becomes_the_controller(runs: Runs) -> None:
    winners: list[Lease] = []
    refused: list[UserError] = []
    start = threading.Barrier(8)

    def compete() -> None:
        start.wait()
        try:
            winners.append(runs.create().acquire(host=HERE, pid=os.getpid()))
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(refused)) == (1, 7), refused
    assert all("A controller is at work" in str(error) for error in refused)


def test_threads_share_a_store(runs: Runs) -> None:
    store = runs.create()
    lease = store.acquire(host=HERE, pid=os.getpid())

    def add(start: int) -> None:
        for n in range(start, start + 20):
            store.add_trials(lease, [trial(f"t{n}")])
            store.renew(lease)

    threads = [threading.Thread(target=add, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()["pending"] == 80


def test_what_tells_processes_apart() -> None:
    assert process_identity(os.getpid()) == process_identity(os.getpid())
    assert process_identity(dead_pid()) is None
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, but not reaped
    assert process_identity(zombie.pid) is None
    zombie.wait()
