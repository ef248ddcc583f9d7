"""Ways to reach a device. One file a transport; the file's name is the `transport` of a pool file.

A transport's module defines
    Options: a `DeviceOptions` with the keys of its own, all checked when the pool file is read;
    connect(options, note) -> Transport: makes the device ready (it may take minutes once, and tells `note` what it does).
        Raises UserError, saying what to do, when the device cannot be had.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from flaxcomp.errors import UserError, suggest

Note = Callable[[str], None]
DEVICE_FAULTS = frozenset({"unreachable", "timeout", "died", "garbage", "wrong_file", "no_runtime"})


class DeviceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One device of a pool file: what every transport knows."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    threads: Annotated[int, Meta(ge=1)] = 1  # of the runtime
    optional: bool = False  # when it cannot be had, the others are measured and nothing is wrong
    cooldown_s: Annotated[float, Meta(ge=0)] = 0.0  # between processes, where the protocol sleeps less
    timeout_s: Annotated[float, Meta(gt=0)] = 300.0  # for one process, its warm-up not counted
    quarantine_after: Annotated[int, Meta(ge=1)] = 3  # so many faults of the device in a row end its part in a bench


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure depends on besides the network; figures whose facts differ are never pooled."""

    device_model: str
    emulated: bool
    runtime: str
    machine: str  # as `uname -m` says
    memory_of: Literal["process", "emulator"]  # whose memory `peak_memory_bytes` is


class DeviceError(Exception):
    """A job that brought no result.

    Args:
        kind: unreachable, timeout, died (the agent ended without an answer), garbage (it answered something else than a
            result), or what the agent refused with: wrong_file, no_runtime, no_counter, bad_model,
            bad_job, crashed.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def blames_device(self) -> bool:
        """Whether another network might fail on the device in the same way."""
        return self.kind in DEVICE_FAULTS


class Transport(ABC):
    """An open connection to one device."""

    lock: str  # devices with the same lock are never measured at the same time

    @abstractmethod
    def facts(self) -> Facts:
        """Ask the device who it is, by running the agent there: the health check. Raises DeviceError."""

    @abstractmethod
    def put(self, source: Path, name: str) -> None:
        """Send a file; `name` holds the hash of its content, so a file of that name which is there is not sent again."""

    @abstractmethod
    def run(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Run one job in a fresh process of the agent and return its answer. Raises DeviceError."""

    def count(self, _job: dict[str, Any], _timeout_s: float) -> dict[str, Any] | None:
        """Run one job of the task `count` in a fresh process under a counter of instructions. Raises DeviceError.

        None where the device has none, or its options do not ask for one.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind that the next bench would not want. May be called twice."""


def names() -> list[str]:
    """The transports there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """Return the module of a transport. Raises UserError when there is none of that name."""
    if name not in names():
        raise UserError(f"unknown transport {name!r}.{suggest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def connect(options: DeviceOptions, note: Note) -> Transport:
    """Connect to a device of a pool. Raises UserError when it cannot be had."""
    module = importlib.import_module(type(options).__module__)
    transport = module.connect(options, note)
    assert isinstance(transport, Transport)
    return transport
