"""What one artifact carries besides the network: labels, the input's normalisation, provenance."""

import json
from dataclasses import dataclass
from typing import Any

from flaxcomp.export.operators import Tensor

LABELS_FILE = "labels.txt"
CARD_FILE = "flaxcomp.json"


@dataclass(frozen=True)
class Normalisation:
    """How pixels in [0, 255] become the network's input.

    Attributes:
        kind: `unit`, `channel` or `image`, as `dataset.normalize` in a sweep file.
        mean, std: input = (pixel - mean) / std for each channel; None for `image`.
        formula: the same in words.
    """

    kind: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    formula: str


@dataclass(frozen=True)
class Resizing:
    """How images of the data set become as large as the network's input.

    Attributes:
        source, target: height and width before and after.
        formula: the method in words.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    formula: str


@dataclass(frozen=True)
class Card:
    """Everything that one artifact carries besides the network.

    Attributes:
        labels: a name per logit.
        normalisation: of the input; for an int8 file, before its quantisation.
        trial: id of the training; config: its canonical configuration; dataset: name and fingerprint of the data.
        precision: of the file.
        calibration: how int8 ranges were found; None otherwise.
        versions: of the packages that made the file.
        resize: of the images, before their normalisation; None: as they are.
    """

    labels: tuple[str, ...]
    normalisation: Normalisation
    trial: str
    config: dict[str, Any]
    dataset: dict[str, str]
    precision: str
    calibration: dict[str, Any] | None
    versions: dict[str, str]
    resize: Resizing | None = None

    def to_json(self, source: Tensor, target: Tensor) -> bytes:
        """Everything but the labels, which have a file of their own; `source` and `target` are the file's two ends."""
        body = {
            "format": 1,
            "trial": self.trial,
            "dataset": self.dataset,
            "precision": self.precision,
            "input": {"name": "image", "layout": "NHWC", **_describe(source)},
            "output": {"name": "logits", **_describe(target)},
            "normalization": vars(self.normalisation),
            "calibration": self.calibration,
            "versions": self.versions,
            "config": self.config,
        }
        if self.resize is not None:
            body["resize"] = vars(self.resize)
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def labels_text(self) -> bytes:
        return "\n".join(" ".join(label.split()) for label in self.labels).encode() + b"\n"


def _describe(tensor: Tensor) -> dict[str, Any]:
    kind = {"shape": tensor.shape, "dtype": tensor.dtype}
    return kind if not tensor.scale else {**kind, "scale": tensor.scale, "zero_point": tensor.zero_point}
