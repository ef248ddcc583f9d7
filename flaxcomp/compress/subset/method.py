"""Distill-Net as a method of compression: heat maps, thresholds, the smaller network and what it is worth."""

import functools
import json
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from flaxcomp.compress.method import Found, Shape, Workshop
from flaxcomp.compress.prune.coupling import Coupling, couple, evaluated
from flaxcomp.compress.prune.follow import leaves_of
from flaxcomp.compress.subset.bitmaps import HeatMap
from flaxcomp.compress.subset.channels import Channels
from flaxcomp.compress.subset.classes import kept
from flaxcomp.compress.subset.heat import HeatStore
from flaxcomp.compress.subset.search import Reduction, Step, find
from flaxcomp.compress.subset.smaller import Smaller, last_layer
from flaxcomp.compress.subset.subject import Judge, Subject, state_of
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.models.outputs import Traced
from flaxcomp.sweep.compression.subset import Subset
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.train.fit import Stop
from flaxcomp.train.inputs import input_shape
from flaxcomp.train.job import Event

_PROGRESS = "thresholds"


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """Refuse what the network makes impossible; see `flaxcomp.compress.method.Method`."""
    block, model = _block(config), registry.shipped(config.model)
    if block.partial and model != config.model:
        raise UserError(f"subset.partial must be false for {model['name']}: it leaves training in another form, for which "
                        "bitmaps are not made")  # fmt: skip
    network = evaluated(model, shape, classes)
    traced = Traced(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if not traced.outputs:
        raise UserError(f"subset needs a layer before the last one to take something from: {model['name']} has none")
    if block.outputs == "kept":
        last_layer(traced.last, leaves_of(network))
    _coupling(json.dumps(model), shape, classes)


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """Find what the kept classes need; see `flaxcomp.compress.method.Method`."""
    block, labels, spec = _block(workshop.config), workshop.info.labels, workshop.config.dataset
    source, shape, total = workshop.source, workshop.shape, workshop.classes
    classes = kept(block, labels)
    network = source.module
    subject = _subject(json.dumps(source.model), spec, workshop.info)
    state = state_of(network)
    heat, computed = _heat(workshop, block, subject, state, classes)
    yield workshop.note(f"heat maps of {len(classes)} classes, {computed} of them new")

    channels = Channels(_coupling(json.dumps(source.model), shape, total), subject.traced.outputs)
    reduction = Reduction(network, subject, channels, heat, block.partial)
    judges = _judges(workshop, block, classes)
    wrong = judges["val"].wrong(subject, state, subject.no_masks())
    steps: list[Step] = []
    _, done = workshop.kept(_PROGRESS) or ({}, {})
    stop = functools.partial(_stop, workshop)
    for step in find(reduction, judges["val"], block, wrong, done, stop):
        steps.append(step)
        workshop.keep(_PROGRESS, {}, {s.layer: s.index for s in steps})
        yield workshop.note(f"{step.layer}: threshold {step.index + 1} of {step.candidates}")
    return _found(workshop, block, reduction, judges, steps, classes)


def _stop(workshop: Workshop) -> None:
    if workshop.should_stop():
        raise Stop


def _block(config: TrialConfig) -> Subset:
    assert config.subset is not None, "it is the trial's method"
    return config.subset


@functools.lru_cache(maxsize=4)
def _subject(model: str, spec: Dataset, info: DatasetInfo) -> Subject:
    """One for all trials that start from networks of a model: its programs are compiled once."""
    return Subject(evaluated(json.loads(model), input_shape(spec, info), info.num_classes), spec, info)


@functools.lru_cache(maxsize=8)
def _coupling(model: str, shape: Shape, classes: int) -> Coupling:
    return couple(json.loads(model), shape, classes)


def _heat(
    workshop: Workshop, block: Subset, subject: Subject, state: Any, classes: tuple[int, ...]
) -> tuple[dict[str, HeatMap], int]:
    """The heat maps of the kept classes, fused, by layer; and how many classes' were computed."""
    assert workshop.config.source is not None
    data, spec = workshop.data, workshop.config.dataset
    about = [msgspec.to_builtins(spec), workshop.info.fingerprint]
    store = HeatStore(workshop.paths.heat_maps(workshop.config.source), subject, state, data.train_images, data.train_labels,
                      workshop.split.train, block.images_per_class, about)  # fmt: skip
    largest: dict[str, HeatMap] = {}
    for _, maps in store.of(classes):
        _stop(workshop)
        largest = {layer: np.maximum(maps[layer], largest.get(layer, maps[layer])) for layer in maps}
    return {output.layer: largest[output.layer] for output in subject.traced.outputs}, len(store.computed)


def _judges(workshop: Workshop, block: Subset, classes: tuple[int, ...]) -> dict[str, Judge]:
    """`val` chooses, `test` only reports.

    Raises:
        UserError: there is no image of the kept classes.
    """
    data = workshop.data
    among = np.isin(np.arange(workshop.classes), classes) | (block.outputs == "all")
    judges = {
        "val": Judge(data.train_images, data.train_labels, workshop.split.validation, classes, among),
        "test": Judge(data.test_images, data.test_labels, np.arange(len(data.test_labels)), classes, among),
    }
    for name, judge in judges.items():
        if not judge.count:
            raise UserError(f"subset: the {'held-out' if name == 'val' else name} images must have some of the kept classes "
                            f"{list(classes)}, there are none")  # fmt: skip
    return judges


def _found(
    workshop: Workshop,
    block: Subset,
    reduction: Reduction,
    judges: dict[str, Judge],
    steps: list[Step],
    classes: tuple[int, ...],
) -> Found:
    smaller, whole = Smaller.of(reduction), reduction.subject
    subject = Subject(smaller.network, workshop.config.dataset, workshop.info)
    if block.outputs == "kept":
        unwanted = ~np.isin(np.arange(workshop.classes), classes)
        value = judges["val"].lowest(subject, state_of(smaller.network), subject.no_masks() | smaller.masks)
        smaller = smaller.without_outputs(last_layer(subject.traced.last, leaves_of(smaller.network)), unwanted, value)
    figures: dict[str, Any] = {"subset_kept_classes": len(classes), "subset_removed_classes": workshop.classes - len(classes)}
    for name, judge in judges.items():
        state = state_of(smaller.network)
        accuracies = {
            "before": judge.accuracy(whole, state_of(reduction.network), whole.no_masks()),
            "after": judge.accuracy(subject, state, subject.no_masks() | smaller.masks),
        }
        if block.partial:
            accuracies["after_whole"] = judge.accuracy(subject, state, subject.no_masks())
        figures |= {f"subset_{name}_accuracy_{when}": accuracy for when, accuracy in accuracies.items()}
        figures[f"subset_{name}_images"] = judge.count
    before, after = (
        count(model, workshop.shape, workshop.classes) for model in (reduction.channels.coupling.model, smaller.cut.model)
    )
    figures |= smaller.figures(before, after)
    labels = [workshop.info.labels[number] for number in classes]
    details = {"classes": labels, "layers": smaller.layers(steps, before, after)}
    return Found(smaller.model, smaller.weights, figures, details, trains=False)
