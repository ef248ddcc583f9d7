"""A network that was trained to be rounded, as the int8 file that it was trained to become.

qwix marks the roundings as composites, which TensorFlow's converter turns into the scales of int8 tensors. Three things of
the way there are not documented, and tests hold them: the dialect is pinned to the version that this TensorFlow reads, the
network goes through a SavedModel (of a concrete function the composites stay, without a word), and the converter must trust
the marks.
"""

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from typing import Any

from flax import nnx

from flaxcomp.compress.quantize.fake import Tree, converted
from flaxcomp.export.convert import ExportError, converting, start_tensorflow, trace
from flaxcomp.export.operators import not_int8
from flaxcomp.models.layers import plain_forms

STABLEHLO_VERSION = "1.13.7"  # jax 0.10 writes `vhlo.composite_v2` otherwise, which TensorFlow 2.21 cannot read
_CHOICE = "get_version_from_compatibility_requirement"


def to_tflite(network: nnx.Module, ranges: Tree, input_shape: tuple[int, int, int], *, per_channel: bool = True) -> bytes:
    """Convert a network with the ranges of its training to a TFLite file that is int8 throughout, with a batch of one.

    Args:
        network: without rounding, in evaluation mode, with its trained parameters.
        ranges: what training left besides the network's own variables, nested arrays.
        input_shape: height, width, channels.
        per_channel: as in training.

    Raises:
        ExportError: TensorFlow or qwix refused the network, or an operator of it would not be int8.
    """
    tf = start_tensorflow()
    with converting("int8") as convert, pinned_stablehlo(), tempfile.TemporaryDirectory() as folder:
        with plain_forms():
            marked: Any = converted(network, ranges, input_shape, per_channel=per_channel)
        module = tf.Module()
        module.function, concrete = trace(lambda x: marked(x), (1, *input_shape))
        tf.saved_model.save(module, folder, signatures=concrete)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter._experimental_strict_qdq = True
        converter.inference_input_type = converter.inference_output_type = tf.int8
        data = convert(converter)
    if others := not_int8(data):
        raise ExportError(f"the ranges of training leave {', '.join(others)} in float32")
    return data


@contextlib.contextmanager
def pinned_stablehlo() -> Iterator[None]:
    """Within this context JAX serialises in the version that TensorFlow reads.

    Raises:
        ExportError: this JAX chooses the version in another way.
    """
    import jax

    jax_export: Any = importlib.import_module("jax._src.export._export")
    dialect = getattr(jax_export, "hlo", None)
    if not hasattr(dialect, _CHOICE):
        raise ExportError(f"ranges of training need jax 0.10, whose {_CHOICE} chooses StableHLO's version; this is "
                          f"jax {jax.__version__}")  # fmt: skip
    jax_export.hlo = _Pinned(dialect)
    try:
        yield
    finally:
        jax_export.hlo = dialect


class _Pinned:
    """JAX's module of the dialect, but for the choice of the version."""

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name) if name != _CHOICE else lambda _: STABLEHLO_VERSION
