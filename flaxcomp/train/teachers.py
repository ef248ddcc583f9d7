"""What students learn from: their teachers' logits of every training image or, where images change at random, the network."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from flaxcomp import durable
from flaxcomp.checkpoint.models import load_model
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.job import PackJob
from flaxcomp.train.program import Lessons, Program
from flaxcomp.train.resident import Resident

Logits = npt.NDArray[np.float32]


class Teachers:
    """Finished networks of one data set that others learn from.

    Args:
        data: the data set.
    """

    def __init__(self, data: Resident) -> None:
        self._data = data

    def network(self, job: PackJob) -> Callable[[Any, jax.Array], jax.Array] | None:
        """The teacher as `Program` takes it; None where the students' images are the same in every epoch."""
        config = _first(job)
        if config.distill is None or not config.train.augment.is_random:
            return None
        return Program(job.teachers[config.distill.teacher], self._data).network

    def lessons(self, job: PackJob) -> tuple[Lessons, list[int]]:
        """Return what `Program.train` takes as `lessons`, and the place of each trial's teacher in it.

        Raises:
            UserError: a teacher's network is missing or damaged.
        """
        wanted = [config.distill.teacher for config in job.configs.values() if config.distill]
        if not wanted:
            return None, [0] * len(job.configs)
        if _first(job).train.augment.is_random:  # these students have one teacher: it is in their signature
            model: Lessons = jax.tree.map(jnp.asarray, load_model(RunPaths.at(job.root).model(wanted[0])))
            return model, [0] * len(wanted)
        ids = sorted(set(wanted))
        table = jnp.asarray(np.stack([self._logits(job.root, teacher, job.teachers[teacher]) for teacher in ids]))
        return table, [ids.index(teacher) for teacher in wanted]

    def write_logits(self, root: str, trial_id: str, program: Program) -> Logits:
        """Compute a finished network's logits of all training images, [n, classes], and keep them for its students."""
        model = load_model(RunPaths.at(root).model(trial_id))
        logits = np.asarray(program.all_logits(model), np.float32)
        content = logits.tobytes()
        durable.write_bytes(RunPaths.at(root).teacher_logits(trial_id), content + _check(content))
        return logits

    def _logits(self, root: str, trial_id: str, config: TrialConfig) -> Logits:
        """From the file; computed again where it is missing or damaged, or was written for other images."""
        shape = (len(self._data.train_labels), self._data.info.num_classes)
        kept = _read(RunPaths.at(root).teacher_logits(trial_id), shape)
        return kept if kept is not None else self.write_logits(root, trial_id, Program(config, self._data))


def _first(job: PackJob) -> TrialConfig:
    return next(iter(job.configs.values()))


def _read(file: Path, shape: tuple[int, int]) -> Logits | None:
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    content, check = stored[:-4], stored[-4:]
    if len(content) != 4 * math.prod(shape) or check != _check(content):
        return None
    return np.frombuffer(content, np.float32).reshape(shape)


def _check(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
