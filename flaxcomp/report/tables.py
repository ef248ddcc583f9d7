"""Tables as data, before HTML or Markdown is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """What a reader sees, and by what the column is sorted.

    `trial` cells hold a trial id that can be copied; `long` ones text that may be cut in the middle of a page.
    """

    text: str
    order: float | str | None = None  # None sorts last; the text itself where nothing else is given and kind is not number
    kind: Literal["text", "number", "trial", "long"] = "text"


@dataclass(frozen=True)
class Table:
    """Columns and rows of equal length."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def without_empty_columns(self) -> "Table":
        """The table without columns in which no row has anything."""
        kept = [index for index in range(len(self.columns)) if any(row[index].text not in ("", "–") for row in self.rows)]
        return Table(tuple(self.columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in self.rows))


def number(text: str, value: float | None) -> Cell:
    """A right-aligned figure, sorted by its value."""
    return Cell(text, value, "number")


def markdown(table: Table, limit: int = 50) -> str:
    """A GitHub table of the first `limit` rows."""
    lines = [
        _line([_escaped(name) for name in table.columns]),
        _line(["---:" if _numeric(table, index) else "---" for index in range(len(table.columns))]),
    ]
    lines += [
        _line([f"`{cell.text}`" if cell.kind == "trial" else _escaped(cell.text) for cell in row]) for row in table.rows[:limit]
    ]
    if len(table.rows) > limit:
        lines.append(f"\n{len(table.rows) - limit} more rows are in the HTML report.")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _numeric(table: Table, index: int) -> bool:
    return bool(table.rows) and table.rows[0][index].kind == "number"


def _escaped(text: str) -> str:
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
