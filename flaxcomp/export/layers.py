"""Which layer loses the accuracy: a quantized TFLite file beside the float32 one, operator by operator."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt

from flaxcomp.errors import UserError
from flaxcomp.export import ai_edge
from flaxcomp.export.lacking import File
from flaxcomp.export.tensors import Floats, Flow, dequantised_logits, flow_of
from flaxcomp.export.trained import Trained
from flaxcomp.store.frame import Row

_WIDENING = ("QUANTIZE", "DEQUANTIZE")  # what quantization inserts between others
COLUMNS = ("operator", "kind", "shape", "sqnr_db", "mean_abs_error", "max_abs_error", "bias", "range", "accuracy_without")


@dataclass(frozen=True)
class LayerError:
    """What an operator's output has lost, together with all operators before it.

    Attributes:
        operator: its number in the float32 file, from 0; kind: TFLite's name; shape: of its output, without the batch.
        sqnr_db: signal-to-quantization-noise ratio, 10 log10(sum f^2 / sum (q - f)^2), f and q the float32 and the quantized
            file's values; None where they are equal or all zero.
        mean_abs_error, max_abs_error, bias: of q - f; bias is its mean.
        range: of f, largest minus smallest value.
        accuracy_without: share of images whose class is named where this operator alone stays float32; None if not asked for.
        tensor: the output's name in the file.
    """

    operator: int
    kind: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    mean_abs_error: float
    max_abs_error: float
    bias: float
    range: float
    tensor: str
    accuracy_without: float | None = None

    def row(self) -> Row:
        return asdict(self) | {"shape": "x".join(map(str, self.shape))}


def layer_errors(float32: bytes, quantized: bytes, inputs: Floats) -> list[LayerError]:
    """Compare the operators that two files of one network share, the worst first.

    Operators are matched by kind and shape in their order, so files that were traced differently can be compared too.

    Args:
        inputs: float32 [n, h, w, c], normalised; both files see them.

    Raises:
        UserError: the files have no operator in common.
    """
    files = flow_of(float32), flow_of(quantized)
    pairs = _matched(*files)
    if not pairs:
        raise UserError("the quantized file must be of the same network as the float32 one, but they share no operator")
    sums = {pair: _Sums() for pair in pairs}
    for real, rounded in zip(files[0].run(inputs), files[1].run(inputs), strict=True):
        for (a, b), summed in sums.items():
            summed.add(real[a], rounded[b])
    found = [summed.error(files[0], place) for (place, _), summed in sums.items()]
    return sorted(found, key=lambda error: np.inf if error.sqnr_db is None else error.sqnr_db)


def accuracies_without(
    trained: Trained, file: File, images: Floats, labels: npt.NDArray[np.int32], places: list[int],
    on_progress: Callable[[int, int], None],
) -> tuple[float, dict[int, float]]:  # fmt: skip
    """How accurate a network is when one operator alone stays float32, for each of several; by ai-edge-quantizer.

    Args:
        file: its precision, int8 or int16, and the calibration.
        images, labels: what the accuracy is of: not the test set, if a choice follows from it.
        places: numbers of operators in the float32 file.
        on_progress: told how many of how many are done.

    Returns:
        The accuracy with all operators quantized, and with each left out.
    """
    assert file.calibration is not None
    kind: Any = file.precision
    float32 = trained.float32
    ranges = ai_edge.measure_ranges(float32, trained.calibrating(file.calibration))
    flow = flow_of(float32)

    def accuracy(but: tuple[str, ...]) -> float:
        logits = dequantised_logits(ai_edge.quantize(float32, kind, ranges, but=but), images)
        return float(np.mean(logits.argmax(1) == labels))

    whole, found = accuracy(()), {}
    for done, place in enumerate(places, 1):
        found[place] = accuracy((flow.operators[place].tensor,))
        on_progress(done, len(places))
    return whole, found


def _matched(real: Flow, rounded: Flow) -> list[tuple[int, int]]:
    """Numbers of the operators that stand for each other."""
    kept = [[(i, op) for i, op in enumerate(flow.operators) if op.kind not in _WIDENING] for flow in (real, rounded)]
    a, b = ([(op.kind, op.shape) for _, op in operators] for operators in kept)
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(kept[0][m.a + k][0], kept[1][m.b + k][0]) for m in blocks for k in range(m.size)]


class _Sums:
    """Of one operator, over images."""

    def __init__(self) -> None:
        self.signal = self.noise = self.absolute = self.signed = self.largest = 0.0
        self.low, self.high, self.count = np.inf, -np.inf, 0

    def add(self, real: Floats, rounded: Floats) -> None:
        f = real.astype(np.float64)
        difference = rounded - f
        self.signal += float(np.sum(f * f))
        self.noise += float(np.sum(difference * difference))
        self.absolute += float(np.sum(np.abs(difference)))
        self.signed += float(np.sum(difference))
        self.largest = max(self.largest, float(np.abs(difference).max()))
        self.low, self.high, self.count = min(self.low, float(f.min())), max(self.high, float(f.max())), self.count + f.size

    def error(self, flow: Flow, place: int) -> LayerError:
        operator = flow.operators[place]
        ratio = 10 * float(np.log10(self.signal / self.noise)) if self.signal and self.noise else None
        return LayerError(place, operator.kind, operator.shape, ratio, self.absolute / self.count, self.largest,
                          self.signed / self.count, self.high - self.low, operator.tensor)  # fmt: skip
