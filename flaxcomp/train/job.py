"""What a worker is asked to do and what it tells while doing it: plain data that any executor can carry."""

from dataclasses import dataclass, field
from typing import Any, Literal

from flaxcomp.sweep.spec import TrialConfig


@dataclass(frozen=True)
class PackJob:
    """One attempt at a pack.

    Attributes:
        root: the run folder, which the worker must see.
        signature: of the compiled program; warm workers keep programs by it.
        configs: by trial id, in the order of the pack.
        teachers: configurations of the trials that these learn from, by id; they are finished.
        teaches: those of this pack that other trials learn from.
        pause_at: after so many epochs the pack pauses, if it has more.
        origins: of trials that paused in another pack, that pack, whose checkpoint has them after `origin_epoch` epochs.
    """

    root: str
    pack_id: str
    attempt: int
    signature: str
    configs: dict[str, TrialConfig]
    teachers: dict[str, TrialConfig] = field(default_factory=dict)
    teaches: tuple[str, ...] = ()
    pause_at: int | None = None
    origins: dict[str, str] = field(default_factory=dict)
    origin_epoch: int = 0


@dataclass(frozen=True)
class Event:
    """Something that happened to one attempt at a pack."""

    pack_id: str
    attempt: int


@dataclass(frozen=True)
class Tick(Event):
    """Progress to show, not to keep: images trained and to train in this pack, all trials together, and the present speed.

    The speed is None after a dispatch that was compiled first.
    """

    images_done: int
    images_total: int
    images_per_second: float | None


@dataclass(frozen=True)
class Note(Event):
    """A line for the run's log, such as a checkpoint that had to be passed over."""

    text: str


@dataclass(frozen=True)
class EpochDone(Event):
    """A row per trial: trial, epoch (1-based), train_loss, val_loss, val_accuracy, learning_rate, images_per_second."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Finished(Event):
    """All trials are trained and their networks written; results by trial id."""

    results: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Stopped(Event):
    """Stopped as asked, with a checkpoint to go on from."""


@dataclass(frozen=True)
class Paused(Stopped):
    """Stopped after the epoch that the job names, to be decided on; results by trial id, as far as they are known."""

    epoch: int
    results: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Failed(Event):
    """The attempt ended early.

    kind: `error` the configuration's own; `out_of_memory`; `lost` worker or node; `storage` disk full or not writable.
    """

    kind: Literal["error", "out_of_memory", "lost", "storage"]
    error: str
    detail: str = ""
