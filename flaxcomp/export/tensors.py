"""What flows through a TFLite file: the value of every operator's output, image by image."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from flaxcomp.export.operators import Tensor, ends

Floats = npt.NDArray[np.float32]


def quantised(real: Floats, end: Tensor) -> npt.NDArray[Any]:
    """Numbers as an input of a file takes them: `stored = real / scale + zero_point`, rounded, within its type."""
    if not end.scale:
        return real
    limits = np.iinfo(end.dtype)
    steps = np.round(real / np.float32(end.scale)) + end.zero_point
    stored: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(end.dtype)
    return stored


def dequantised(stored: npt.NDArray[Any], end: Tensor) -> Floats:
    """What a tensor of a file stands for."""
    if not end.scale:
        return stored.astype(np.float32, copy=False)
    real: Floats = (stored.astype(np.float32) - end.zero_point) * np.float32(end.scale)
    return real


def activations(data: bytes, inputs: Floats) -> Iterator[dict[str, Floats]]:
    """Run a file with TFLite's plain kernels and keep all its tensors.

    Args:
        inputs: float32 [n, h, w, c], normalised.

    Yields:
        For each image: the tensors that operators give and the file's input, by name, dequantised.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it needs more memory
        interpreter = Interpreter(
            model_content=data, num_threads=1, experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )  # fmt: skip
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    flowing = [source["index"], *(index for operator in interpreter._get_ops_details() for index in operator["outputs"])]
    about = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    tensors = {i: Tensor(about[i]["dtype"].__name__, tuple(about[i]["shape"]), *about[i]["quantization"]) for i in flowing}
    for image in quantised(inputs, ends(data)[0]):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        yield {about[i]["name"]: dequantised(interpreter.get_tensor(i), tensor) for i, tensor in tensors.items()}
