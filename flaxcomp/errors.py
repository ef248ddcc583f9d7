"""The errors that a user can cause and mend. The command line prints them without a traceback and exits with 2."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 10


class UserError(Exception):
    """Something the user gave is wrong. The message says what must hold, what arrived and what to do."""

    exit_code = 2


class SweepFileError(UserError):
    """A fault in a sweep file, with its place.

    Args:
        message: what must hold, what arrived, what to do.
        file: the file as the user named it.
        line: 1-based line of the offending key or value, where it is known.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        place = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(place + message)
        self.problem, self.file, self.line = message, file, line


class MissingPackageError(UserError):
    """A part of flaxcomp that is not installed was asked for."""


def suggest(given: str, known: Iterable[str], all_of_them: str = "") -> str:
    """Return " Did you mean 'x'?" for the nearest known name, else the known names, of many the ten nearest.

    Args:
        given: what is not known.
        known: the names that are.
        all_of_them: where all stand, told when there are more than ten, such as "`flaxcomp models` lists all".
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    left = len(names) - MOST_NAMED
    if left > 0:
        names = sorted(difflib.get_close_matches(given, names, n=MOST_NAMED, cutoff=0.0))
        return f" Known: {', '.join(names)} and {left} more{f'; {all_of_them}' if all_of_them else ''}."
    return f" Known: {', '.join(names)}." if names else ""
