"""Who may write: one controller at a time, and nothing from one that was superseded."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from flaxcomp.errors import UserError


@dataclass(frozen=True)
class Lease:
    """The right to write a run's records, given by `Store.acquire`; every write names it.

    Attributes:
        run_id: the run.
        fence: grows with every acquire; a write under a smaller one is refused.
    """

    run_id: str
    fence: int


class LeaseLostError(UserError):
    """Another controller has taken the run over: this one must stop and record nothing more."""


class LateAttemptError(Exception):
    """A worker reports on an attempt that was given up or has ended; what it brings is not recorded."""


@dataclass(frozen=True)
class Owner:
    """The controller that holds, or last held, the lease of a run.

    Attributes:
        process: what `process_identity` said of it.
        acquired_at, heartbeat_at: seconds since 1970 by the clock of `host`.
        ttl_s: how long after a heartbeat it is taken to be alive.
        active_s: seconds that controllers have worked on this run, this one included.
    """

    host: str
    pid: int
    process: str | None
    held: bool
    acquired_at: float
    heartbeat_at: float
    ttl_s: float
    active_s: float

    def alive(self, *, host: str, now: float) -> bool:
        """Whether this controller is at work, as far as somebody on `host` can tell at `now`."""
        if not self.held or now > self.heartbeat_at + self.ttl_s:
            return False
        return self.host != host or (self.process is not None and self.process == process_identity(self.pid))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.acquired_at))
        return f"process {self.pid} on {self.host}, since {since}"


def process_identity(pid: int) -> str | None:
    """Return what tells process `pid` of this machine from a later one of the same number; None when there is no such process.

    On Linux: the boot and the start time in clock ticks (proc(5), /proc/pid/stat, field 22); elsewhere only that there is one.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "exists"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the command's name before it may hold spaces and parentheses
    return None if state == "Z" else f"{boot}:{fields[18]}"
