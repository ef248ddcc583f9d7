"""What the tests of searches share: a data set of small images, a trained source, and a search from it."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from flaxcomp.checkpoint.models import save_models
from flaxcomp.compress import run
from flaxcomp.compress.method import Found, Workshop
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.models.abstract import abstract
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Optimizer, Train, TrialConfig
from flaxcomp.train.job import Event, Finished, Note, PackJob
from flaxcomp.train.pack import Trainer

IMAGES, BATCH = 320, 64  # a tenth is held out: 4 steps an epoch
PLAIN: dict[str, Any] = {"name": "simplenet_v1", "widths": [3, 4]}
SEPARABLE: dict[str, Any] = {"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 4}
RESIDUAL: dict[str, Any] = {"name": "wide_resnet", "layout": "embedded", "blocks": 3, "width": 4}


def small_trainer(*, images: int = IMAGES, test_label: int | None = None) -> Trainer:
    """The beginning of MNIST's sample; `test_label`: what all test images are said to be."""
    full = load("mnist_sample")
    labels = full.test_labels[:100] if test_label is None else np.full(100, test_label, np.int32)
    arrays = Arrays(full.train_images[:images], full.train_labels[:images], full.test_images[:100], labels, full.info)
    return Trainer(arrays)


def dense(model: dict[str, Any], *, epochs: int = 3, rate: float = 1e-2) -> TrialConfig:
    """A training on images of 8 x 8 pixels."""
    train = Train(epochs=epochs, batch_size=BATCH, optimizer=Optimizer(learning_rate=rate))
    return TrialConfig(dataset=Dataset(name="mnist_sample", size=8), model=model, train=train)


def job(root: Path, trial: str, config: TrialConfig, attempt: int = 1) -> PackJob:
    return PackJob(str(root), f"pack-{trial}", attempt, signature(config), {trial: config})


def train_source(trainer: Trainer, root: Path, config: TrialConfig) -> Path:
    """A run folder with the trained network, which is trial `dense`."""
    assert isinstance(list(trainer.train(job(root, "dense", config), never))[-1], Finished)
    return root


def random_source(root: Path, model: dict[str, Any]) -> Path:
    """A run folder with a network `dense` of random weights."""
    rng, network = np.random.default_rng(0), abstract(model, (8, 8, 1), 10)
    arrays = {
        name: jax.tree.map(lambda leaf, low=low: rng.uniform(low, 1, leaf.shape).astype(leaf.dtype), nnx.to_pure_dict(state))
        for name, low, state in zip(("params", "stats"), (-0.5, 0.2), nnx.split(network, nnx.Param, ...)[1:], strict=True)
    }
    save_models({RunPaths.at(root).model("dense"): arrays})
    return root


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: its results, what was written beside its network, the network's model, the notes of the search."""

    results: dict[str, Any]
    details: Any
    model: dict[str, Any]
    notes: list[str]


def search(trainer: Trainer, root: Path, config: TrialConfig) -> Outcome:
    """Search and train in one go, in a copy of the run folder."""
    folder = shutil.copytree(root, root.parent / f"{root.name}-{next(_copies)}")
    return outcome(folder, list(run.train(trainer, job(folder, "small", config), never)))


def outcome(folder: Path, events: list[Event]) -> Outcome:
    """Of a trial `small` that has ended."""
    assert isinstance(events[-1], Finished), events
    paths = RunPaths.at(folder)
    return Outcome(
        events[-1].results["small"],
        json.loads(paths.compression_file("small").read_text())["details"],
        json.loads(paths.network_file("small").read_text())["model"],
        [event.text for event in events if isinstance(event, Note)],
    )


def workshop(trainer: Trainer, root: Path, config: TrialConfig) -> Workshop:
    """For the trial `small` in a copy of the run folder."""
    folder = shutil.copytree(root, root.parent / f"{root.name}-{next(_copies)}")
    return Workshop(trainer, job(folder, "small", config), never)


def found_by(method: Any, shop: Workshop) -> Found:
    """What a method's search finds, the training after it left out."""
    steps = method.search(shop)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found


def macs_of(model: dict[str, Any]) -> int:
    """On images of 8 x 8 pixels."""
    return count(model, (8, 8, 1), 10).macs


def never() -> bool:
    return False


def after(dispatches: int) -> Callable[[], bool]:
    """Stop when so many are done."""
    asked = itertools.count()
    return lambda: next(asked) >= dispatches


_copies = itertools.count()
