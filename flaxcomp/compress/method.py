"""What a method of compression is given, and what it gives back."""

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from flax import nnx
from msgspec.structs import replace

from flaxcomp.checkpoint.trees import flatten, nest
from flaxcomp.compress import progress
from flaxcomp.models import registry
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep import ids
from flaxcomp.sweep.compression import METHODS, method_of
from flaxcomp.sweep.spec import Distill, Schedule, TrialConfig
from flaxcomp.train.fit import Fit, Stop
from flaxcomp.train.found import as_trained
from flaxcomp.train.job import Event, Note, PackJob
from flaxcomp.train.pack import Trainer
from flaxcomp.train.program import Model, Program
from flaxcomp.train.restore import load_model, weights_of
from flaxcomp.train.teachers import StoppedError
from flaxcomp.train.variant import PLAIN, Variant

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        model: name and options, `widths` included where they are not the architecture's own.
        module: in eval mode.
    """

    model: dict[str, Any]
    module: nnx.Module

    @cached_property
    def weights(self) -> Model:
        """{"params", "stats"}: nested dictionaries of NumPy arrays."""
        return weights_of(self.module)


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        model: of the smaller network.
        weights: what is left of the trained ones, {"params", "stats"}; None: it begins at random.
        figures: what is kept beside the trial's results, by name: numbers, texts.
        details: JSON that is written beside the network.
        trains: whether it is trained further; if not, `weights` are what leaves.
    """

    model: dict[str, Any]
    weights: Model | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    details: Any = None
    trains: bool = True


class Method(Protocol):
    """The file `method` of a method's folder; the folder's name is that of its block.

    A file may also have `variant(config) -> Variant`: what the training of the network that was found does besides; and
    `outlook(config, shape, classes) -> model`: the model that it leads to as far as the configuration says, its layers' kinds.
    """

    def check(self, config: TrialConfig, shape: Shape, classes: int) -> None:
        """Refuse what the network makes impossible, from its shapes alone, before anything is trained.

        Args:
            config: of a trial whose own method this is.
            shape: height, width and channels of what the network sees. classes: of the data set.

        Raises:
            UserError: what must hold, by the key.
        """

    def search(self, workshop: "Workshop") -> Generator[Event, None, Found]:
        """Find the smaller network.

        Raises:
            Stop: asked to stop; the next attempt goes on from what `Workshop.keep` has.
        """


