"""What both sides of a benchmark are given: a grid of trainings, as a sweep file for us and as a job for a peer."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.peers.peer_job import Job, Point, digest
from benchmarks.record import cores
from flaxcomp.data.arrays import load, split_validation
from flaxcomp.sweep.spec import Dataset

# Peers' names of networks, and ours.
MODELS: dict[str, dict[str, Any]] = {
    "simplenet_v1": {"name": "simplenet_v1"},
    "mobilenet_v1": {"name": "mobilenet_v1", "layout": "cifar", "width_multiplier": 0.25},
    "resnet20": {"name": "resnet", "layout": "cifar", "depth": 20},
    "resnet18": {"name": "resnet", "layout": "imagenet", "depth": 18},
    "wrn_40_2": {"name": "wide_resnet", "layout": "cifar", "depth": 40, "widen_factor": 2},
}
COLUMNS = {"learning_rate": "train.optimizer.learning_rate", "temperature": "distill.temperature", "seed": "seed"}


@dataclass(frozen=True)
class Task:
    """A grid of trainings of one network.

    Attributes:
        model: a key of MODELS.
        dataset: as a sweep file has it.
        train: as a sweep file has it, `epochs` and `batch_size` too.
        points: the trials.
        teacher: of students, as a sweep file has it; None: all learn from the labels.
    """

    model: str
    dataset: dict[str, Any]
    train: dict[str, Any]
    points: tuple[Point, ...]
    teacher: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The points as the harness knows trials."""
        return [name_of(point) for point in self.points]

    @property
    def arrays(self) -> dict[str, Any]:
        return arrays_of(self.dataset)

    @property
    def steps(self) -> int:
        """Of each trial; the last, incomplete batch of an epoch is left out."""
        steps: int = len(self.arrays["train_index"]) // self.train["batch_size"] * self.train["epochs"]
        return steps

    def sweep(self, *, pack: int | str = "auto", **parameters: Any) -> str:
        """The sweep file (JSON is YAML).

        Args:
            pack: `resources.pack`; one of a given size fails where memory runs out, and is not halved.
            parameters: what varies instead of the points.
        """
        base: dict[str, Any] = {"dataset": self.dataset, "model": MODELS[self.model], "train": self.train}
        if self.teacher is not None:
            base["distill"] = {"loss": "soft_mse", "teacher": self.teacher}
        retry = {} if pack == "auto" else {"out_of_memory": 0}
        content = {"version": 1, "name": "benchmark", "base": base, "parameters": parameters or self._grid(),
                   "resources": {"pack": pack}, "retry": retry}  # fmt: skip
        return json.dumps(content, indent=1)

    def _grid(self) -> dict[str, Any]:
        values = {name: sorted({point[name] for point in self.points}) for name in self.points[0]}
        assert len(grid(**values)) == len(self.points), f"the points are no grid: {self.points}"
        return {COLUMNS[name]: {"values": found} for name, found in values.items()}

    def job(self, processes: int | None = None, gate: Path | None = None) -> Job:
        """What a peer is asked to do."""
        optimizer = self.train["optimizer"]
        mean, std = statistics_of(self.dataset)
        return Job(
            model=self.model, points=list(self.points), epochs=self.train["epochs"], batch_size=self.train["batch_size"],
            optimizer=optimizer["name"], momentum=optimizer.get("momentum", 0.0),
            weight_decay=optimizer.get("weight_decay", 0.0), mean=mean, std=std, processes=processes or cores(),
            batch_norm_momentum=self.train.get("batch_norm_momentum", 0.9), size=self.dataset.get("size"),
            gate=str(gate) if gate else None,
        )  # fmt: skip


def grid(**values: Sequence[float]) -> tuple[Point, ...]:
    """Every combination."""
    return tuple(dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))


def name_of(point: Point) -> str:
    return ", ".join(f"{name} {float(point[name]):g}" for name in sorted(point))


def arrays_of(dataset: dict[str, Any]) -> dict[str, Any]:
    """The arrays of `peer_job.read_arrays` but for a teacher's, as our own training takes them from the prepared data set."""
    spec = msgspec.convert(dataset, Dataset)
    data = load(spec.name)
    n = min(spec.train_limit or len(data.train_labels), len(data.train_labels))
    train, validation = split_validation(n, spec.validation.fraction, spec.validation.seed)
    return {"train_images": data.train_images[:n], "train_labels": data.train_labels[:n], "train_index": train,
            "validation_index": validation, "test_images": data.test_images, "test_labels": data.test_labels}  # fmt: skip


def statistics_of(dataset: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and deviation by which images are normalised; per channel."""
    info = load(dataset["name"]).info
    if dataset.get("normalize", "unit") == "channel":
        return list(info.mean), list(info.std)
    return [0.0] * len(info.mean), [1.0] * len(info.std)


def write_arrays(folder: Path, arrays: dict[str, Any]) -> str:
    """Write them for a peer; their digest."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    return digest(arrays)
