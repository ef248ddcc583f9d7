"""A trained network with everything that its files are made of and checked against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from flax import nnx

import flaxcomp
from flaxcomp.data.arrays import Arrays, split_validation
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.export.card import Card, Normalisation, Resizing
from flaxcomp.export.check import Check, Floats
from flaxcomp.export.convert import Precision, start_tensorflow, to_tflite
from flaxcomp.export.metadata import embed_onnx, embed_tflite
from flaxcomp.export.operators import not_int8, weight_types
from flaxcomp.export.to_onnx import to_onnx
from flaxcomp.models.layers import plain_forms
from flaxcomp.sweep.spec import Dataset, Export, TrialConfig
from flaxcomp.train.inputs import input_shape, normalise_array

FLOAT32_BOUND = 1e-3  # of a float32 file's logits against Flax's, relative to the largest logit
KERNEL_BOUND = 8  # quantisation steps between XNNPACK's int8 kernels and TFLite's reference kernels; 1 to 3 are usual
_CALIBRATION_SEED = 0
_BATCH = 100  # on a CPU, smaller than 500 keeps activations in the cache


@dataclass(frozen=True)
class Made:
    """A file, how much of it is metadata, and the plain TFLite file that it is or was made from."""

    content: bytes
    metadata_bytes: int
    tflite: bytes


@dataclass(frozen=True)
class Trained:
    """One trial, ready for export.

    Attributes:
        forward: float32 [n, h, w, c], normalised, to logits float32 [n, classes], in evaluation mode.
        card: what its files say of themselves; `precision` and `calibration` differ from file to file.
        input_shape: height, width, channels.
        calibration, inputs: normalised training images, and the whole test set, float32 [n, h, w, c].
        test_labels: int32 [n]; logits: Flax's on `inputs`, float32 [n, classes].
        plain: the TFLite files without metadata that were made so far.
    """

    forward: Callable[[jax.Array], jax.Array]
    spec: Export
    card: Card
    input_shape: tuple[int, int, int]
    calibration: Floats
    inputs: Floats
    test_labels: npt.NDArray[np.int32]
    logits: Floats
    plain: dict[Precision, bytes]

    @classmethod
    def of(cls, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays, network: nnx.Module) -> "Trained":
        graph, state = nnx.split(network)
        inputs = normalise_array(arrays.test_images, config.dataset, arrays.info)
        chosen = calibration_indices(config.dataset, len(arrays.train_images), spec.calibration_images)
        info = arrays.info
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
            calibration=normalise_array(arrays.train_images[chosen], config.dataset, info),
            inputs=inputs,
            test_labels=arrays.test_labels,
            logits=flax_logits(graph, state, inputs),
            plain={},
        )

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.logits.argmax(1) == self.test_labels))

    def make(self, precision: Precision, format_: str) -> Made:
        if precision not in self.plain:
            self.plain[precision] = to_tflite(self.forward, self.input_shape, precision, self.calibration)
        tflite = self.plain[precision]
        measured = {"images": len(self.calibration), "split": "train", "seed": _CALIBRATION_SEED, "ranges": "min-max"}
        card = replace(self.card, precision=precision, calibration=measured if precision == "int8" else None)
        bare = to_onnx(tflite) if format_ == "onnx" else tflite
        content = embed_onnx(bare, card, tflite) if format_ == "onnx" else embed_tflite(bare, card)
        return Made(content, len(content) - len(bare), tflite)

    def faults(self, made: Made, precision: Precision, result: Check, kernel_steps: int | None) -> list[str]:
        """Why this file must be looked at before it is shipped; nothing for a good one."""
        found = []
        drop, bound = self.accuracy - result.accuracy, self.spec.max_accuracy_drop
        if not np.isfinite(self.logits).all():
            found.append("the Flax network's own logits are not finite")
        if drop > bound + 1e-9:  # as shares of a test set, a drop of exactly the bound must pass
            found.append(f"accuracy drops by {drop:.4f} against Flax, more than {bound:g}")
        allowed = FLOAT32_BOUND * max(1.0, float(np.abs(self.logits).max()))
        if precision == "float32" and not result.max_abs_error <= allowed:
            found.append(f"logits differ from Flax's by {result.max_abs_error:.3g}, more than {allowed:.3g}")
        if precision == "int8" and (others := not_int8(made.tflite)):
            found.append(f"not int8: {', '.join(others)}")
        if kernel_steps is not None and kernel_steps > KERNEL_BOUND:
            found.append(f"XNNPACK and reference kernels differ by {kernel_steps} quantisation steps, more than {KERNEL_BOUND}")
        return found

    def note(self, made: Made, precision: Precision) -> str | None:
        """What is no fault but worth knowing."""
        if precision == "dynamic":
            weights = weight_types(made.tflite)
            quantised = weights.count("INT8")
            if not quantised:
                return "nothing was quantized: dynamic range leaves weights of fewer than 1,024 elements in float32"
            if quantised < len(weights):
                return f"{quantised} of {len(weights)} weights quantized: those of fewer than 1,024 elements stay float32"
        if precision == "float16" and len(made.tflite) >= len(self.plain.get("float32", b"")) > 0:
            return "no smaller than float32: each weight costs an operator that widens it"
        return None


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


def calibration_indices(spec: Dataset, train_size: int, count: int) -> npt.NDArray[np.int32]:
    """Training images that the trial itself trained on: never those that choose or report."""
    usable = min(train_size, spec.train_limit or train_size)
    train, _ = split_validation(usable, spec.validation.fraction, spec.validation.seed)
    order = np.random.RandomState(_CALIBRATION_SEED).permutation(len(train))
    return train[np.sort(order[:count])]


def _versions() -> dict[str, str]:
    own = {"flaxcomp": flaxcomp.__version__, "tensorflow": str(start_tensorflow().__version__)}
    return own | {name: version(name) for name in ("jax", "flax", "tf2onnx")}
