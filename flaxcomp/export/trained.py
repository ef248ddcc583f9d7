"""A trained network with everything that its files are made of and checked against."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from flax import nnx

import flaxcomp
from flaxcomp.data.arrays import Arrays, split_validation
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.export import ai_edge
from flaxcomp.export.card import Card, Normalisation, Resizing
from flaxcomp.export.check import Check
from flaxcomp.export.convert import ExportError, start_tensorflow, to_tflite
from flaxcomp.export.lacking import CALIBRATED, File
from flaxcomp.export.metadata import embed_onnx, embed_tflite
from flaxcomp.export.operators import others_than, weight_types
from flaxcomp.export.tensors import Floats
from flaxcomp.export.to_onnx import to_onnx
from flaxcomp.models.layers import plain_forms
from flaxcomp.sweep.spec import Calibration, Dataset, Export, Precision, TrialConfig
from flaxcomp.train.inputs import input_shape, normalise_array

FLOAT32_BOUND = 1e-3  # of a float32 file's logits against Flax's, relative to the largest logit
KERNEL_BOUND = 8  # quantisation steps between XNNPACK's int8 kernels and TFLite's reference kernels; 1 to 3 are usual
_DYNAMIC = (": dynamic range leaves weights of fewer than 1,024 elements in float32",
            ": those of fewer than 1,024 elements stay float32")  # fmt: skip
_BATCH = 100  # on a CPU, smaller than 500 keeps activations in the cache


@dataclass(frozen=True)
class Bare:
    """A TFLite file without metadata.

    Attributes:
        calibration: how its ranges were found; None where it has none, or where training found them.
        remark: what became of the wish to take the ranges of training.
    """

    tflite: bytes
    calibration: Calibration | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Made:
    """A file, how much of it is metadata, and the plain TFLite file that it is or was made from."""

    content: bytes
    metadata_bytes: int
    bare: Bare

    @property
    def tflite(self) -> bytes:
        return self.bare.tflite


@dataclass(frozen=True)
class Rounded:
    """What a training with rounding leaves besides the network itself.

    Attributes:
        to_tflite: makes the int8 file with the ranges that training found; raises ExportError where they do not serve.
        logits: of the network that rounds on the test images, float32 [n, classes].
    """

    to_tflite: Callable[[], bytes]
    logits: Floats


@dataclass(frozen=True)
class Trained:
    """One trial, ready for export.

    Attributes:
        forward: float32 [n, h, w, c], normalised, to logits float32 [n, classes], in evaluation mode; without rounding.
        card: what its files say of themselves; `precision` and `calibration` differ from file to file.
        input_shape: height, width, channels.
        calibrating: the normalised training images of a calibration, float32 [n, h, w, c].
        inputs: the whole test set, normalised, float32 [n, h, w, c].
        test_labels: int32 [n]; logits: Flax's on `inputs`, float32 [n, classes].
        rounded: of a trial that was trained with rounding.
        plain: the TFLite files without metadata that were made so far.
    """

    forward: Callable[[jax.Array], jax.Array]
    spec: Export
    card: Card
    input_shape: tuple[int, int, int]
    calibrating: Callable[[Calibration], Floats]
    inputs: Floats
    test_labels: npt.NDArray[np.int32]
    logits: Floats
    rounded: Rounded | None = None
    plain: dict[tuple[Precision, Calibration | None], Bare] = field(default_factory=dict)

    @classmethod
    def of(cls, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays, network: nnx.Module,
           ranges: dict[Any, Any] | None = None) -> "Trained":  # fmt: skip
        """Args:
        network: in evaluation mode, without rounding.
        ranges: of a training with rounding, nested arrays.
        """
        graph, state = nnx.split(network)
        inputs = normalise_array(arrays.test_images, config.dataset, arrays.info)
        info = arrays.info

        def calibrating(way: Calibration) -> Floats:
            chosen = calibration_indices(config.dataset, len(arrays.train_images), way.images, way.seed)
            return normalise_array(arrays.train_images[chosen], config.dataset, info)

        return cls(
            forward=lambda x: _forward(graph, state, x),
            spec=spec,
            card=Card(
                labels=info.labels,
                normalisation=normalisation(config.dataset, info),
                resize=resizing(config.dataset, info),
                trial=trial_id,
                config=msgspec.to_builtins(config),
                dataset={"name": info.name, "fingerprint": info.fingerprint},
                precision="float32",
                calibration=None,
                versions=_versions(),
            ),
            input_shape=input_shape(config.dataset, info),
            calibrating=calibrating,
            inputs=inputs,
            test_labels=arrays.test_labels,
            logits=flax_logits(graph, state, inputs),
            rounded=None if ranges is None else _rounded(network, ranges, config, inputs),
        )

    def reference(self, precision: Precision) -> Floats:
        """The logits that a file should give: of an int8 file those of the network that rounded in its training."""
        return self.rounded.logits if self.rounded is not None and precision == "int8" else self.logits

    def accuracy(self, precision: Precision = "float32") -> float:
        """Flax's, on the test images, of the network that a file of this precision is compared with."""
        return float(np.mean(self.reference(precision).argmax(1) == self.test_labels))

    def make(self, file: File) -> Made:
        """Raises ExportError where the file cannot be made."""
        key = (file.precision, file.calibration)
        if key not in self.plain:
            self.plain[key] = self._convert(*key)
        bare = self.plain[key]
        card = replace(self.card, precision=file.precision, calibration=self._told(file.precision, bare.calibration))
        naked = to_onnx(bare.tflite) if file.format == "onnx" else bare.tflite
        content = embed_onnx(naked, card, bare.tflite) if file.format == "onnx" else embed_tflite(naked, card)
        return Made(content, len(content) - len(naked), bare)

    def _convert(self, precision: Precision, calibration: Calibration | None) -> Bare:
        if precision == "weight_only":
            return Bare(ai_edge.quantize(self.float32, "weight_only"))
        if calibration is None:
            return Bare(to_tflite(self.forward, self.input_shape, precision))
        remark = None
        if precision == "int8" and self.rounded is not None:
            try:
                return Bare(self.rounded.to_tflite())
            except ExportError as error:
                remark = f"ranges by calibration, not from training: {error}"
        images = self.calibrating(calibration)
        if calibration.quantizer == "tensorflow":
            return Bare(to_tflite(self.forward, self.input_shape, precision, images), calibration, remark)
        kind: Literal["int16", "int8"] = "int16" if precision == "int16" else "int8"
        return Bare(ai_edge.quantize(self.float32, kind, ai_edge.measure_ranges(self.float32, images)), calibration, remark)

    @property
    def float32(self) -> bytes:
        """The plain float32 file."""
        return self.make(File("float32", "tflite")).tflite

    def _told(self, precision: Precision, calibration: Calibration | None) -> dict[str, Any] | None:
        """What a file's metadata says of its ranges."""
        if calibration is not None:
            return {"images": calibration.images, "split": "train", "seed": calibration.seed, "ranges": "min-max",
                    "quantizer": calibration.quantizer}  # fmt: skip
        return {"ranges": "training", "quantizer": "qwix"} if precision == "int8" else None

    def faults(self, made: Made, precision: Precision, result: Check, kernel_steps: int | None) -> list[str]:
        """Why this file must be looked at before it is shipped; nothing for a good one."""
        found = []
        drop, bound = self.accuracy(precision) - result.accuracy, self.spec.max_accuracy_drop
        if not np.isfinite(self.reference(precision)).all():
            found.append("the Flax network's own logits are not finite")
        if drop > bound + 1e-9:  # as shares of a test set, a drop of exactly the bound must pass
            found.append(f"accuracy drops by {drop:.4f} against Flax, more than {bound:g}")
        allowed = FLOAT32_BOUND * max(1.0, float(np.abs(self.logits).max()))
        if precision == "float32" and not result.max_abs_error <= allowed:
            found.append(f"logits differ from Flax's by {result.max_abs_error:.3g}, more than {allowed:.3g}")
        if precision in CALIBRATED and (others := others_than(precision.upper(), made.tflite)):
            found.append(f"not {precision}: {', '.join(others)}")
        if kernel_steps is not None and kernel_steps > KERNEL_BOUND:
            found.append(f"XNNPACK and reference kernels differ by {kernel_steps} quantisation steps, more than {KERNEL_BOUND}")
        return found

    def note(self, made: Made, precision: Precision) -> str | None:
        """What is no fault but worth knowing."""
        told = [] if made.bare.remark is None else [made.bare.remark]
        if precision in ("dynamic", "weight_only"):
            weights = weight_types(made.tflite)
            quantised = weights.count("INT8")
            small = precision == "dynamic"  # weight-only has no such limit
            if not quantised:
                told.append("nothing was quantized" + (_DYNAMIC[0] if small else ""))
            elif quantised < len(weights):
                told.append(f"{quantised} of {len(weights)} weights quantized" + (_DYNAMIC[1] if small else ""))
        float32 = self.plain.get(("float32", None))
        if precision in ("float16", "weight_only") and float32 is not None and len(made.tflite) >= len(float32.tflite):
            told.append("no smaller than float32: each weight costs an operator that widens it")
        return "; ".join(told) or None


