"""Reading a SQLite store with the standard library alone: SQLAlchemy takes a third of a second to import."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flaxcomp.errors import UserError
from flaxcomp.store.faults import BUSY_TIMEOUT_S, user_errors


class SqliteFile:
    """A store opened for reading, which may be written meanwhile or lie in a folder without write permission.

    Raises:
        UserError: the file is missing, damaged or not readable.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} does not exist: no records have been written yet, or the run folder is incomplete.")
        self.name = str(path)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        with user_errors(self.name):
            self._connection = self._open(path)
        if not self.read("SELECT 1 FROM sqlite_master LIMIT 1", {}):
            raise UserError(
                f"{path} has no records yet: the run is being created, or its creation was interrupted; run it again."
            )

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            return _connect(path, "mode=ro")
        except sqlite3.OperationalError as error:
            # A store in WAL mode needs files beside it. Without them and without permission to make them it cannot be opened,
            # although nobody writes it: then it is read as it lies, or, where a crash left a log with records, as a copy.
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
        log = path.with_name(path.name + "-wal")
        if not log.exists() or log.stat().st_size == 0:
            return _connect(path, "mode=ro&immutable=1")
        self._copy = tempfile.TemporaryDirectory(prefix="flaxcomp-")
        for file in (path, log):
            shutil.copyfile(file, Path(self._copy.name) / file.name)
        return _connect(Path(self._copy.name) / path.name, "mode=rw")

    def read(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a SELECT with `:name` parameters."""
        with user_errors(self.name):
            return [dict(row) for row in self._connection.execute(sql, params)]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see the store as it was at the first of them."""
        with user_errors(self.name):
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{options}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")  # opening alone touches no file
    except sqlite3.Error:
        connection.close()
        raise
    return connection
