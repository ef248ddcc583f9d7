"""What a database complains about, in words for users."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from flaxcomp.errors import UserError

BUSY_TIMEOUT_S = 60


class CorruptStoreError(UserError):
    """The store's file is damaged, or is not a store."""


@contextmanager
def user_errors(store: str) -> Iterator[None]:
    """Turn faults of the place (damage, full disk, no permission, server away) into UserError; other errors pass as they are.

    Args:
        store: the file or URL, for the message; without a password.
    """
    try:
        yield
    except Exception as error:
        cause = getattr(error, "orig", None) or error  # SQLAlchemy wraps what the driver raised
        mapped = _mapped(cause, store)
        if mapped is None:
            raise
        raise mapped from error


def _mapped(error: BaseException, store: str) -> UserError | None:
    text = str(error).strip()
    if isinstance(error, sqlite3.DatabaseError):
        if "disk is full" in text:
            return UserError(f"No space left for {store}: free some and run the same command again; what was recorded is safe.")
        if "malformed" in text or "not a database" in text or "no such table" in text or "no such column" in text:
            return CorruptStoreError(
                f"{store} is damaged or not a store of flaxcomp ({text}): restore it from a copy, or try `sqlite3 .recover`."
            )
        if "locked" in text:
            return UserError(
                f"{store} has been locked by another program for {BUSY_TIMEOUT_S} s: end that one, then try again."
            )
        if "unable to open" in text or "readonly" in text or "disk I/O" in text or "authorized" in text:
            return UserError(f"Cannot use {store} ({text}): check that the folder exists, its permissions and the disk.")
    elif type(error).__name__ == "UndefinedTable":
        return CorruptStoreError(f"{store} is not a store of flaxcomp: {text}")
    elif any(f"{base.__module__}.{base.__name__}" == "psycopg.OperationalError" for base in type(error).__mro__):
        return UserError(
            f"Cannot use the store {store}: {text}\nCheck the address, that the server runs, and the password"
            " (it is not kept in the run folder: set PGPASSWORD or write ~/.pgpass)."
        )
    return None
