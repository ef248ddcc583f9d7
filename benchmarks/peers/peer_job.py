"""What a peer is asked to do, and what it has to tell: read from one folder, written into it. Needs NumPy alone.

`job.json` says what is trained (`Job`); the arrays lie beside it as .npy. `result.json` is what the benchmark compares.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Point = dict[str, float]  # learning_rate, temperature (of students), seed


@dataclass(frozen=True)
class Job:
    """One grid of trainings.

    Attributes:
        model: simplenet_v1, mobilenet_v1 (width 0.25, layout of small images), resnet20, wrn_40_2, resnet18.
        points: the trials.
        optimizer: adam, or sgd with Nesterov's momentum.
        mean, std: per channel, of what is subtracted from and divides x / 255.
        processes: how many trials are trained at a time, one a core.
        batch_norm_momentum: share of the running statistics that stays at a step, as Flax counts it.
        size: pixels to which images are resized on the device; None: as they are.
        gate: a file; before its second step a trial waits until there is one, and says so by `ready`, so that what
            processes train at the same time can be timed without what they compile.
    """

    model: str
    points: list[Point]
    epochs: int
    batch_size: int
    optimizer: str
    momentum: float
    weight_decay: float
    mean: list[float]
    std: list[float]
    processes: int
    batch_norm_momentum: float = 0.9
    size: int | None = None
    gate: str | None = None

    @property
    def distills(self) -> bool:
        """Whether the trials learn from a teacher's logits (sum of squared differences of softmaxes at temperature T)."""
        return "temperature" in self.points[0]

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self), indent=1))


def given_folder() -> Path:
    """The folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER with job.json and the arrays; the benchmarks write it")
    return Path(sys.argv[1]).resolve()


def read_job(folder: Path) -> Job:
    return Job(**json.loads((folder / "job.json").read_text()))


def read_arrays(folder: Path) -> dict[str, Any]:
    """Mapped from files: uint8 `train_images`, `test_images` [n, h, w, c]; int32 `train_labels`, `test_labels` [n]; int32
    `train_index`, `validation_index` into the training images; of students also float32 `teacher_logits` [n, classes]."""
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and contents: two sides that say the same one have used the same data."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def scaled(images: Any, job: Job) -> Any:
    """Images as the networks take them: float32 [n, h, w, c]."""
    x = np.asarray(images, np.float32) * np.float32(1 / 255)
    return (x - np.asarray(job.mean, np.float32)) / np.asarray(job.std, np.float32)


def write_result(folder: Path, job: Job, trials: list[dict[str, Any]], **more: Any) -> None:
    """Tell what was done.

    Args:
        trials: of each `point`, `params` (trainable), `steps` (counted while training) and `test_accuracy`.
        more: other figures, such as `train_seconds` of all trials without start-up and compiling.
    """
    done = {"batch_size": job.batch_size, "data": digest(read_arrays(folder)), "trials": trials, **more}
    (folder / "result.json").write_text(json.dumps(done))
