"""What a store promises, in SQLite and in PostgreSQL alike."""

import math
import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from flaxcomp.errors import UserError
from flaxcomp.store.frame import MEASUREMENT_COLUMNS, TRIAL_COLUMNS
from flaxcomp.store.lease import LateAttemptError, Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.compression.prune import Prune
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.trial import Trial
from run_stores import SWEEP_JSON, Pack, Runs, trial

pytest_plugins = ("store_fixtures",)


@pytest.fixture
def store(runs: Runs) -> Store:
    return runs.create()


@pytest.fixture
def lease(store: Store) -> Lease:
    return store.acquire(host="here", pid=1)


def test_creating_again_opens_the_same_run(runs: Runs, store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a")])
    again = runs.create()
    assert again.run_id == store.run_id
    assert again.statuses() == {"a": "pending"}
    assert runs.paths.sweep_file.read_text() == "name: study\n"
    assert runs.open().name() == "study"


def test_a_folder_holds_one_sweep(runs: Runs, store: Store) -> None:
    with pytest.raises(UserError, match="holds a run of the sweep 'study', got 'other'"):
        Store.create(runs.paths, name="other", sweep_text="", sweep_json=SWEEP_JSON, url=runs.url)


def test_runs_do_not_see_each_other(runs: Runs, store: Store, lease: Lease, tmp_path: Path) -> None:
    other = Runs(tmp_path / "other", runs.url)
    second = other.create()
    second_lease = second.acquire(host="here", pid=1)
    store.add_trials(lease, [trial("a")])
    second.add_trials(second_lease, [trial("a"), trial("b")])
    second.form_packs(second_lease, [Pack("p", ("a", "b"))])
    second.start_pack(second_lease, "p", "w")
    assert store.statuses() == {"a": "pending"}
    assert store.open_packs() == []
    assert store.counts()["running"] == 0
    other.close()


def test_trials_keep_their_order_and_their_records(store: Store, lease: Lease) -> None:
    many = [trial(f"t{n:04}", seed=n) for n in reversed(range(1200))]
    assert store.add_trials(lease, iter(many)) == 1200
    assert store.add_trials(lease, [*many[:3], trial("new")]) == 1
    assert store.pending() == [one.id for one in many] + ["new"]
    configs = store.configs([one.id for one in many] + ["unknown"])
    assert len(configs) == 1200
    assert msgspec.json.decode(configs["t0007"], type=TrialConfig) == many[-8].config


def test_a_dependency_that_is_wanted_for_itself_becomes_a_trial(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("teacher", role="dependency"), trial("student", "teacher")])
    store.add_trials(lease, [trial("teacher"), trial("student", "teacher", role="dependency")])
    assert [row["role"] for row in store.frame().trials] == ["trial", "trial"]


def test_the_epochs_of_a_running_trial_are_those_of_its_own_training(runs: Runs, store: Store, lease: Lease) -> None:
    dense = trial("dense", epochs=9)
    pruned = Trial("pruned", replace(dense.config, prune=Prune(epochs=2), source="dense"), ("dense",), "trial", "sig")
    store.add_trials(lease, [dense, pruned])
    for id_ in ("dense", "pruned"):
        store.form_packs(lease, [Pack(f"p-{id_}", (id_,), "sig")])
        store.start_pack(lease, f"p-{id_}", "w")
    assert [row["epochs"] for row in runs.open().running()] == [9, 2]


