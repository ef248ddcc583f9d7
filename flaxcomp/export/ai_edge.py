"""Quantization of a float32 TFLite file by ai-edge-quantizer."""

import logging
import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from flaxcomp.export.convert import ExportError, captured_stderr
from flaxcomp.export.tensors import Floats, flow_of

Kind = Literal["weight_only", "int16", "int8"]
Ranges = dict[str, dict[str, Any]]  # by the tensor's name: {"min", "max"}


def quantize(float32: bytes, kind: Kind, ranges: Ranges | None = None, *, but: Iterable[str] = ()) -> bytes:
    """Return a quantized form of a float32 TFLite file.

    Args:
        kind: `weight_only` has int8 weights, each widened by an operator of its own before it is computed with in float32;
            `int16` and `int8` have int8 weights, and activations, input and output of that type.
        ranges: of the activations, from `measure_ranges`.
        but: names of tensors whose operators stay as they are.

    Raises:
        ExportError: ai-edge-quantizer refused the file.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe

    recipes = {"weight_only": recipe.weight_only_wi8_afp32, "int16": recipe.static_wi8_ai16, "int8": recipe.static_wi8_ai8}
    logging.getLogger("absl").setLevel(logging.ERROR)
    with captured_stderr():
        try:
            worker = quantizer.Quantizer(float32, recipes[kind]())
            for name in but:
                worker.update_quantization_recipe(_only(name), qtyping.TFLOperationName.ALL_SUPPORTED,
                                                  algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)  # fmt: skip
            result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:  # ValueError, RuntimeError, KeyError, AssertionError
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"ai-edge-quantizer cannot convert this network to {kind}: {reason[:400]}") from error
    return bytes(result.quantized_model)


def measure_ranges(float32: bytes, images: Floats) -> Ranges:
    """The smallest and largest value of every activation over images: not the moving average that ai-edge-quantizer takes.

    Args:
        images: float32 [n, h, w, c], normalised.
    """
    flow = flow_of(float32)
    names = [step.tensor for step in flow.operators]
    ranges: Ranges = {flow.source: _ends(images)}
    for tensors in flow.run(images):
        for name, value in zip(names, tensors, strict=True):
            new = _ends(value)
            kept = ranges.setdefault(name, new)
            kept["min"], kept["max"] = np.minimum(kept["min"], new["min"]), np.maximum(kept["max"], new["max"])
    return ranges


def _ends(value: Floats) -> dict[str, Any]:
    return {"min": value.min(keepdims=True), "max": value.max(keepdims=True)}


def _only(name: str) -> str:
    return f"^{re.escape(name)};$"
