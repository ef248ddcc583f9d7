"""SQLite for writing, and PostgreSQL, through SQLAlchemy."""

import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from flaxcomp.errors import MissingPackageError, UserError
from flaxcomp.store import migrations, schema
from flaxcomp.store.faults import BUSY_TIMEOUT_S, user_errors
from flaxcomp.store.paths import RunPaths


class Database:
    """A database and its one open transaction. Threads may share it; they wait for each other.

    Args:
        url: `sqlite:///FILE` or `postgresql://...` (through psycopg 3).
    """

    def __init__(self, url: URL) -> None:
        self.name = url.database or "" if url.drivername == "sqlite" else without_password(url)
        self._lock = threading.RLock()
        self._open: sa.Connection | None = None
        try:
            if url.drivername == "sqlite":
                self.engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
                sa.event.listen(self.engine, "connect", _prepare_sqlite)
                sa.event.listen(self.engine, "begin", _begin_sqlite)
            else:
                self.engine = sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
        except ImportError as error:
            raise MissingPackageError("A PostgreSQL store needs psycopg: install flaxcomp[postgres].") from error

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction; inside another of this database, a part of that one."""
        with self._lock, user_errors(self.name):
            if self._open is not None:
                yield self._open
                return
            with self.engine.begin() as connection:
                self._open = connection
                try:
                    yield connection
                finally:
                    self._open = None

    def read(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a SELECT with `:name` parameters."""
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(sa.text(sql), params).mappings()]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see the store as it was at the first of them."""
        nested = self._open is not None
        with self.transaction() as connection:
            if self.engine.dialect.name == "postgresql" and not nested:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield

    def close(self) -> None:
        if self.engine.dialect.name == "sqlite":
            _rest_sqlite(self.engine)
        self.engine.dispose()

    def prepare(self, now: float) -> None:
        """Make the tables, or bring them to this flaxcomp's schema version. Nobody else does until the transaction ends.

        Raises:
            UserError: the store is of a newer version, or of an older one and being written.
        """
        with self.transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(
                    "SELECT pg_advisory_xact_lock(707316)"
                )  # one at a time; SQLite's write lock does the same
            if not sa.inspect(connection).has_table("meta"):
                schema.metadata.create_all(connection)
                connection.execute(schema.meta.insert(), {"key": "schema_version", "value": str(migrations.schema_version())})
            found = int(connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")) or 0)
            migrations.refuse_newer(found, self.name)
            if found < migrations.schema_version():
                migrations.migrate(connection, found, host=socket.gethostname(), now=now)

    def add_run(self, run_id: str, name: str, sweep_text: str, sweep_json: bytes, now: float) -> None:
        """Record the run and that nobody writes it, unless it is there."""
        with self.transaction() as connection:
            if connection.scalar(sa.select(schema.runs.c.run_id).where(schema.runs.c.run_id == run_id)) is None:
                run = {"name": name, "sweep_text": sweep_text, "sweep_json": sweep_json.decode(), "created_at": now}
                connection.execute(schema.runs.insert(), {"run_id": run_id, **run})
                connection.execute(schema.leases.insert(), {"run_id": run_id, "fence": 0, "held": False, "active_s": 0.0})


def connect(paths: RunPaths, store_url: str | None, given: URL | None) -> Database:
    """Return the database of a run.

    Args:
        paths: of the run folder, where SQLite lies.
        store_url: what `run.json` says; None is SQLite.
        given: the same with a password, where the caller knows it.
    """
    if store_url is None:
        return Database(URL.create("sqlite", database=str(paths.sqlite_file)))
    return Database(parse_url(store_url) if given is None else given)


def check_reachable(url: URL) -> None:
    """Connect once.

    Raises:
        UserError: the server does not answer or refuses.
    """
    database = Database(url)
    try:
        with database.transaction():
            pass
    finally:
        database.close()


def parse_url(text: str) -> URL:
    """Read the URL of a server's database; `postgresql://` means psycopg 3.

    Raises:
        UserError: not a URL of PostgreSQL.
    """
    try:
        url = make_url(text)
    except sa.exc.ArgumentError as error:
        raise UserError(
            "The store must be a URL such as postgresql://user@host/database, got one that cannot be read."
        ) from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise UserError(
            f"The store must be a postgresql:// URL, got {url.drivername}://: leave it out for SQLite in the run folder."
        )
    return url.set(drivername="postgresql+psycopg")


def without_password(url: URL) -> str:
    """The URL as it may be shown and written down."""
    plain = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    return plain.difference_update_query(["password"]).render_as_string(hide_password=False)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions by itself, `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA cache_size = -65536")  # KiB: the records of a hundred thousand trials, instead of 2 MiB of them
    cursor.close()


def _rest_sqlite(engine: sa.Engine) -> None:
    """Leave one plain file, which can be read anywhere and copied, unless others have the store open."""
    with suppress(sa.exc.DBAPIError), engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with suppress(sqlite3.OperationalError):
            driver.execute("PRAGMA busy_timeout = 0")
            driver.execute("PRAGMA journal_mode = DELETE")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # the write lock at once: a transaction never fails halfway for want of it
