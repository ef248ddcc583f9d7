"""Pruning by a criterion, in one step or several: block `prune`.

    1. With a penalty, train on with it (network slimming).
    2. Score the channels of the network as it is, remove the least until the narrower network's cost is low enough
       (`select`). With several steps the cost falls by equal amounts; between two steps what is left is trained a little, or,
       at those of `retrain_at`, in full from random weights.
    3. What is found is a model with other `widths`: it starts from random weights, or from those that are left.

Masked networks are trained between steps: one program serves all of them. A full training compiles one for the narrower
network, and later steps go on from that.
"""

import functools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.compress.costs import make_cost
from flaxcomp.compress.method import Found, Workshop
from flaxcomp.compress.prune.coupling import evaluated
from flaxcomp.compress.prune.evidence import Scorer
from flaxcomp.compress.prune.prepare import Ready, check_ratio, prepare
from flaxcomp.compress.prune.select import Choice, by_rank, normalised, per_saved, select
from flaxcomp.compress.prune.surgery import Cut, mask_of, sliced
from flaxcomp.compress.prune.training import retrain, sparse, tune
from flaxcomp.models import registry
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.inputs import normalise
from flaxcomp.train.job import Event
from flaxcomp.train.program import Model
from flaxcomp.train.restore import weights_of, with_weights

Shape = tuple[int, int, int]

_PROGRESS = "steps"


@dataclass
class _Search:
    """How far it is.

    Attributes:
        model, weights: the network that is being pruned, with zeros where channels have gone.
        alive: by group, the channels of it that are left, where some have gone.
        step: how many steps are done. whole: the cost of the network that came in. history: what each step did.
    """

    model: dict[str, Any]
    weights: Model
    whole: float
    alive: dict[str, list[int]] = field(default_factory=dict)
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """Refuse what the network makes impossible, from its shapes alone; see `flaxcomp.compress.method.Method`."""
    assert config.prune is not None
    check_ratio(prepare(config.prune, registry.shipped(config.model), shape, classes))


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """Find the narrower network; see `flaxcomp.compress.method.Method`."""
    block = workshop.config.prune
    assert block is not None
    first = ready = prepare(block, workshop.source.model, workshop.shape, workshop.classes)
    check_ratio(first)
    progress = yield from _begun(workshop, first)
    steps = block.steps if block.schedule == "iterative" else 1
    scorer = None
    while True:
        if ready.coupling.model != progress.model:
            ready, scorer = prepare(block, progress.model, workshop.shape, workshop.classes), None
        scorer = scorer or _scorer(workshop, ready)
        step = progress.step + 1
        choice = _step(ready, scorer, progress, (1 - block.ratio * step / steps) * progress.whole)
        yield workshop.note(f"pruning step {step} of {steps}: {choice.cost:,.6g} of {progress.whole:,.6g} {block.of} left")
        progress.history.append({"step": step, "cost": choice.cost, "threshold": choice.threshold})
        if step == steps:
            return _found(first, choice, progress)
        yield from _between(workshop, choice.cut, progress, step)


def _begun(workshop: Workshop, ready: Ready) -> Generator[Event, None, _Search]:
    """What an earlier attempt kept, or the source, trained with the penalty if there is one."""
    kept = workshop.kept_model(_PROGRESS)
    if kept is not None:
        weights, meta = kept
        return _Search(weights=weights, **meta)
    source, whole = workshop.source, ready.counted.total(ready.whole)
    weights = source.weights
    if ready.block.penalty:
        weights = yield from sparse(workshop, source.model, weights)
    progress = _Search(source.model, weights, whole)
    if ready.block.penalty:
        _keep(workshop, progress)
    return progress


