"""What goes into a TFLite file, what comes out, and what flows through it: the output of every operator, image by image."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Step:
    """An operator: TFLite's name, and its first output's name and shape without the batch."""

    kind: str
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """A file with all its tensors kept.

    Attributes:
        operators: in order of execution.
        run: float32 [n, h, w, c], normalised, to the output of every operator, dequantised, image by image.
        source: the name of the input.
    """

    operators: tuple[Step, ...]
    run: Callable[[Floats], Iterator[list[Floats]]]
    source: str


def flow_of(data: bytes) -> Flow:
    """Read a TFLite file for running it with TFLite's plain kernels and all tensors kept."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it needs more memory
        interpreter = Interpreter(
            model_content=data, num_threads=1, experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )  # fmt: skip
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    about = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    outputs = [(operator["op_name"], int(operator["outputs"][0])) for operator in interpreter._get_ops_details()]
    tensors = {i: Tensor(np.dtype(about[i]["dtype"]).name, tuple(about[i]["shape"]), *about[i]["quantization"])
               for _, i in outputs}  # fmt: skip

    def run(inputs: Floats) -> Iterator[list[Floats]]:
        for image in quantised(inputs, ends(data)[0]):
            interpreter.set_tensor(source["index"], image[None])
            interpreter.invoke()
            yield [dequantised(interpreter.get_tensor(i), tensors[i]) for _, i in outputs]

    steps = (Step(kind, about[i]["name"], tuple(int(n) for n in about[i]["shape"][1:])) for kind, i in outputs)
    return Flow(tuple(steps), run, source["name"])


def dequantised_logits(data: bytes, inputs: Floats) -> Floats:
    """Run a file with the runtime's own kernels: logits float32 [n, classes].

    Args:
        inputs: float32 [n, h, w, c], normalised.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    into, out = ends(data)
    outputs = []
    for image in quantised(inputs, into):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]))
    return dequantised(np.concatenate(outputs), out)
