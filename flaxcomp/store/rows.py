"""Rows between callers and tables: typed columns for the figures of the contract, one JSON column for the rest."""

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from flaxcomp.store.frame import Row


def to_record(row: Row, columns: Iterable[str]) -> Row:
    """Return the values of `columns` (None where missing) and `extra`, JSON text of whatever else `row` has.

    Scalars and arrays of NumPy and JAX become plain numbers and lists. NaN is no figure: it is kept as missing.
    """
    record = {name: _figure(row.get(name)) for name in columns}
    rest = {name: value for name, value in row.items() if name not in record}
    record["extra"] = to_json(rest) if rest else None
    return record


def from_record(record: Row) -> Row:
    """Undo `to_record`; `run_id` is left out."""
    row = {name: value for name, value in record.items() if name not in ("run_id", "extra")}
    if record.get("extra"):
        row |= msgspec.json.decode(record["extra"])
    return row


def to_json(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def clean(text: str) -> str:
    """Drop what a database's text cannot hold: NUL and half surrogates, as they occur in the output of crashed programs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"A record holds numbers, texts, lists and mappings, got {type(value).__name__}.")


def _figure(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value
