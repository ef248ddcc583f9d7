"""What the controller needs of a place that trains packs."""

from typing import Protocol

from flaxcomp.train.job import Event, PackJob


class Executor(Protocol):
    """Warm workers, each training one pack at a time."""

    @property
    def slots(self) -> int:
        """How many packs can train at once."""

    @property
    def free(self) -> list[str]:
        """The names, for people, of the workers that could begin a pack now, in the order in which `start` takes them."""

    def start(self, job: PackJob) -> None:
        """Begin a pack on the first free worker."""

    def events(self, timeout_s: float) -> list[Event]:
        """Return what happened since the last call, waiting up to `timeout_s` for the first thing."""

    def request_stop(self) -> None:
        """Ask all workers to write a checkpoint and stop; each answers with Stopped. No pack may be started after it."""

    def close(self) -> None:
        """Let the workers go."""
