"""Schema versions of the store: what this flaxcomp reads, and the steps from older ones.

`MIGRATIONS[n - 1]` turns a store of version n into version n + 1. A step is plain SQL on the connection it is given (the tables
of `schema.py` are those of the last version), must hold for SQLite and PostgreSQL, and is never changed once released.
Only a controller migrates (`migrate`); readers refuse what they cannot read (`check`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import flaxcomp
from flaxcomp.errors import UserError
from flaxcomp.store.lease import Owner

if TYPE_CHECKING:
    from sqlalchemy import Connection

Migration = Callable[["Connection"], None]


def add_instructions(connection: "Connection") -> None:
    """1 to 2: figures have a count of instructions."""
    connection.exec_driver_sql("ALTER TABLE measurements ADD COLUMN instructions BIGINT")


def add_decisions(connection: "Connection") -> None:
    """2 to 3: early stopping and search keep what they decide; trials may be `stopped`."""
    connection.exec_driver_sql(
        "CREATE TABLE rungs (run_id TEXT NOT NULL, trial_id TEXT NOT NULL, epoch INTEGER NOT NULL, pack_id TEXT NOT NULL,"
        " goes_on BOOLEAN, decided_at DOUBLE PRECISION, PRIMARY KEY (run_id, trial_id, epoch))"
    )
    connection.exec_driver_sql(
        "CREATE TABLE suggestions (run_id TEXT NOT NULL, number INTEGER NOT NULL, point TEXT NOT NULL, trial_id TEXT,"
        " PRIMARY KEY (run_id, number))"
    )


MIGRATIONS: Sequence[Migration] = (add_instructions, add_decisions)


def schema_version() -> int:
    """The version this flaxcomp writes."""
    return 1 + len(MIGRATIONS)


def check(found: int, store: str) -> None:
    """Raise UserError unless a reader of this flaxcomp understands schema version `found`."""
    refuse_newer(found, store)
    if found < schema_version():
        raise UserError(
            f"{store} has schema version {found}, flaxcomp {flaxcomp.__version__} reads version {schema_version()}:"
            " the next `flaxcomp run` on this run migrates it; until then read it with the flaxcomp that wrote it."
        )


def refuse_newer(found: int, store: str) -> None:
    """Raise UserError when a later flaxcomp wrote the store."""
    if found > schema_version():
        raise UserError(
            f"{store} has schema version {found}, flaxcomp {flaxcomp.__version__} knows versions up to {schema_version()}:"
            " it was written by a newer flaxcomp; install that one."
        )


def migrate(connection: "Connection", found: int, *, host: str, now: float) -> None:
    """Bring a store of version `found` to this flaxcomp's, inside the caller's transaction.

    Raises:
        UserError: a controller of the older flaxcomp is at work in it.
    """
    for row in connection.exec_driver_sql(
        "SELECT host, pid, process, held, acquired_at, heartbeat_at, ttl_s, active_s FROM leases WHERE held"
    ):
        if (owner := Owner(*row)).alive(host=host, now=now):
            raise UserError(f"The store must be migrated, but an older flaxcomp is writing it: {owner}. Stop that one first.")
    for step in MIGRATIONS[found - 1 :]:
        step(connection)
    connection.exec_driver_sql(f"UPDATE meta SET value = '{schema_version():d}' WHERE key = 'schema_version'")
