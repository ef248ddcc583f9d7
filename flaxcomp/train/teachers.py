"""What students learn from: their teachers' logits of every training image or, where images change at random, the networks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxcomp.checkpoint.models import load_model
from flaxcomp.data.augment import variant
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train import memo
from flaxcomp.train.job import PackJob
from flaxcomp.train.lessons import Lessons, Memo, Networks, Table
from flaxcomp.train.memo import Logits
from flaxcomp.train.program import Model, Program
from flaxcomp.train.resident import Resident

_PART = 2000  # images between which a memo can be stopped


class StoppedError(Exception):
    """Asked to stop while a memo was computed; what there is of it is on disk."""


class Teachers:
    """Finished networks of one data set that others learn from.

    Args:
        data: the data set.
    """

    def __init__(self, data: Resident) -> None:
        self._data = data

    def network(self, job: PackJob) -> tuple[Program, ...]:
        """The teachers as `Program` takes them; none where the logits that they have for every image do."""
        return self._programs(job) if _by_network(_first(job)) else ()

    def places(self, job: PackJob) -> list[tuple[int, ...]]:
        """The places of each trial's teachers in the table of logits, where there is one.

        Raises:
            UserError: a teacher has other classes than its student.
        """
        for config in job.configs.values():
            self._check_classes(job, config)
        ids = _ids(job)
        return [tuple(map(ids.index, config.distill.teachers)) if config.distill else (0,) for config in job.configs.values()]

    def memo_note(self, job: PackJob, program: Program) -> str | None:
        """What there is to tell of a memo that `lessons` would compute."""
        config = _first(job)
        if config.distill is None or not self._memoises(job, program):
            return None
        key, paths = memo.key_of(config), RunPaths.at(job.root)
        new = [id_ for id_ in config.distill.teachers if not paths.teacher_memo(id_, key).exists()]
        ways, images = config.train.augment.variants, len(program.split.train)
        return f"memoising the logits of teacher {' and '.join(new)}: {images:,} images changed in {ways} ways" if new else None

    def lessons(self, job: PackJob, program: Program, should_stop: Callable[[], bool] = lambda: False) -> Lessons:
        """Return what `Program.train` takes as `lessons`.

        Args:
            job: the pack.
            program: its program.
            should_stop: asked between the parts of a memo.

        Raises:
            UserError: a teacher's network is missing or damaged.
            StoppedError: as asked.
        """
        config = _first(job)
        if config.distill is None:
            return None
        if not _by_network(config):
            return Table(jnp.asarray(np.stack([self._logits(job.root, id_, job.teachers[id_]) for id_ in _ids(job)])))
        if self._memoises(job, program):
            return self._memo(job, program, should_stop)
        models = [load_model(RunPaths.at(job.root).model(id_)) for id_ in config.distill.teachers]
        return Networks(tuple(jax.tree.map(jnp.asarray, model) for model in models))

    def write_logits(self, root: str, trial_id: str, program: Program) -> Logits:
        """Compute a finished network's logits of all training images, [n, classes], and keep them for its students."""
        model = load_model(RunPaths.at(root).model(trial_id))
        logits = np.asarray(program.all_logits(model), np.float32)
        memo.write_logits(RunPaths.at(root).teacher_logits(trial_id), logits)
        return logits

    def _logits(self, root: str, trial_id: str, config: TrialConfig) -> Logits:
        """From the file; computed again where it is missing or damaged, or was written for other images."""
        shape = (len(self._data.train_labels), _classes(config, self._data))
        kept = memo.read_logits(RunPaths.at(root).teacher_logits(trial_id), shape)
        return kept if kept is not None else self.write_logits(root, trial_id, Program(config, self._data))

    def _memoises(self, job: PackJob, program: Program) -> bool:
        """These students have the same teachers, which are in their signature."""
        if not _first(job).train.augment.is_random:
            return False
        images, classes = len(program.split.train), program.info.num_classes
        return memo.is_worthwhile(list(job.configs.values()), program.steps, images, classes)

    def _memo(self, job: PackJob, program: Program, should_stop: Callable[[], bool]) -> Memo:
        config, paths, images = _first(job), RunPaths.at(job.root), program.split.train
        assert config.distill is not None
        augment, key = config.train.augment, memo.key_of(config)
        tables = []
        for id_, teacher in zip(config.distill.teachers, self._programs(job), strict=True):
            ask = teacher.logits_of(lambda batch, way: variant(batch, augment, way))
            asking = functools.partial(_asked, ask, load_model(paths.model(id_)), images, should_stop)
            shape = (len(images), _classes(job.teachers[id_], self._data))
            tables.append(memo.gather(paths.teacher_memo(id_, key), augment.variants or 1, shape, asking))
        return Memo(jnp.asarray(np.stack(tables)))

    def _programs(self, job: PackJob) -> tuple[Program, ...]:
        distill = _first(job).distill
        return tuple(Program(job.teachers[id_], self._data) for id_ in distill.teachers) if distill else ()

    def _check_classes(self, job: PackJob, config: TrialConfig) -> None:
        own = _classes(config, self._data)
        for id_ in config.distill.teachers if config.distill else ():
            theirs = _classes(job.teachers[id_], self._data)
            if theirs != own:
                raise UserError(f"distill.teacher: a teacher must have its student's {own} classes, but {id_} has {theirs}")


def _asked(
    ask: Callable[[Model, jax.Array, int], jax.Array],
    model: Model,
    images: jax.Array,
    should_stop: Callable[[], bool],
    way: int,
) -> Logits:
    """A teacher's logits of all images changed in one way.

    Raises:
        StoppedError: as asked.
    """
    parts = []
    for first in range(0, len(images), _PART):
        if should_stop():
            raise StoppedError
        parts.append(np.asarray(ask(model, images[first : first + _PART], way), np.float32))
    return np.concatenate(parts)


def _classes(config: TrialConfig, data: Resident) -> int:
    classes: int = config.model.get("num_classes", data.info.num_classes)
    return classes


def _by_network(config: TrialConfig) -> bool:
    return config.distill is not None and (config.distill.asks_network or config.train.augment.is_random)


def _ids(job: PackJob) -> list[str]:
    return sorted({id_ for config in job.configs.values() if config.distill for id_ in config.distill.teachers})


def _first(job: PackJob) -> TrialConfig:
    return next(iter(job.configs.values()))