def _rounded(network: nnx.Module, ranges: dict[Any, Any], config: TrialConfig, inputs: Floats) -> Rounded:
    from flaxcomp.compress.quantize.fake import with_ranges
    from flaxcomp.export import aware

    assert config.quantize is not None
    shape, per_channel = inputs.shape[1:], config.quantize.per_channel
    rounding = with_ranges(network, ranges, shape, per_channel=per_channel)
    return Rounded(lambda: aware.to_tflite(network, ranges, shape, per_channel=per_channel),
                   flax_logits(*nnx.split(rounding), inputs))  # fmt: skip


def _forward(graph: Any, state: Any, x: jax.Array) -> jax.Array:
    logits: jax.Array = nnx.merge(graph, state)(x)
    return logits.astype(jnp.float32)


# Compiled once an architecture, for all trials of it.
_compiled = jax.jit(_forward, static_argnums=0)


def flax_logits(graph: Any, state: Any, inputs: Floats) -> Floats:
    """Logits float32 [n, classes] of a split network in eval mode, at full float32 precision (a GPU's default is lower)."""
    with plain_forms(), jax.default_matmul_precision("highest"):
        batches = [np.asarray(_compiled(graph, state, inputs[i : i + _BATCH])) for i in range(0, len(inputs), _BATCH)]
    return np.concatenate(batches)


