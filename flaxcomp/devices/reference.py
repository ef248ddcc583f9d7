"""What a network must compute: seeded inputs, and the outputs this machine gets for them."""

import base64
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaxcomp.errors import MissingPackageError, UserError

CASES = 2


@dataclass(frozen=True)
class Reference:
    """Inputs and expected outputs of one file.

    Attributes:
        cases: as the agent's job wants them.
        tolerance: an output that is farther off, in its real units, is flagged: two steps of a quantized output; 2 % of the
            outputs' spread where quantized layers lie inside a float network; else 1e-3 of the largest output, of 1 at least.
        gross: from here on the device computes something else: a quarter of the spread, and ten tolerances at least.
    """

    cases: list[dict[str, Any]]
    tolerance: float
    gross: float


def compute(path: Path, seed: int) -> Reference:
    """Run the network on seeded random inputs (standard normal; quantized as the file says) with this machine's runtime.

    Raises:
        UserError: the file is not a TFLite model, or this machine's runtime cannot run it.
        MissingPackageError: this machine has no runtime.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError(
            "measuring needs the package ai-edge-litert on this machine: pip install 'flaxcomp[full]'"
        ) from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if content[4:8] != b"TFL3":  # the runtime itself does not check, and may crash
        raise UserError(f"{path} is not a TFLite model")
    rng = np.random.default_rng(seed)
    try:
        with _quiet():
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
        return _reference(interpreter, [_case(interpreter, rng) for _ in range(CASES)])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be run by this machine's TFLite runtime: {error}") from error


def _case(interpreter: Any, rng: np.random.Generator) -> dict[str, Any]:
    inputs = []
    for detail in interpreter.get_input_details():
        value = _random(detail, rng)
        interpreter.set_tensor(detail["index"], value)
        inputs.append(_text(value))
    interpreter.invoke()
    tensors = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    return {"inputs": inputs, "outputs": [{"data": _text(tensor), "dtype": str(tensor.dtype)} for tensor in tensors]}


def _random(detail: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    shape, dtype = tuple(detail["shape"]), np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    value: NDArray[Any]
    if dtype.kind == "f":
        value = rng.standard_normal(shape)
    elif scale:
        limits = np.iinfo(dtype)
        value = np.clip(np.round(rng.standard_normal(shape) / scale) + zero_point, limits.min, limits.max)
    else:
        value = rng.integers(0, 2, shape)
    return value.astype(dtype)


def _reference(interpreter: Any, cases: list[dict[str, Any]]) -> Reference:
    quantized_inside = any(detail["dtype"] == np.int8 for detail in interpreter.get_tensor_details())
    tolerance, spread = 1e-6, 0.0
    for number, detail in enumerate(interpreter.get_output_details()):
        outputs = [case["outputs"][number] for case in cases]
        steps = np.concatenate([np.frombuffer(base64.b64decode(o["data"]), o["dtype"]) for o in outputs]).astype(np.float64)
        scale = detail["quantization"][0]
        values = steps[np.isfinite(steps)] * (scale or 1.0)
        if values.size == 0:  # a network whose training diverged; it can be timed all the same
            continue
        width = float(values.max() - values.min())
        if scale:
            allowed = 2 * scale
        elif quantized_inside:
            allowed = 0.02 * width
        else:
            allowed = 1e-3 * max(1.0, float(np.abs(values).max()))
        tolerance, spread = max(tolerance, allowed), max(spread, width)
    return Reference(cases, tolerance, max(10 * tolerance, 0.25 * spread))


def _text(tensor: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(tensor).tobytes()).decode()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the runtime's C++ code logs to standard error nowhere; it has no setting for that."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
