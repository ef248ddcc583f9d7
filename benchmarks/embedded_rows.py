"""The hyper-parameters of the embedded study (Greffe 2019, table 3.3), each with its latency on a Raspberry Pi 3B in ms."""

from pathlib import Path
from typing import Any

import yaml

SWEEP = Path(__file__).parents[1] / "sweeps" / "embedded_architectures.yaml"

# By architecture, blocks of all sub-networks and channels of the first one.
PI_3B_MS = {
    ("wide_resnet", 9, 16): 48.9, ("wide_resnet", 9, 24): 100.8, ("wide_resnet", 12, 32): 235.4,
    ("squeezenext", 9, 48): 52.7, ("effnet", 12, 32): 21.5, ("shufflenet_v1", 9, 80): 50.7,
    ("shufflenet_v2", 12, 64): 44.1, ("shufflenet_v2", 18, 80): 93.0,
    ("mobilenet_v1", 15, 32): 22.6, ("mobilenet_v1", 12, 64): 52.8, ("mobilenet_v1", 15, 100): 150.1,
    ("mobilenet_v2", 9, 16): 27.2, ("mobilenet_v2", 9, 24): 50.3, ("mobilenet_v2", 12, 24): 107.7,
    ("mnasnet_a1", 9, 16): 30.7, ("mnasnet_a1", 12, 16): 64.4, ("mnasnet_a1", 12, 24): 121.2,
}  # fmt: skip


def pi_3b_ms(model: dict[str, Any]) -> float | None:
    """The source's latency of a model of the sweep file; None for one that has no row in its table."""
    return PI_3B_MS.get((model["name"], model.get("blocks", 0), model.get("width", 0)))


def _rows() -> list[tuple[dict[str, Any], float]]:
    plain, _ = yaml.safe_load(SWEEP.read_text())["parameters"]
    models = ({**model, "input_shape": (32, 32, 3), "num_classes": 10} for model in plain["model"]["values"])
    return [(model, ms) for model in models if (ms := pi_3b_ms(model)) is not None]


ROWS: list[tuple[dict[str, Any], float]] = _rows()
assert len(ROWS) == len(PI_3B_MS), "the sweep file must have every row of the table"
