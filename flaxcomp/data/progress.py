"""How long work tells its caller where it is."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with the stage, what is done, and the total, in images or bytes; a total of 0 is unknown.

It may be called while standard output is set aside; print on standard error.
"""


def silent(_stage: str, _done: int, _total: int) -> None:
    """A `Report` that says nothing."""
