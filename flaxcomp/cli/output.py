"""Rows to a terminal, a pipe or a file: table, CSV, JSON, Parquet."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from flaxcomp.durable import write_bytes
from flaxcomp.errors import MissingPackageError, UserError, suggest
from flaxcomp.store.frame import Row

FORMATS = ("table", "csv", "json", "parquet")

format_option = click.option("--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True)
output_option = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of standard output."
)


def write_rows(rows: Sequence[Row], columns: Sequence[str], format_: str, output: Path | None) -> None:
    """Write `columns` of `rows`; a row without a column has nothing there.

    Raises:
        UserError: Parquet without pyarrow, or to a terminal; a file in a folder that does not exist.
    """
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--output must name a file in a folder that exists; {output.parent} does not. Make it first.")
    if format_ == "parquet":
        data = _parquet(rows, columns)
        if output is None and sys.stdout.isatty():
            raise UserError("Parquet is not for a terminal: give a file with --output.")
    elif format_ == "table":
        data = _table(rows, columns).encode()
    elif format_ == "csv":
        data = _csv(rows, columns).encode()
    else:
        data = _json(rows, columns).encode()
    if output is not None:
        write_bytes(output, data)
    else:
        click.echo(data, nl=False)


def columns_of(rows: Iterable[Row], contract: Sequence[str]) -> list[str]:
    """All columns of the rows: those that stand before the contract's, the contract's, those after.

    A column that only some rows have comes after the one that it follows there.
    """
    before: list[str] = []
    after: list[str] = []
    known = set(contract)
    for names in dict.fromkeys(map(tuple, rows)):  # many rows have the same columns
        group, last = before, -1
        for name in names:
            if name in contract:
                group, last = after, -1
            elif name not in known:
                last += 1
                group.insert(last, name)
                known.add(name)
            elif name in group:
                last = group.index(name)
    return [*before, *contract, *after]


def varying(rows: Sequence[Row], columns: Iterable[str]) -> list[str]:
    """Those of `columns` that tell the rows apart."""
    return [name for name in columns if any(row.get(name) != rows[0].get(name) for row in rows)]


def chosen(wanted: str | None, known: Sequence[str]) -> list[str] | None:
    """Read a list of columns.

    Raises:
        UserError: one that is not known.
    """
    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"No column {name!r} in this run.{suggest(name, known, '--format csv has all')}")
    return names


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, bool | list | dict) else value


def _json(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = [msgspec.json.encode({name: row.get(name) for name in columns}).decode() for row in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _parquet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("Parquet needs pyarrow: install flaxcomp[full] or pyarrow, or take --format csv.") from error
    # A configuration's lists may hold anything, or nothing in one run: as text their column has one type in all runs.
    table = pyarrow.table(
        {name: _uniform([_cell(row.get(name)) if "." in name and isinstance(row.get(name), list) else row.get(name)
                         for row in rows]) for name in columns}
    )  # fmt: skip
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _uniform(values: list[Any]) -> list[Any]:
    """Values of one type, as a Parquet column must be: whole and broken numbers become floats, other mixtures text."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [value if value is None else float(value) for value in values]
    if len(types) > 1:
        return [value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
    return values


def _table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Columns side by side, figures to the right. (Rich takes seconds for a thousand rows.)"""
    cells = [[_shown(row.get(name)) for name in columns] for row in rows]
    figures = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in columns]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if figure else cell.ljust(width)
            for cell, width, figure in zip(line, widths, figures, strict=True)
        )
        for line in [columns, ["-" * width for width in widths], *cells]
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    text = _cell(value)
    return f"{text[:12]}…" if isinstance(text, str) and len(text) == 64 and text.isalnum() else str(text)  # a file's hash
