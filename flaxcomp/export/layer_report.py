"""The layers of a finished trial, compared: what `flaxcomp layers` shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from flaxcomp.data.arrays import load, split_validation
from flaxcomp.export.lacking import File
from flaxcomp.export.layers import COLUMNS, accuracies_without, layer_errors
from flaxcomp.export.run import read_trained
from flaxcomp.export.tensors import dequantised_logits
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import Export, TrialConfig
from flaxcomp.train.inputs import normalise_array


@dataclass(frozen=True)
class LayerReport:
    """Rows with `columns` (and `tensor`), the worst operator first; and a line about the whole network."""

    rows: list[Row]
    columns: Sequence[str]
    summary: str


def report_layers(paths: RunPaths, trial_id: str, config: bytes, spec: Export | None, precision: Any, quantizer: Any,
                  images: int, on_progress: Callable[[int, int], None] | None = None) -> LayerReport:  # fmt: skip
    """Make the float32 and the quantized file of a finished trial and compare them on held-out images.

    Args:
        config: of the trial, as the store keeps it.
        precision: int8 or int16.
        quantizer: None: the first of `spec`.
        images: how many, at most.
        on_progress: if given, accuracies with one operator in float32 are found as well, and it is told how many.

    Raises:
        UserError: the network is missing, or cannot be converted.
    """
    trial = msgspec.json.decode(config, type=TrialConfig)
    arrays = load(trial.dataset.name)
    spec = spec or Export()
    if quantizer is not None:
        spec = msgspec.structs.replace(spec, quantizer=quantizer)
    trained = read_trained(paths, trial_id, trial, spec, arrays)
    dataset = trial.dataset
    usable = min(len(arrays.train_images), dataset.train_limit or len(arrays.train_images))
    _, held_out = split_validation(usable, dataset.validation.fraction, dataset.validation.seed)
    inputs = normalise_array(arrays.train_images[held_out[:images]], dataset, arrays.info)
    labels = arrays.train_labels[held_out[:images]]
    file = File(precision, "tflite", spec.calibrations[0])
    made = trained.make(file)
    errors = layer_errors(trained.float32, made.tflite, inputs)
    before, after = (100 * float(np.mean(dequantised_logits(data, inputs).argmax(1) == labels))
                     for data in (trained.float32, made.tflite))  # fmt: skip
    shares = f"{before:.1f} % right in float32, {after:.1f} % in {precision}"
    summary = f"{len(inputs)} held-out images: {shares}"
    if on_progress is not None:
        places = [error.operator for error in errors]
        whole, without = accuracies_without(trained, file, inputs, labels, places, on_progress)
        errors = [replace(error, accuracy_without=without[error.operator]) for error in errors]
        summary += f"; accuracy_without is by ai-edge-quantizer, {100 * whole:.1f} % with none left out"
    return LayerReport([error.row() for error in errors], COLUMNS, summary + ".")