class Workshop:
    """All that a method works with, for one trial.

    Attributes:
        config: of the trial. trial: its id.
        paths: of the run folder.
        data, info: the data set.
    """

    def __init__(self, trainer: Trainer, job: PackJob, should_stop: Callable[[], bool]) -> None:
        ((self.trial, config),) = job.configs.items()
        self.paths, self.data, self.info = RunPaths.at(job.root), trainer.data, trainer.data.info
        self.config = with_tables(config, self.paths.weights)
        self.should_stop = should_stop
        self._trainer, self._job = trainer, job

    @cached_property
    def plain(self) -> TrialConfig:
        """The trial's configuration without methods of compression: how its networks train."""
        return without_methods(self.config)

    @cached_property
    def source(self) -> Network:
        """The trained network that is made smaller, in the form in which it left its training."""
        assert self.config.source is not None
        before = as_trained(self.paths, self.config.source, before_method(self.config))
        module = load_model(self.paths.model(self.config.source), before, self.info)
        return Network(registry.shipped(before.model), module)

    @property
    def shape(self) -> Shape:
        return self.program().image_shape

    @property
    def classes(self) -> int:
        return self.info.num_classes

    @property
    def split(self) -> Any:
        """The training images' indices: `train` and `validation`, int32 [n]."""
        return self.program().split

    def program(self, config: TrialConfig | None = None, variant: Variant = PLAIN) -> Program:
        """The program of the source's architecture, or of a configuration's; compiled once however often it is asked for."""
        return self._trainer.program(self._job_of(config), variant)

    def fit(self, config: TrialConfig | None = None, variant: Variant = PLAIN) -> Fit:
        """Short trainings of networks of the source's architecture, or of a configuration's (`plain` with changes)."""
        job = self._job_of(config)
        program, teachers = self._trainer.program(job, variant), self._trainer.teachers
        try:
            lessons = teachers.lessons(job, program, self.should_stop)
        except StoppedError:
            raise Stop from None
        return Fit(program, job.configs[self.trial], lessons, teachers.places(job)[0], self.should_stop)

    def tuning(self, model: dict[str, Any], rate: float | None) -> TrialConfig:
        """How a network trains for some steps of a search: as the trial says, but at a constant rate and without its phases.

        Args:
            model: the network's. rate: None: a tenth of the trial's.
        """
        train = self.plain.train
        optimizer = train.phases[-1].optimizer if train.phases else train.optimizer
        optimizer = replace(optimizer, learning_rate=rate or optimizer.learning_rate / 10)
        train = replace(train, optimizer=optimizer, schedule=Schedule(), phases=(), init_from=None)
        return replace(self.plain, model=model, train=train, distill=with_hints_beside(self.plain.distill))

    def note(self, text: str) -> Event:
        """A line for the run's log; yield it."""
        return Note(self._job.pack_id, self._job.attempt, text)

    def keep(self, name: str, arrays: dict[str, npt.NDArray[Any]], meta: Any) -> None:
        """Keep what a search has found so far; `name` is a file's."""
        progress.keep(self.paths.search(self._job.pack_id), name, arrays, meta)

    def kept(self, name: str) -> tuple[dict[str, npt.NDArray[Any]], Any] | None:
        """What an earlier attempt kept, or None."""
        return progress.kept(self.paths.search(self._job.pack_id), name)

    def keep_model(self, name: str, model: Model, meta: Any) -> None:
        """As `keep`, for a network's weights."""
        self.keep(name, flatten({"params": model["params"], "stats": model["stats"]}), meta)

    def kept_model(self, name: str) -> tuple[Model, Any] | None:
        """As `kept`, for what `keep_model` kept."""
        found = self.kept(name)
        if found is None:
            return None
        tree = nest(found[0])
        return {"params": tree.get("params", {}), "stats": tree.get("stats", {})}, found[1]

    def _job_of(self, config: TrialConfig | None) -> PackJob:
        config = config or replace(self.plain, model=self.source.model)
        return job_of(self._job, self.trial, config)


def job_of(job: PackJob, trial: str, config: TrialConfig) -> PackJob:
    """The job with another configuration in the place of the trial's."""
    return dataclasses.replace(job, configs={trial: config}, signature=ids.signature(config))


def with_tables(config: TrialConfig, place: Callable[[str], Path]) -> TrialConfig:
    """The configuration in which tables of measured layers are paths, as `place` knows them by their content."""
    changed = {}
    for name in METHODS:
        table = getattr(getattr(config, name), "costs", None)
        if table is not None:
            changed[name] = replace(getattr(config, name), costs=str(place(table)))
    return replace(config, **changed)


def before_method(config: TrialConfig) -> TrialConfig:
    """The configuration of a trial's source, but for where that one came from."""
    own = method_of(config)
    assert own is not None
    before = replace(config, **{own: None})
    return before if method_of(before) else replace(before, source=None)


def with_hints_beside(distill: Distill | None) -> Distill | None:
    """The distillation whose hints, if any, are learnt beside the loss all along, and not alone for some epochs before it.

    Trainings within a search go on from weights and may be shorter than those epochs.
    """
    if distill is None or distill.hint is None:
        return distill
    return replace(distill, hint=replace(distill.hint, epochs=0))


def without_methods(config: TrialConfig) -> TrialConfig:
    return replace(config, source=None, **dict.fromkeys(METHODS))


def as_plain(value: Any) -> Any:
    """JSON's own types: NumPy's numbers and arrays become Python's."""
    return msgspec.to_builtins(value, enc_hook=_builtin)


def _builtin(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
