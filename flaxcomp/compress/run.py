"""A trial whose network is made smaller: find the smaller network, then train it as any other."""

import importlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from typing import cast

from msgspec.structs import replace

from flaxcomp import durable
from flaxcomp.compress.method import Found, Method, Shape, Workshop, as_plain, job_of
from flaxcomp.models import registry
from flaxcomp.sweep.compression import METHODS, figures_of, method_of
from flaxcomp.sweep.compression.retraining import retrained
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.fit import Stop
from flaxcomp.train.job import Event, Finished, PackJob, Stopped
from flaxcomp.train.pack import Trainer
from flaxcomp.train.variant import PLAIN

_FOUND = "found"  # what a search ended with, as `Workshop.keep_model` calls it


def load_method(name: str) -> Method:
    """The method of a block."""
    return cast(Method, importlib.import_module(f"flaxcomp.compress.{name}.method"))


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """Refuse what the network makes impossible for a trial's method, from its shapes alone, before anything is trained.

    Where other methods come before, it is the network of the trial's `model` as far as these change its layers by what they are
    told (`outlook`). The widths that a search will find are not known yet, and every method can do with narrower layers what
    it can do with these, unless it is told how narrow; so the search asks again of the network that was found.

    Raises:
        UserError: see `flaxcomp.compress.method.Method`.
    """
    own = method_of(config)
    assert own is not None
    for name in METHODS[: METHODS.index(own)]:
        if getattr(config, name) is not None and hasattr(before := load_method(name), "outlook"):
            config = replace(config, model=before.outlook(config, shape, classes))
    load_method(own).check(config, shape, classes)


def train(trainer: Trainer, job: PackJob, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Yield what happens to the one trial of a pack; see `Trainer.train`.

    A search that was interrupted goes on from what it has kept, and one that has ended is not repeated.
    """
    workshop = Workshop(trainer, job, should_stop)
    name = method_of(workshop.config)
    assert name is not None
    method = load_method(name)
    variant = method.variant(workshop.config) if hasattr(method, "variant") else PLAIN
    try:
        found, seconds = yield from _search(workshop, method)
    except Stop:
        yield Stopped(job.pack_id, job.attempt)
        return
    assert found.figures.keys() <= set(figures_of(name)), f"{name}: {sorted(found.figures)} must be among its FIGURES"
    train = retrained(workshop.plain.train, getattr(workshop.config, name)) if found.trains else workshop.plain.train
    config = replace(workshop.plain, model=found.model, train=train)
    inner = job_of(job, workshop.trial, config)
    more = found.figures | {"search_seconds": seconds}
    if not found.trains:
        assert found.weights is not None, f"{name} found a network that needs no training, and no weights"
        results = trainer.finish(inner, found.weights, variant)
        _write(workshop, found)
        yield Finished(job.pack_id, job.attempt, {workshop.trial: results[workshop.trial] | more})
        return
    for event in trainer.train(inner, should_stop, found.weights, variant):
        if isinstance(event, Finished):
            _write(workshop, found)
            yield Finished(job.pack_id, job.attempt, {workshop.trial: event.results[workshop.trial] | more})
        else:
            yield event


def _search(workshop: Workshop, method: Method) -> Generator[Event, None, tuple[Found, float]]:
    """The method's result and the seconds that this attempt, or the one that ended it, took."""
    kept = workshop.kept_model(_FOUND)
    if kept is not None:
        model, meta = kept
        seconds: float = meta["seconds"]
        weights = model if meta["has_weights"] else None
        return Found(meta["model"], weights, meta["figures"], meta["details"], meta["trains"]), seconds
    began = time.monotonic()
    check(workshop.config, workshop.shape, workshop.classes)
    if registry.canonical(workshop.source.model) != registry.canonical(registry.shipped(workshop.config.model)):
        found_before = replace(workshop.config, model=workshop.source.model)
        method.check(found_before, workshop.shape, workshop.classes)
    found = yield from method.search(workshop)
    seconds = time.monotonic() - began
    meta = {"model": found.model, "figures": found.figures, "details": found.details, "trains": found.trains,
            "has_weights": found.weights is not None, "seconds": seconds}  # fmt: skip
    workshop.keep_model(_FOUND, found.weights or {"params": {}, "stats": {}}, as_plain(meta))
    return found, seconds


def _write(workshop: Workshop, found: Found) -> None:
    """Say beside the weights what network they are of, before the trial counts as finished."""
    model = registry.canonical(found.model)
    durable.write_text(workshop.paths.network_file(workshop.trial), json.dumps({"model": model}))
    details = {"figures": found.figures, "details": found.details}
    durable.write_text(workshop.paths.compression_file(workshop.trial), json.dumps(as_plain(details)))