def normalisation(spec: Dataset, info: DatasetInfo) -> Normalisation:
    """`flaxcomp.train.inputs.normalise` in the terms of TFLite's metadata: mean and deviation of pixels in [0, 255]."""
    channels = info.image_shape[2]
    if spec.normalize == "channel":
        mean, std = tuple(255 * m for m in info.mean), tuple(255 * s for s in info.std)
        return Normalisation("channel", mean, std, "(pixel - mean) / std per channel, pixels in [0, 255]")
    if spec.normalize == "image":
        formula = "x = pixel / 255, then (x - mean(x)) / max(deviation(x), 0.001) over each whole image, before the network"
        return Normalisation("image", None, None, formula)
    return Normalisation("unit", (0.0,) * channels, (255.0,) * channels, "pixel / 255")


def resizing(spec: Dataset, info: DatasetInfo) -> Resizing | None:
    """`flaxcomp.train.inputs.resize` in words; None where images are taken as they are."""
    height, width, _ = info.image_shape
    if input_shape(spec, info)[:2] == (height, width):
        return None
    formula = "linear interpolation, half-pixel centres, antialiased where it shrinks, not rounded; before the normalisation"
    return Resizing((height, width), input_shape(spec, info)[:2], formula)


def calibration_indices(spec: Dataset, train_size: int, count: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Training images that the trial itself trained on: never those that choose or report."""
    usable = min(train_size, spec.train_limit or train_size)
    train, _ = split_validation(usable, spec.validation.fraction, spec.validation.seed)
    order = np.random.RandomState(seed).permutation(len(train))
    return train[np.sort(order[:count])]


def _versions() -> dict[str, str]:
    own = {"flaxcomp": flaxcomp.__version__, "tensorflow": str(start_tensorflow().__version__)}
    return own | {name: version(name) for name in ("jax", "flax", "tf2onnx", "qwix", "ai-edge-quantizer")}
