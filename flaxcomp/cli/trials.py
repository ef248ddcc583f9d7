"""Trials as a command is given them: by their ids, or the beginnings of those."""

from collections.abc import Iterable, Sequence

from flaxcomp.errors import UserError


def trials_named(starts: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """The one id that each of `starts` is or begins.

    Raises:
        UserError: none does, or several do.
    """
    known = list(known)
    return tuple(_named(start, known) for start in starts)


def _named(start: str, known: Sequence[str]) -> str:
    found = [start] if start in known else [trial for trial in known if trial.startswith(start)]
    if not found or not start:
        raise UserError(f"No trial {start!r} in this run: `flaxcomp results RUN` lists all.")
    if len(found) > 1:
        raise UserError(f"Several ids begin with {start!r}: {', '.join(sorted(found)[:5])}. Give more of one.")
    return found[0]
