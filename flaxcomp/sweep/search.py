"""Which points `method: optuna` tries next. The only home of Optuna, which is imported when it is asked.

What is suggested is a function of the sweep and of what the points before have come to, and of nothing else: for every batch a
study is built anew, in which those points are asked and told in their order, with a seed that depends on their number. So it
makes no difference whether a run was interrupted, and nothing of the sampler's has to be kept.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flaxcomp.errors import MissingPackageError, SweepFileError
from flaxcomp.sweep.columns import METHOD_COLUMNS
from flaxcomp.sweep.document import Node, Place, dotted
from flaxcomp.sweep.parameters import Block, Choices, Interval, Key, Parameter, Steps
from flaxcomp.sweep.spec import Metric, Sampler, Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from flaxcomp.sweep.load import LoadedSweep

# What is known of a trial when its training has ended, test figures left out: they choose nothing.
FIGURES = ("val_accuracy", "val_top5_accuracy", "params", "trainable_params", "macs", "train_seconds",
           *(name for name in METHOD_COLUMNS if not name.startswith("test_")))  # fmt: skip

Values = Mapping[str, Any]  # of the parameters that are searched over, by their dotted names


@dataclass(frozen=True)
class Tried:
    """A point that was asked for; `figures` are those of the sweep's metrics, None if it came to nothing."""

    values: Values
    figures: tuple[float, ...] | None


def check_search(sweep: Sweep, document: Node, blocks: Sequence[Block]) -> None:
    """Refuse what cannot be searched.

    Raises:
        SweepFileError: there are several grids, nothing varies, or a metric is not known when the training ends.
    """
    place = document.place
    if len(blocks) > 1:
        raise place.at(("parameters",)).error(
            f"`method: optuna` searches one space: parameters must be one mapping, got a list of {len(blocks)}"
        )
    if not any(_varies(parameter.source) for block in blocks for parameter in block):
        raise place.at(("method",)).error("`method: optuna` needs parameters with more than one value to choose from")
    config = {_name(parameter) for block in blocks for parameter in block if _is_numeric(parameter.source)}
    for index, metric in enumerate(sweep.metrics):
        if metric.name not in FIGURES and metric.name not in config:
            raise place.at(("metrics", index, "name")).error(
                f"`method: optuna` learns from what a training yields ({', '.join(FIGURES[:6])}, figures of methods, numeric "
                f"parameters); {metric.name} is {_why(metric)}. Search without it, and rank with it in another sweep's metrics"
            )


def suggest(loaded: "LoadedSweep", tried: Sequence[Tried], count: int) -> list[tuple[Key, ...]]:
    """The next points, which all are to be tried before it is asked again.

    Args:
        loaded: the sweep.
        tried: all points before, in the order in which they were asked for.
        count: how many.

    Returns:
        keys of the parameters, in their order, as `expand` takes them.

    Raises:
        MissingPackageError: Optuna is not installed.
    """
    (block,) = loaded.blocks
    space = {_name(parameter): _distribution(parameter.source) for parameter in block if _varies(parameter.source)}
    with _quiet() as optuna:
        study = optuna.create_study(
            directions=[metric.goal for metric in loaded.sweep.metrics], sampler=_sampler(loaded.sweep, len(tried))
        )
        for one in tried:
            keys = dict(zip(map(_name, block), keys_of(block, one.values), strict=True))
            if all(_is_inside(parameter.source, keys[_name(parameter)]) for parameter in block):
                _tell(study, space, keys, one.figures)
        asked = [study.ask(space).params for _ in range(count)]
    return [tuple(_key(parameter.source, params.get(_name(parameter), 0)) for parameter in block) for params in asked]


def values_of(block: Block, point: Sequence[Key]) -> dict[str, Any]:
    """A point as what it stands for, which holds also when values are added to the file."""
    return {_name(parameter): parameter.source.value(key) for parameter, key in zip(block, point, strict=True)}


