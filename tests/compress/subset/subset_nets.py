"""What the tests of Distill-Net share: a small data set whose classes can be told apart, and a network trained on it."""

from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from flaxcomp.compress import run
from flaxcomp.data.arrays import Arrays
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.subset import Subset
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Dataset, Optimizer, Train, TrialConfig, Validation
from flaxcomp.train.job import Event, Finished, PackJob
from flaxcomp.train.pack import Trainer

SHAPE, LABELS = (8, 8, 1), ("nw", "ne", "sw", "se")
INFO = DatasetInfo(
    name="corners", num_classes=len(LABELS), image_shape=SHAPE, labels=LABELS, train_size=400, test_size=160,
    mean=(0.2,), std=(0.2,), fingerprint="corners", licence="none",
)  # fmt: skip
DENSE = TrialConfig(
    dataset=Dataset(name="corners", validation=Validation(fraction=0.3)),
    model={"name": "tf_mnist", "widths": [6, 8, 12], "dropout": 0.0},
    train=Train(epochs=4, batch_size=20, optimizer=Optimizer(learning_rate=3e-3)),
)


def pictures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a brighter corner that is the class: uint8 [n, 8, 8, 1], int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % len(LABELS)).astype(np.int32)
    images = rng.integers(0, 120, (n, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += rng.integers(15, 90)
    return images.astype(np.uint8), labels


def trainer() -> Trainer:
    return Trainer(Arrays(*pictures(400, 0), *pictures(160, 1), INFO))


def never() -> bool:
    return False


def job(root: Path, name: str, config: TrialConfig, attempt: int = 1) -> PackJob:
    return PackJob(str(root), f"pack-{name}", attempt, signature(config), {name: config})


def dense(root: Path, with_: Trainer) -> RunPaths:
    """A run folder with the trained network `dense`."""
    assert isinstance(list(with_.train(job(root, "dense", DENSE), never))[-1], Finished)
    return RunPaths.at(root)


def config(**options: Any) -> TrialConfig:
    return replace(DENSE, subset=Subset(**options), source="dense")


def reduce(paths: RunPaths, with_: Trainer, name: str, **options: Any) -> tuple[dict[str, Any], list[Event]]:
    """Results and events of a trial."""
    events = list(run.train(with_, job(paths.root, name, config(**options)), never))
    last = events[-1]
    assert isinstance(last, Finished), last
    return last.results[name], events
