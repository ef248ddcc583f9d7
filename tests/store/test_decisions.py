"""What early stopping and search decide is in the store before it takes effect."""

import re

import pytest
import sqlalchemy as sa

from flaxcomp.errors import UserError
from flaxcomp.store import schema
from flaxcomp.store.database import connect
from flaxcomp.store.lease import LateAttemptError, Lease, LeaseLostError
from flaxcomp.store.migrations import MIGRATIONS, schema_version
from flaxcomp.store.records import Store
from run_stores import Pack, Runs, trial

pytest_plugins = ("store_fixtures",)


@pytest.fixture
def store(runs: Runs) -> Store:
    return runs.create()


@pytest.fixture
def lease(store: Store) -> Lease:
    lease = store.acquire(host="here", pid=1)
    store.add_trials(lease, [trial("a"), trial("b"), trial("c", "a")])
    store.form_packs(lease, [Pack("p", ("a", "b"))])
    return lease


def pause(store: Store, lease: Lease, epoch: int = 1) -> None:
    attempt = store.start_pack(lease, "p", "w")
    rows = [{"trial": t, "epoch": e, "val_accuracy": e / 10, "val_loss": None} for t in "ab" for e in range(1, epoch + 1)]
    store.progress(lease, "p", attempt, rows)
    store.pause_pack(lease, "p", attempt, epoch, {t: {"val_accuracy": 0.1, "params": 7, "epochs_done": epoch} for t in "ab"})


def test_who_pauses_waits_with_what_it_has(store: Store, lease: Lease) -> None:
    pause(store, lease)
    assert store.statuses() == dict.fromkeys("abc", "pending")
    assert store.open_packs() == []
    assert store.rungs() == [{"trial_id": t, "epoch": 1, "pack_id": "p", "goes_on": None} for t in "ab"]
    row = store.frame().trials[0]
    assert (row["params"], row["epochs_done"], row["status"]) == (7, 1, "pending")
    assert store.failures_of("a") == {}
    with pytest.raises(LateAttemptError):
        store.pause_pack(lease, "p", 1, 1, {"a": {}, "b": {}})


def test_a_decision_stops_some_and_lets_others_go_on(store: Store, lease: Lease) -> None:
    pause(store, lease, 2)
    store.decide(lease, 2, {"a": False, "b": True})
    assert store.statuses() == {"a": "stopped", "b": "pending", "c": "pending"}
    assert [bool(row["goes_on"]) for row in store.rungs()] == [False, True]
    assert store.counts()["stopped"] == 1
    assert store.reset_failed(lease) == 0
    assert store.best("val_accuracy", largest=True) is None, "nothing has finished"
    assert store.add_trials(lease, [trial("a")]) == 0
    assert store.statuses()["a"] == "stopped"


def test_the_same_rung_again_keeps_its_verdict_and_learns_the_new_pack(store: Store, lease: Lease) -> None:
    pause(store, lease)
    store.decide(lease, 1, {"a": True, "b": True})
    store.form_packs(lease, [Pack("p", ("a", "b"))])
    pause(store, lease)
    assert [(row["pack_id"], bool(row["goes_on"])) for row in store.rungs()] == [("p", True)] * 2


def test_pausing_needs_a_result_for_each_trial(store: Store, lease: Lease) -> None:
    attempt = store.start_pack(lease, "p", "w")
    with pytest.raises(ValueError, match=r"Pack p pauses with one result for each trial it trains \(a, b\), got results of a"):
        store.pause_pack(lease, "p", attempt, 1, {"a": {}})
    assert store.counts()["running"] == 2


def test_curves_end_where_they_are_asked_to_and_where_a_trial_does(store: Store, lease: Lease) -> None:
    pause(store, lease, 3)
    store.form_packs(lease, [Pack("p", ("a", "b"))])
    attempt = store.start_pack(lease, "p", "w")
    store.progress(lease, "p", attempt, [{"trial": "b", "epoch": 4, "val_accuracy": 0.4}])
    assert store.curves("val_accuracy", ["a", "b", "c"], 9) == {"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3, 0.4]}
    assert store.curves("val_loss", ["b"], 2) == {"b": [None, None]}


def test_suggestions_keep_their_order_and_their_numbers(store: Store, lease: Lease) -> None:
    store.add_suggestions(lease, 0, [({"rate": 1e-3, "name": "x"}, "a"), ({"rate": 0.1 + 0.2, "name": None}, None)])
    store.add_suggestions(lease, 2, [({"rate": 1, "name": [3]}, "a")])
    assert store.suggestions() == [
        {"point": {"rate": 1e-3, "name": "x"}, "trial_id": "a"},
        {"point": {"rate": 0.30000000000000004, "name": None}, "trial_id": None},
        {"point": {"rate": 1, "name": [3]}, "trial_id": "a"},
    ]


def test_a_superseded_controller_decides_nothing(store: Store, lease: Lease, runs: Runs) -> None:
    pause(store, lease)
    runs.clock.now += 60
    store.acquire(host="there", pid=2)
    for write in (
        lambda: store.decide(lease, 1, {"a": False}),
        lambda: store.add_suggestions(lease, 0, [({}, None)]),
        lambda: store.pause_pack(lease, "p", 1, 1, {}),
    ):
        with pytest.raises((LeaseLostError, UserError)):
            write()
    assert (store.statuses()["a"], store.suggestions()) == ("pending", [])


def test_a_store_without_decisions_is_given_the_tables_that_a_new_one_has(runs: Runs) -> None:
    """As version 2 left it; SQLite and PostgreSQL call types by other names, so they are compared as the database has them."""
    runs.create().close()
    database, broken = connect(runs.paths, runs.url, None), re.compile("DOUBLE PRECISION|DOUBLE")  # one type in SQLite

    def columns() -> dict[str, list[tuple[str, str, bool]]]:
        with database.transaction() as connection:
            inspected = sa.inspect(connection)
            return {
                name: [(c["name"], broken.sub("REAL", str(c["type"])), c["nullable"]) for c in inspected.get_columns(name)]
                for name in ("rungs", "suggestions")
            }

    before = columns()
    with database.transaction() as connection:
        for table in (schema.rungs, schema.suggestions):
            table.drop(connection)
        connection.exec_driver_sql("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    runs.create()
    assert schema_version() == 1 + len(MIGRATIONS) >= 3
    assert columns() == before
    database.close()