def keys_of(block: Block, values: Values) -> tuple[Key, ...]:
    """The reverse of `values_of`.

    Raises:
        SweepFileError: the parameters have changed so that the point is none of theirs.
    """
    keys: list[Key] = []
    for parameter in block:
        name = _name(parameter)
        found = _find(parameter.source, values[name]) if name in values else None
        if found is None:
            raise _changed(parameter.place, name)
        keys.append(found)
    if gone := set(values).difference(map(_name, block)):
        raise _changed(block[0].place, min(gone))
    return tuple(keys)


def _tell(
    study: "optuna.Study", space: "dict[str, BaseDistribution]", keys: Mapping[str, Key], figures: tuple[float, ...] | None
) -> None:
    from optuna.trial import TrialState

    study.enqueue_trial({name: keys[name] for name in space})
    trial = study.ask(space)
    if figures is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, list(figures))


def _distribution(source: Choices | Interval) -> "BaseDistribution":
    """Listed values are categories, known by their places; ranges and intervals have an order."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(source, Choices):
        if isinstance(source.values, list):
            return CategoricalDistribution(range(source.count))
        return IntDistribution(0, source.count - 1)
    if source.distribution == "int_uniform":
        return IntDistribution(int(source.low), int(source.high))
    return FloatDistribution(source.low, source.high, log=source.distribution == "log_uniform")


def _is_inside(source: Choices | Interval, key: Key) -> bool:
    """Not where the file's interval has become smaller since."""
    return isinstance(source, Choices) or source.low <= key <= source.high


def _key(source: Choices | Interval, param: Any) -> Key:
    return source.nearest(param) if isinstance(source, Interval) else int(param)


def _find(source: Choices | Interval, value: Any) -> Key | None:
    if isinstance(source, Interval):
        return value if isinstance(value, int | float) else None
    if isinstance(source.values, range):  # perhaps a long one
        return source.values.index(value) if type(value) is int and value in source.values else None
    return next((key for key in range(source.count) if source.value(key) == value), None)


def _name(parameter: Parameter) -> str:
    return dotted(parameter.path)


def _varies(source: Choices | Interval) -> bool:
    return isinstance(source, Interval) or source.count > 1


def _is_numeric(source: Choices | Interval) -> bool:
    if isinstance(source, Interval) or isinstance(source.values, range | Steps):  # which may be long
        return True
    return all(type(value) in (int, float) for value in source.values)


def _why(metric: Metric) -> str:
    return "of the test set, which chooses nothing" if metric.name.startswith("test_") else "not among them"


def _changed(place: Place, name: str) -> SweepFileError:
    return place.error(
        f"a search goes on in the space that it began in, but {name} has changed in another way than by new values: "
        "give the changed sweep a run folder of its own (--out)"
    )


def _sampler(sweep: Sweep, number: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import TPESampler

    spec = sweep.sampler or Sampler()
    seed = int.from_bytes(hashlib.sha256(f"{sweep.sampling_seed} {number}".encode()).digest()[:4])
    if spec.name == "nsga2":
        return _nsga2(spec.batch, seed)
    # The liar: within a batch, what is asked for counts as bad until it is known, so that no two are the same.
    return TPESampler(n_startup_trials=spec.batch, constant_liar=True, seed=seed)


def _nsga2(batch: int, seed: int) -> "optuna.samplers.BaseSampler":
    """NSGA-II whose generations are the batches; its own are counted in asking, and points of before are not asked for."""
    from optuna.samplers import NSGAIISampler
    from optuna.trial import FrozenTrial, TrialState

    class Batches(NSGAIISampler):  # type: ignore[misc]
        def get_trial_generation(self, study: "optuna.Study", trial: FrozenTrial) -> int:  # noqa: ARG002
            return int(trial.number) // batch

        def get_population(self, study: "optuna.Study", generation: int) -> list[FrozenTrial]:
            found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return [trial for trial in found if trial.number // batch == generation]

        def get_parent_population(self, study: "optuna.Study", generation: int) -> list[FrozenTrial]:
            found = super().get_parent_population(study, generation)
            return found if len(found) > 1 else []  # too few to cross: at random

    return Batches(population_size=max(2, batch), seed=seed)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna, which else would log every study and warn of what is experimental in it."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise MissingPackageError("`method: optuna` needs the package optuna: pip install 'flaxcomp[full]'") from None
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)
