"""Stores of older and newer schema versions, in SQLite and in PostgreSQL."""

import os
import socket

import pytest
import sqlalchemy as sa

from flaxcomp.errors import UserError
from flaxcomp.store import migrations
from flaxcomp.store.database import connect
from flaxcomp.store.records import Store
from run_stores import Runs, trial

pytest_plugins = ("store_fixtures",)
REAL = migrations.MIGRATIONS


def add_colour(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE runs ADD COLUMN colour TEXT"))


def paint(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE runs SET colour = 'red of ' || name"))


def paint_over(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE runs SET colour = 'blue'"))


def fail(connection: sa.Connection) -> None:
    paint(connection)
    raise ZeroDivisionError


@pytest.fixture
def old(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A run of schema version 1; later versions are those that a test makes up."""
    monkeypatch.setattr(migrations, "MIGRATIONS", ())
    store = runs.create()
    lease = store.acquire(host="h", pid=1)
    store.add_trials(lease, [trial("a")])
    store.release(lease)
    return runs


def colour_and_version(runs: Runs) -> tuple[str, int]:
    store = runs.open()
    (row,) = store.table("runs", order="name")
    return row.get("colour", "no column"), store.schema_version()


def test_a_store_of_the_first_version_becomes_one_of_today(old: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    old.close()
    database = connect(old.paths, old.url, None)
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE measurements DROP COLUMN instructions")
        for table in ("rungs", "suggestions"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    database.close()
    monkeypatch.setattr(migrations, "MIGRATIONS", REAL)
    store = old.create()
    assert store.schema_version() == 1 + len(REAL)
    lease = store.acquire(host="h", pid=1)
    store.add_measurement(lease, {"trial": "a", "artifact": "f", "device": "d", "protocol": "p", "instructions": 2**40})
    assert store.frame().measurements[0]["instructions"] == 2**40


def test_the_first_version_is_one(old: Runs) -> None:
    assert colour_and_version(old) == ("no column", migrations.schema_version())
    assert migrations.schema_version() == 1 + len(migrations.MIGRATIONS)


def test_a_controller_migrates_step_by_step(old: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", (add_colour, paint))
    store = old.create()
    assert colour_and_version(old) == ("red of study", 3)
    assert store.statuses() == {"a": "pending"}
    old.create()  # nothing is left to do
    assert colour_and_version(old) == ("red of study", 3)
    monkeypatch.setattr(migrations, "MIGRATIONS", (fail, fail, paint_over))
    old.create()  # begins with the third step
    assert colour_and_version(old) == ("blue", 4)


def test_a_step_that_fails_leaves_the_store_as_it_was(old: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (add_colour, fail))
        with pytest.raises(ZeroDivisionError):
            old.create()
    assert colour_and_version(old) == ("no column", 1)


def test_readers_do_not_migrate(old: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (add_colour,))
        with pytest.raises(
            UserError, match=r"has schema version 1, .* reads version 2: the next `flaxcomp run` .* migrates it"
        ):
            old.open()
    assert colour_and_version(old) == ("no column", 1)


def test_a_newer_store_is_refused_by_all(old: Runs) -> None:
    database = connect(old.paths, None if old.url is None else old.url, None)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '7' WHERE key = 'schema_version'")
    database.close()
    for use in (old.open, old.create):
        with pytest.raises(
            UserError, match=r"has schema version 7, .* knows versions up to 1: it was written by a newer flaxcomp"
        ):
            use()


def test_nothing_is_migrated_under_a_controller_at_work(old: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Store = old.create()
    lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
    monkeypatch.setattr(migrations, "MIGRATIONS", (add_colour,))
    with pytest.raises(UserError, match=f"an older flaxcomp is writing it: process {os.getpid()}"):
        old.create()
    store.release(lease)
    old.create()
    assert colour_and_version(old)[1] == 2
