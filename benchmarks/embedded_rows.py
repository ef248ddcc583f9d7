"""The hyper-parameters of the embedded study (Greffe 2019, table 3.3), each with its latency on a Raspberry Pi 3B in ms."""

from typing import Any


def _rows(name: str, *settings: tuple[int, int, float], **options: Any) -> list[tuple[dict[str, Any], float]]:
    """Models with these options from (blocks of all sub-networks, channels of the first one, ms)."""
    common = {"name": name, "layout": "embedded", "input_shape": (32, 32, 3), "num_classes": 10}
    return [({**common, "blocks": blocks, "width": width, **options}, ms) for blocks, width, ms in settings]


MNASNET = {"activation": "relu6", "se": 0, "dropout": 0.2}

ROWS: list[tuple[dict[str, Any], float]] = [
    *_rows("wide_resnet", (9, 16, 48.9), (9, 24, 100.8), (12, 32, 235.4)),
    *_rows("squeezenext", (9, 48, 52.7)),
    *_rows("effnet", (12, 32, 21.5), expansion=4),
    *_rows("shufflenet_v1", (9, 80, 50.7), groups=2),
    *_rows("shufflenet_v2", (12, 64, 44.1), (18, 80, 93.0)),
    *_rows("mobilenet_v1", (15, 32, 22.6), (12, 64, 52.8), (15, 100, 150.1)),
    *_rows("mobilenet_v2", (9, 16, 27.2), (9, 24, 50.3), expansion=4, dropout=0.2),
    *_rows("mobilenet_v2", (12, 24, 107.7), expansion=6, dropout=0.2),
    *_rows("mnasnet_a1", (9, 16, 30.7), expansion=4, **MNASNET),
    *_rows("mnasnet_a1", (12, 16, 64.4), (12, 24, 121.2), expansion=6, **MNASNET),
]
