"""A warm worker: JAX imported, data on the device, programs compiled. Knows nothing of Ray."""

import errno
import gc
import os
import platform
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression import method_of
from flaxcomp.train.job import Event, Failed, Finished, PackJob

if TYPE_CHECKING:
    from flaxcomp.data.arrays import Arrays
    from flaxcomp.train.pack import Trainer

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class Worker:
    """Trains packs one after the other and turns errors into events.

    Args:
        accelerator: it was given one, so that training on the CPU would be a mistake.
    """

    def __init__(self, *, accelerator: bool = False) -> None:
        self._accelerator = accelerator
        self._trainers: dict[str, Trainer] = {}
        self._stop = threading.Event()

    @property
    def name(self) -> str:
        return f"{platform.node()}:{os.getpid()}"

    def request_stop(self) -> None:
        """Make `run` end at the next dispatch; for good."""
        self._stop.set()

    def run(self, job: PackJob, arrays: "Arrays | None" = None) -> Iterator[Event]:
        """Train a pack.

        Args:
            job: what to train; all its trials use one data set.
            arrays: the data set, if the caller has it in memory already.

        Yields:
            What happens; the last event is Finished, Stopped or Failed.
        """
        try:
            trainer = self._trainer(job, arrays)
            if method_of(next(iter(job.configs.values()))) is None:
                for event in trainer.train(job, self._stop.is_set):
                    if isinstance(event, Finished):
                        _report_condensation(job, trainer)
                    yield event
            else:
                from flaxcomp.compress import run

                yield from run.train(trainer, job, self._stop.is_set)
        except Exception as error:
            self._trainers.clear()  # whatever state it left behind is not to be trusted
            yield Failed(job.pack_id, job.attempt, kind_of(error), _one_line(error), traceback.format_exc())

    def _trainer(self, job: PackJob, arrays: "Arrays | None") -> "Trainer":
        name = next(iter(job.configs.values())).dataset.name
        if name not in self._trainers:
            from flaxcomp.data.arrays import load
            from flaxcomp.train.pack import Trainer
            from flaxcomp.train.runtime import configure

            configure(accelerator=self._accelerator)
            gc.collect()  # what failed before may hold the device's memory in cycles
            self._trainers[name] = Trainer(arrays or load(name))
        return self._trainers[name]


def _report_condensation(job: PackJob, trainer: "Trainer") -> None:
    """Of networks that prune themselves as they train."""
    from flaxcomp.compress.prune import condensation

    for trial, config in job.configs.items():
        condensation.write(RunPaths.at(job.root), trial, config, trainer.data.info)


def kind_of(error: BaseException) -> Literal["error", "out_of_memory", "storage"]:
    """Tell failures apart: out_of_memory, storage (disk full, failing or not writable), or error (the configuration's own)."""
    text = str(error)
    # The disk first: tensorstore calls a full one RESOURCE_EXHAUSTED, as XLA does a full memory.
    if (isinstance(error, OSError) and error.errno in _DISK) or "No space left on device" in text or "Disk quota" in text:
        return "storage"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return "out_of_memory"
    return "error"


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0][:500] if text else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
