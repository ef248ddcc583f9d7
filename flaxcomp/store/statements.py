"""What the classes of SQL statements share.

A statement of SQLAlchemy costs several times more to build than to run: those of every event are built once, with parameters.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from flaxcomp.store.frame import Row

BATCH = 500  # rows or parameters a statement


def mine(table: sa.Table) -> sa.ColumnElement[bool]:
    """The condition of every statement; `Statements` fills in the run."""
    return table.c.run_id == sa.bindparam("of_run")


class Statements:
    """Changes to one run's records.

    Args:
        connection: in a transaction.
        run_id: the run.
        now: seconds since 1970, the time of what is recorded.
    """

    def __init__(self, connection: sa.Connection, run_id: str, now: float) -> None:
        self._connection, self._run_id, self._now = connection, run_id, now

    def _execute(self, statement: sa.Executable, **params: Any) -> "sa.CursorResult[*tuple[Any, ...]]":
        return self._connection.execute(statement, {"of_run": self._run_id, **params})

    def _execute_each(self, statement: sa.Executable, each: Sequence[Row]) -> None:
        """Execute a statement once for each row of parameters."""
        if each:
            self._connection.execute(statement, [{"of_run": self._run_id, **params} for params in each])

    def _known(self, columns: Sequence[sa.Column[str]], ids: Collection[str]) -> list[sa.Row[Any]]:
        """Rows of the run whose first column is among `ids`; of many ids, the whole run is read at once."""
        statement = sa.select(*columns).where(mine(columns[0].table))
        if len(ids) <= BATCH:
            return list(self._execute(statement.where(columns[0].in_(list(ids)))))
        return [row for row in self._execute(statement) if row[0] in ids]

    def _insert(self, table: sa.Table, rows: list[Row]) -> None:
        if rows:
            self._connection.execute(_insert(table), [{"run_id": self._run_id, **row} for row in rows])

    def _upsert(self, table: sa.Table, rows: list[Row], *, update: tuple[str, ...]) -> None:
        """Insert rows; where the primary key is there already, set the columns `update`."""
        if rows:
            statement = _upsert(table, update, self._connection.dialect.name == "postgresql")
            self._connection.execute(statement, [{"run_id": self._run_id, **row} for row in rows])


@functools.cache
def _insert(table: sa.Table) -> sa.Insert:
    return table.insert()


@functools.cache
def _upsert(table: sa.Table, update: tuple[str, ...], postgres: bool) -> sa.Insert:
    insert = postgresql.insert(table) if postgres else sqlite.insert(table)
    key = list(table.primary_key.columns)
    if not update:
        return insert.on_conflict_do_nothing(index_elements=key)
    return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in update})


def batches(ids: Iterable[str]) -> Iterator[list[str]]:
    """Sorted, in lists that fit a statement."""
    stream = iter(sorted(ids))
    while batch := list(islice(stream, BATCH)):
        yield batch