def _step(ready: Ready, scorer: Scorer, progress: _Search, bound: float) -> Choice:
    """Score what is there, and choose what stays."""
    block = ready.block
    alive = {name: np.asarray(channels) for name, channels in progress.alive.items()}
    found = scorer.scores(progress.weights["params"], progress.weights["stats"])
    scores = normalised(found, block.normalize or ready.criterion.NORMALIZE, alive)
    if block.scope == "layer" or getattr(ready.criterion, "SCOPE", "") == "layer":
        scores = by_rank(scores)
    elif ready.divisor is not None:
        counts = {name: channels.size for name, channels in alive.items()}
        scores = per_saved(scores, ready.divisor.saved(counts), ready.divisor.total(ready.whole))
    return select(scores, ready.counted, bound, ready.whole, alive)


def _between(workshop: Workshop, cut: Cut, progress: _Search, step: int) -> Generator[Event, None, None]:
    """Train what a step has left, and keep it."""
    assert workshop.config.prune is not None
    if step in workshop.config.prune.retrain_at:
        progress.weights, accuracy = yield from retrain(workshop, cut.model, step)
        progress.model, progress.alive = cut.model, {}
    else:
        network = _network(cut, progress.weights)
        mask = mask_of(network, cut)
        progress.weights, accuracy = yield from tune(workshop, progress.model, progress.weights, mask, step)
        progress.alive = {name: channels.tolist() for name, channels in cut.kept.items()}
    progress.step = step
    progress.history[-1]["val_accuracy"] = accuracy
    _keep(workshop, progress)


def _keep(workshop: Workshop, progress: _Search) -> None:
    meta = {"model": progress.model, "whole": progress.whole, "alive": progress.alive, "step": progress.step,
            "history": progress.history}  # fmt: skip
    workshop.keep_model(_PROGRESS, progress.weights, meta)


def _scorer(workshop: Workshop, ready: Ready) -> Scorer:
    """On so many training images, drawn by the seed, as the network sees them in eval mode, without augmentation."""
    block, data = ready.block, workshop.data
    usable = np.asarray(workshop.split.train)
    index = np.sort(np.random.default_rng(block.seed).permutation(usable)[: block.images])
    inputs = functools.partial(normalise, spec=workshop.config.dataset, info=workshop.info, xp=jnp)
    images, labels = np.asarray(data.train_images[index]), np.asarray(data.train_labels[index])
    return Scorer(ready.criterion, ready.coupling, ready.whole.network, images, labels, inputs=inputs, seed=block.seed)


def _found(first: Ready, choice: Choice, progress: _Search) -> Found:
    block, cut = first.block, choice.cut
    weights = weights_of(sliced(_network(cut, progress.weights), cut)) if block.then == "fine_tune" else None
    figures = {
        "prune_ratio": 1 - choice.cost / progress.whole,
        "prune_cost_before": progress.whole,
        "prune_cost_after": choice.cost,
        "prune_threshold": choice.threshold,
        "prune_channels_before": make_cost("channels", first.coupling).total(first.whole),
        "prune_channels_after": make_cost("channels", cut.coupling).total(cut),
    }
    return Found(cut.model, weights, figures, report(first, cut) | {"of": block.of, "steps": progress.history})


def report(first: Ready, cut: Cut) -> dict[str, Any]:
    """What became of each group, and what the network costs before and after.

    Args:
        first: the network that came in.
        cut: the last one, of the same network or of one that is narrower already.
    """
    kept = {name: channels.size for name, channels in cut.kept.items()}
    groups = [
        {"name": g.name, "channels": g.size, "kept": kept.get(g.name, 0), "frozen": g.frozen} for g in first.coupling.groups
    ]
    costs = {}
    for name in ("channels", "params", "macs"):
        before, after = make_cost(name, first.coupling).total(first.whole), make_cost(name, cut.coupling).total(cut)
        costs[name] = {"before": before, "after": after}
    return {"groups": groups, "costs": costs}


def _network(cut: Cut, weights: Model) -> nnx.Module:
    """The network that is cut, with all its weights."""
    coupling = cut.coupling
    return with_weights(evaluated(coupling.model, coupling.input_shape, coupling.num_classes), weights)
