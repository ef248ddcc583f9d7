"""Flax to TFLite: jax2tf lowers the network to StableHLO, TensorFlow's converter to TFLite's own operators."""

import contextlib
import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from flaxcomp.errors import UserError
from flaxcomp.export.lacking import CALIBRATED
from flaxcomp.export.operators import foreign_operators
from flaxcomp.models.layers import plain_forms
from flaxcomp.sweep.spec import Precision

Forward = Callable[[jax.Array], jax.Array]


class ExportError(UserError):
    """A network cannot be converted to the wanted form; other forms may still work."""


@functools.cache
def start_tensorflow() -> Any:
    """Import TensorFlow once, quiet and on the CPU only: the GPU's memory belongs to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with captured_stderr():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # the devices are fixed: someone in this process has used TensorFlow already
            tf.config.set_visible_devices([], "GPU")
    return tf


def to_tflite(
    forward: Forward,
    input_shape: tuple[int, int, int],
    precision: Precision,
    calibration: npt.NDArray[np.float32] | None = None,
) -> bytes:
    """Convert a network in evaluation mode to a TFLite file with a fixed batch of one. Equal calls give equal bytes.

    Args:
        forward: from float32 [n, h, w, c], normalised, to logits float32 [n, classes]; its parameters are closed over.
        input_shape: height, width, channels.
        precision: `float32`; `float16` (weights only; computed in float32 where a device has no half precision);
            `dynamic` (weights of 1,024 elements and more become int8); `int8` (weights, activations, input and output);
            `int16` (int8 weights; activations, input and output int16). For `weight_only` see `flaxcomp.export.ai_edge`.
        calibration: float32 [n, h, w, c], what `forward` takes; int8 and int16 measure the ranges of the activations on them.

    Raises:
        ExportError: TensorFlow refused the network, or left an operator in it that plain TFLite runtimes cannot run.
        ValueError: int8 or int16 without calibration images.
    """
    if precision in CALIBRATED and (calibration is None or not len(calibration)):
        raise ValueError(f"{precision} needs calibration images, got none")
    tf = start_tensorflow()
    with converting(precision) as convert:
        function, concrete = trace(forward, (1, *input_shape))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function)
        _set_precision(tf, converter, precision, calibration)
        return convert(converter)


@contextlib.contextmanager
def converting(precision: str) -> Iterator[Callable[[Any], bytes]]:
    """Yield a function from a converter to its file, within which TensorFlow is quiet and its errors are ours.

    Raises:
        ExportError: TensorFlow refused the network, or left an operator in it that plain TFLite runtimes cannot run.
    """

    def convert(converter: Any) -> bytes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Statistics for quantized inputs were expected": the calibration gives them
            data: bytes = converter.convert()
        if foreign := foreign_operators(data):
            raise ExportError(f"the {precision} file holds {', '.join(foreign)}, which TFLite runtimes lack: build the network "
                              "from convolutions, pooling, dense layers and element-wise operations")  # fmt: skip
        return data

    with captured_stderr() as told:
        try:
            yield convert
        except ExportError:
            raise
        except Exception as error:  # the converter raises ConverterError, ValueError, RuntimeError and bare Exception
            raise ExportError(_refusal(precision, str(error), told())) from error


def trace(forward: Forward, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A network as TensorFlow's function of a batch of `shape`, and that function with its shapes filled in."""
    from jax.experimental import jax2tf

    tf = start_tensorflow()
    with plain_forms():
        # For the CPU even where JAX runs on a GPU: another platform's lowering is not convertible.
        lowered = jax2tf.convert(forward, with_gradient=False, native_serialization_platforms=("cpu",))
        signature = [tf.TensorSpec(shape, tf.float32, name="image")]
        function = tf.function(lowered, autograph=False, jit_compile=True, input_signature=signature)
        return function, function.get_concrete_function()


def _set_precision(tf: Any, converter: Any, precision: Precision, calibration: npt.NDArray[np.float32] | None) -> None:
    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision in CALIBRATED:
        assert calibration is not None
        operators = {"int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                     "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8}  # fmt: skip
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [operators[precision]]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, precision)


def _refusal(precision: str, error: str, told: str) -> str:
    """The converter's message without its pages of MLIR."""
    lines = [line.strip() for line in f"{error}\n{told}".splitlines()]
    telling = [line for line in lines if "error:" in line or "custom op" in line]
    reason = next(iter(telling or filter(None, lines)), "no reason given").rpartition("error: ")[2]  # without its source place
    return f"TensorFlow cannot convert this network to {precision}: {reason[:400]}"


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Keep what C++ writes to standard error out of the user's progress display; yields a function that reads it."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)

        def told() -> str:
            return os.pread(kept.fileno(), 1 << 20, 0).decode(errors="replace")

        try:
            yield told
        finally:
            os.dup2(saved, 2)
            os.close(saved)