def test_a_pack_from_start_to_end(runs: Runs, store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a", seed=4), trial("b", seed=5)])
    store.form_packs(lease, [Pack("p", ("b", "a"), "sig")])
    assert [(p.trial_ids, p.signature, p.status, p.attempt, p.worker) for p in store.open_packs()] == [
        (("b", "a"), "sig", "open", 0, None)
    ]
    attempt = store.start_pack(lease, "p", "worker-1")
    assert attempt == 1
    assert store.statuses() == {"a": "running", "b": "running"}
    store.progress(lease, "p", attempt, [{"trial": "a", "epoch": 1, "train_loss": 2.0}])
    store.progress(lease, "p", attempt, [{"trial": t, "epoch": e, "train_loss": 1 / e} for t in "ab" for e in (1, 2)])
    reader = runs.open()
    (running,) = reader.running()
    assert running | {"started_at": 0} == {
        "pack": "p", "worker": "worker-1", "attempt": 1, "trials": 2, "started_at": 0, "epoch": 2, "epochs": 3,
    }  # fmt: skip
    store.finish_pack(lease, "p", attempt, {"a": {"val_accuracy": 0.5, "params": 10}, "b": {"val_accuracy": 0.7}})
    assert reader.counts() == {"pending": 0, "running": 0, "finished": 2, "stopped": 0, "failed": 0, "blocked": 0}
    assert reader.open_packs() == []
    assert reader.running() == []
    assert reader.best("val_accuracy", largest=True) == {"trial": "b", "value": 0.7}
    assert reader.best("params", largest=False) == {"trial": "a", "value": 10}
    frame = reader.frame()
    assert [(row["trial"], row["epoch"], row["train_loss"]) for row in frame.epochs] == [
        ("a", 1, 1.0), ("a", 2, 0.5), ("b", 1, 1.0), ("b", 2, 0.5),
    ]  # fmt: skip
    assert frame.failures == []


def test_a_frame_has_the_columns_of_the_contract_in_order(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a", seed=0)])
    store.form_packs(lease, [Pack("p", ("a",))])
    result = {"val_accuracy": np.float32(0.5), "params": np.int64(2**40), "test_f1": math.nan, "macs": 7,
              "confusion_matrix": np.eye(2, dtype=int), "note": "\0x", "path": Path("a/b")}  # fmt: skip
    store.finish_pack(lease, "p", store.start_pack(lease, "p", "w"), {"a": result})
    frame = store.frame()
    assert (frame.name, frame.metrics[0].name, frame.constraints) == ("study", "val_accuracy", ())
    (row,) = frame.trials
    columns = list(row)
    assert columns[:2] == ["trial", "role"]
    first = columns.index("status")
    assert columns[first : first + len(TRIAL_COLUMNS)] == list(TRIAL_COLUMNS)
    config = {name: row[name] for name in columns[2:first]}
    assert config["model.width"] == 2
    assert config["seed"] == 0  # a default, which the canonical form leaves out
    assert config["train.optimizer.learning_rate"] == 1e-3
    assert (row["status"], row["val_accuracy"], row["params"], row["test_f1"]) == ("finished", 0.5, 2**40, None)
    assert columns[first + len(TRIAL_COLUMNS) :] == ["confusion_matrix", "note", "path"]
    assert (row["confusion_matrix"], row["note"], row["path"]) == ([[1, 0], [0, 1]], "\0x", "a/b")


def test_late_attempts_change_nothing(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a")])
    store.form_packs(lease, [Pack("p", ("a",))])
    first = store.start_pack(lease, "p", "slow")
    store.interrupt_pack(lease, "p", first)
    assert store.statuses() == {"a": "pending"}
    second = store.start_pack(lease, "p", "fast")
    assert second == first + 1
    before = store.frame()
    for late in (
        lambda: store.progress(lease, "p", first, [{"trial": "a", "epoch": 1}]),
        lambda: store.finish_pack(lease, "p", first, {"a": {}}),
        lambda: store.fail_pack(lease, "p", first, kind="lost", error="", statuses={"a": "pending"}),
        lambda: store.interrupt_pack(lease, "p", first),
    ):
        with pytest.raises(LateAttemptError, match="Attempt 1 of pack p has ended; the pack is running after attempt 2"):
            late()
    assert store.frame() == before
    store.finish_pack(lease, "p", second, {"a": {"params": 1}})
    with pytest.raises(LateAttemptError, match="the pack is closed"):
        store.finish_pack(lease, "p", second, {"a": {"params": 2}})
    assert store.frame().trials[0]["params"] == 1
    assert store.frame().failures == []


def test_results_must_be_of_the_trials_that_ran(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a"), trial("b")])
    store.form_packs(lease, [Pack("p", ("a", "b"))])
    attempt = store.start_pack(lease, "p", "w")
    with pytest.raises(ValueError, match=r"one result for each trial it trained \(a, b\), got results of a, c"):
        store.finish_pack(lease, "p", attempt, {"a": {}, "c": {}})
    with pytest.raises(ValueError, match="pending or failed for each trial"):
        store.fail_pack(lease, "p", attempt, kind="error", error="", statuses={"a": "failed"})
    assert store.statuses() == {"a": "running", "b": "running"}


def test_only_open_packs_start(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a")])
    store.form_packs(lease, [Pack("p", ("a",))])
    store.start_pack(lease, "p", "w")
    with pytest.raises(ValueError, match="pack p is running"):
        store.start_pack(lease, "p", "w")
    with pytest.raises(ValueError, match="No pack q"):
        store.start_pack(lease, "q", "w")
    with pytest.raises(ValueError, match="Pack p is running: finish"):
        store.close_pack(lease, "p")


def test_forming_a_pack_again(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a")])
    store.form_packs(lease, [Pack("p", ("a",))])
    attempt = store.start_pack(lease, "p", "w")
    store.form_packs(lease, [Pack("p", ("a",))])
    assert store.open_packs()[0].status == "running"
    store.fail_pack(lease, "p", attempt, kind="lost", error="gone", statuses={"a": "pending"})
    assert store.open_packs() == []
    store.form_packs(lease, [Pack("p", ("a",))])
    assert store.start_pack(lease, "p", "w") == 2
    store.interrupt_pack(lease, "p", 2)
    store.close_pack(lease, "p")
    assert store.open_packs() == []


def test_failures_are_counted_by_kind_for_each_trial(runs: Runs, store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a"), trial("b")])
    store.form_packs(lease, [Pack("both", ("a", "b")), Pack("alone", ("a",))])
    both = store.start_pack(lease, "both", "w")
    store.fail_pack(lease, "both", both, kind="out_of_memory", error="too big", statuses={"a": "pending", "b": "pending"})
    runs.clock.now += 1
    alone = store.start_pack(lease, "alone", "w")
    store.fail_pack(lease, "alone", alone, kind="error", error="bad\0 \udcff", statuses={"a": "failed"})
    assert store.failures_of("a") == {"out_of_memory": 1, "error": 1}
    assert store.failures_of("b") == {"out_of_memory": 1}
    assert [(row["trial"], row["attempt"], row["kind"], row["error"]) for row in store.frame().failures] == [
        ("a", 1, "out_of_memory", "too big"),
        ("b", 1, "out_of_memory", "too big"),
        ("a", 2, "error", "bad ?"),
    ]
    assert store.frame().failures[0]["at"] == "1970-01-12T13:46:40+00:00"
    assert store.statuses() == {"a": "failed", "b": "pending"}


def failed(store: Store, lease: Lease, trial_id: str) -> None:
    store.form_packs(lease, [Pack(f"of-{trial_id}", (trial_id,))])
    attempt = store.start_pack(lease, f"of-{trial_id}", "w")
    store.fail_pack(lease, f"of-{trial_id}", attempt, kind="error", error="boom", statuses={trial_id: "failed"})


def test_a_failure_blocks_whatever_needs_it(store: Store, lease: Lease) -> None:
    store.add_trials(
        lease,
        [trial("root"), trial("x"), trial("mid", "root"), trial("leaf", "mid", "x"), trial("free", "x"), trial("far", "leaf")],
    )
    failed(store, lease, "root")
    assert store.statuses() == {
        "root": "failed", "x": "pending", "mid": "blocked", "leaf": "blocked", "free": "pending", "far": "blocked",
    }  # fmt: skip
    store.add_trials(lease, [trial("late", "far"), trial("fine", "free")])
    assert store.statuses()["late"] == "blocked"
    assert store.statuses()["fine"] == "pending"


def test_resetting_failed_trials(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("r1"), trial("r2"), trial("both", "r1", "r2"), trial("one", "r1"), trial("deep", "one")])
    failed(store, lease, "r1")
    failed(store, lease, "r2")
    assert store.reset_failed(lease, ["one"]) == 3  # named through what blocks it: r1, one, deep
    assert store.statuses() == {"r1": "pending", "r2": "failed", "both": "blocked", "one": "pending", "deep": "pending"}
    assert store.failures_of("r1") == {}
    assert store.failures_of("r2") == {"error": 1}
    assert len(store.frame().failures) == 2  # history stays
    assert store.reset_failed(lease) == 2
    assert store.counts()["pending"] == 5
    assert store.reset_failed(lease) == 0


def test_files_and_figures(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a"), trial("b")])
    file = {"trial": "a", "artifact": "f" * 64, "precision": "int8", "format": "tflite", "size_bytes": 10, "accuracy": 0.8,
            "accuracy_drop": 0.1, "flagged": True, "max_abs_error": 0.5}  # fmt: skip
    for _ in range(2):
        store.add_artifact(lease, file)
        store.add_artifact(lease, file | {"trial": "b", "flagged": np.bool_(False)})
    for precision in ("float32", "float16"):
        store.add_artifact(lease, {"trial": "a", "artifact": None, "precision": precision, "format": "tflite", "reason": "no"})
    figure = {"trial": "a", "artifact": "f" * 64, "precision": "int8", "device": "pi", "device_model": "Pi 4", "emulated": True,
              "latency_ms": 2.0, "latency_ci_low": 1.0, "latency_ci_high": 3.0, "peak_memory_bytes": 2**33, "protocol": "quick",
              "threads": 4, "samples_ms": [[1.0, 2.0]]}  # fmt: skip
    store.add_measurement(lease, figure | {"latency_ms": 9.0})
    store.add_measurement(lease, figure)
    store.add_measurement(lease, figure | {"protocol": "standard"})
    frame = store.frame()
    assert [(row["trial"], row["artifact"], row["precision"], row["flagged"]) for row in frame.artifacts] == [
        ("a", None, "float16", None),
        ("a", None, "float32", None),
        ("a", "f" * 64, "int8", True),
        ("b", "f" * 64, "int8", False),
    ]
    assert frame.artifacts[2]["max_abs_error"] == 0.5
    assert [row["protocol"] for row in frame.measurements] == ["quick", "standard"]
    row = frame.measurements[0]
    assert [name for name in row if name in MEASUREMENT_COLUMNS] == list(MEASUREMENT_COLUMNS)
    assert row["model.name"] == "net"
    assert {name: row[name] for name in figure} == figure
    assert (row["size_bytes"], row["accuracy"], row["accuracy_drop"]) == (10, 0.8, 0.1)  # of the artifact
    assert store.best("size_bytes", largest=False) == {"trial": "a", "value": 10}
    assert store.best("latency_ms", largest=False) is None  # emulated only


def test_a_batch_is_one_transaction(runs: Runs, store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a"), trial("b")])
    store.form_packs(lease, [Pack("p", ("a",)), Pack("q", ("b",))])
    reader = runs.open()

    def half_done() -> None:
        with store.batch(lease):
            store.start_pack(lease, "p", "w")
            assert store.statuses()["a"] == "running"
            assert reader.statuses()["a"] == "pending"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert store.statuses()["a"] == "pending"
    with store.batch(lease):
        store.start_pack(lease, "p", "w")
        with pytest.raises(LateAttemptError):
            store.progress(lease, "q", 1, [])
        store.start_pack(lease, "q", "w")
    assert reader.statuses() == {"a": "running", "b": "running"}


def test_requests_reach_the_controller(runs: Runs, store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a"), trial("b")])
    failed(store, lease, "a")
    failed(store, lease, "b")
    user = runs.open()
    assert not store.stop_requested()
    user.request_stop()
    assert store.stop_requested()
    user.request_retry(["a"])
    assert store.retry_requested()
    assert store.apply_retries(lease) == 1
    assert not store.retry_requested()
    assert store.statuses() == {"a": "pending", "b": "failed"}
    store.release(lease)
    store.acquire(host="here", pid=1)
    assert not store.stop_requested()


def test_facts_events_and_the_sweep(store: Store, lease: Lease) -> None:
    store.add_trials(lease, [trial("a")])
    store.set_model_facts(lease, "a", 5, 4, None)
    store.log_event(lease, "note", "something")
    row = store.frame().trials[0]
    assert (row["params"], row["trainable_params"], row["macs"]) == (5, 4, None)
    assert [event["kind"] for event in store.events()] == ["controller", "note"]
    assert store.events(limit=1)[0]["text"] == "something"
    store.update_sweep(lease, sweep_text="new", sweep_json=SWEEP_JSON.replace(b"val_accuracy", b"macs"))
    assert store.sweep().metrics[0].name == "macs"


def test_a_server_that_is_not_there_does_not_bind_the_folder(tmp_path: Path) -> None:
    paths = RunPaths.at(tmp_path / "run")
    with pytest.raises(UserError, match="Cannot use the store"):
        Store.create(paths, name="n", sweep_text="x", sweep_json=b"{}", url="postgresql://nobody@127.0.0.1:9/none")
    assert not paths.run_file.exists()
    Store.create(paths, name="n", sweep_text="x", sweep_json=b"{}").close()


def test_a_refused_store_is_closed_again(tmp_path: Path) -> None:
    paths = RunPaths.at(tmp_path / "run")
    Store.create(paths, name="n", sweep_text="x", sweep_json=b"{}").close()
    connection = sqlite3.connect(paths.sqlite_file)
    connection.execute("UPDATE meta SET value = '999'")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="999"):
        Store.create(paths, name="n", sweep_text="x", sweep_json=b"{}")
    assert not list(paths.root.glob("store.sqlite-*"))
