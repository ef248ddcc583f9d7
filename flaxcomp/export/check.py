"""An artifact's answers on the whole test set, beside the Flax network's."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flaxcomp.errors import UserError
from flaxcomp.export.metadata import read_metadata
from flaxcomp.export.operators import Tensor
from flaxcomp.export.tensors import Floats, dequantised, quantised

Run = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]  # what the file takes, one image at a time, to what it gives


@dataclass(frozen=True)
class Check:
    """How a file does on the test set.

    Attributes:
        accuracy: share of the images whose class it names.
        max_abs_error: largest difference of a logit from Flax's; of an int8 file, after dequantisation.
        agreement: share of the images for which it names the class that Flax names.
    """

    accuracy: float
    max_abs_error: float
    agreement: float


def check(path: Path, inputs: Floats, labels: npt.NDArray[np.int32], flax_logits: Floats) -> Check:
    """Run a .tflite or .onnx file as it is, batch of one, over the test set.

    Args:
        inputs: float32 [n, h, w, c], normalised, as the Flax network takes them.
        labels: int32 [n].
        flax_logits: float32 [n, classes].
    """
    logits = predict(path, inputs)
    classes = logits.argmax(1)
    return Check(
        accuracy=float(np.mean(classes == labels)),
        max_abs_error=float(np.abs(logits - flax_logits).max()),
        agreement=float(np.mean(classes == flax_logits.argmax(1))),
    )


def predict(path: Path, inputs: Floats, *, reference_kernels: bool = False, threads: int | None = None) -> Floats:
    """Return a file's logits, float32 [n, classes].

    The file's own batch of one is kept: TFLite's `resize_tensor_input` is no faster here, and gives wrong results without a
    word where a RESHAPE or SLICE holds the batch as a constant (channel shuffle).

    Args:
        inputs: float32 [n, h, w, c], normalised; quantised here as the file's metadata says.
        reference_kernels: TFLite's plain loops instead of XNNPACK (slow; .tflite only).
        threads: images are shared between so many; None: one a core.

    Raises:
        UserError: the file cannot be run.
    """
    card = read_metadata(path)
    make: Callable[[], Run] = (lambda: _onnx(path)) if path.suffix == ".onnx" else (lambda: _tflite(path, reference_kernels))
    stored = quantised(inputs, _end(card["input"]))
    shares = [share for share in np.array_split(stored, threads or _cores()) if len(share)]
    try:
        with ThreadPoolExecutor(len(shares)) as pool:
            outputs = list(pool.map(lambda share: make()(share), shares))
    except Exception as error:  # ValueError and RuntimeError from TFLite, onnxruntime's own classes
        raise UserError(f"{path}: this file cannot be run: {str(error).strip().splitlines()[0]}") from error
    return dequantised(np.concatenate(outputs), _end(card["output"]))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tflite(path: Path, reference_kernels: bool) -> Run:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    interpreter = Interpreter(str(path), num_threads=1, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    into, out = source["index"], target["index"]

    def run(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        outputs = np.empty((len(images), *target["shape"][1:]), target["dtype"])
        for i in range(len(images)):
            interpreter.set_tensor(into, images[i : i + 1])
            interpreter.invoke()
            outputs[i] = interpreter.get_tensor(out)[0]
        return outputs

    return run


def _onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Dequantise, compute, quantise, as the ONNX standard says. onnxruntime's fused int8 kernels give the same within a step,
    # but on x86 it fuses only some and then widens all weights anew for every image: ten times slower for a large dense layer.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])


def _end(about: dict[str, Any]) -> Tensor:
    return Tensor(about["dtype"], tuple(about["shape"]), about.get("scale", 0.0), about.get("zero_point", 0))
