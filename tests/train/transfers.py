"""A small trainer and jobs, for the tests of phases and initial weights."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxcomp.checkpoint.models import load_model
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Optimizer, Train, TrialConfig
from flaxcomp.train.job import EpochDone, Event, PackJob
from flaxcomp.train.names import by_name
from flaxcomp.train.pack import Trainer

IMAGES, BATCH, STEPS = 320, 64, 4  # a tenth of the images is held out


def small_trainer() -> Trainer:
    full = load("mnist_sample")
    return Trainer(
        Arrays(
            full.train_images[:IMAGES], full.train_labels[:IMAGES], full.test_images[:100], full.test_labels[:100], full.info
        )
    )


def config(seed: int = 0, *, model: dict[str, Any] | None = None, **train: Any) -> TrialConfig:
    options = {"batch_size": BATCH, "optimizer": Optimizer(learning_rate=3e-3)} | train
    model = model or {"name": "simplenet_v5"}
    return TrialConfig(dataset=Dataset(name="mnist_sample"), model=model, train=Train(**options), seed=seed)


def make_job(root: Path, configs: dict[str, TrialConfig], attempt: int = 1) -> PackJob:
    first = next(iter(configs.values()))
    assert len({signature(each) for each in configs.values()}) == 1
    return PackJob(str(root), f"pack-{'-'.join(configs)}", attempt, signature(first), configs)


def rows_of(events: list[Event]) -> list[dict[str, Any]]:
    return [row for event in events if isinstance(event, EpochDone) for row in event.rows]


def network(root: Path, trial: str) -> dict[str, np.ndarray[Any, Any]]:
    """The parameters and statistics of a finished trial, by name."""
    model = load_model(RunPaths.at(root).model(trial))
    return by_name(model["params"]) | by_name(model["stats"])


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
