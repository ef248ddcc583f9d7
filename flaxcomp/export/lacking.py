"""What a run's trials still lack in files, and whether they can be made; needs neither JAX nor TensorFlow."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import Calibration, Export, Precision, Quantizer, TrialConfig

if TYPE_CHECKING:
    from flaxcomp.store.records import Store

CALIBRATED = ("int16", "int8")  # precisions whose activations have ranges
ONNX_PRECISIONS = ("float32", "int8")


class File(NamedTuple):
    """One file of a trial: its precision, its format (tflite, onnx) and, where it has ranges, how they are found."""

    precision: Precision
    format: str
    calibration: Calibration | None = None


def files_of(spec: Export, *, own_ranges: bool = False) -> list[File]:
    """The files that one trial becomes, in the order they are made.

    Args:
        own_ranges: of a trial that found the ranges of int8 in its training; its one int8 file is calibrated only where they
            do not serve.
    """
    files = []
    for precision in dict.fromkeys(spec.precisions):
        ways: Sequence[Calibration | None] = spec.calibrations if precision in CALIBRATED else (None,)
        files += [File(precision, "tflite", way) for way in (ways[:1] if own_ranges and precision == "int8" else ways)]
    return files + [file._replace(format="onnx") for file in files if spec.onnx and file.precision in ONNX_PRECISIONS]


def has_own_ranges(config: TrialConfig) -> bool:
    """Whether a trial found the ranges of its activations in its training."""
    return config.quantize is not None


def lacking(store: "Store", paths: RunPaths, trial_ids: Sequence[str], spec: Export) -> dict[str, list[File]]:
    """The files that each trial still lacks; trials that have all of theirs are left out."""
    rows: dict[str, list[Row]] = {}
    for row in store.frame(epochs=False).artifacts:
        if _in_place(paths, row):
            rows.setdefault(row["trial"], []).append(row)
    configs = {id_: msgspec.json.decode(text, type=TrialConfig) for id_, text in store.configs(trial_ids).items()}
    found = {}
    for id_ in trial_ids:
        own_ranges = id_ in configs and has_own_ranges(configs[id_])
        wanted = [file for file in files_of(spec, own_ranges=own_ranges) if not _is_done(file, rows.get(id_, ()), own_ranges)]
        if wanted:
            found[id_] = wanted
    return found


def without_network(store: "Store", paths: RunPaths, trial_ids: Sequence[str], spec: Export) -> list[str]:
    """The trials whose files cannot be made, because their network was removed, by `retention` or by hand."""
    gone = [id_ for id_ in trial_ids if not paths.model(id_).is_dir()]
    return list(lacking(store, paths, gone, spec)) if gone else []


def calibration_of(row: Row) -> Calibration | None:
    """How the ranges of a recorded file were found; None where it has none, or where training found them."""
    if row["precision"] not in CALIBRATED or row.get("calibration_images") is None:
        return None
    quantizer: Quantizer = row.get("quantizer") or "tensorflow"
    return Calibration(images=row["calibration_images"], seed=row.get("calibration_seed") or 0, quantizer=quantizer)


def _is_done(file: File, rows: Iterable[Row], own_ranges: bool) -> bool:
    for row in rows:
        if (row["precision"], row["format"]) != file[:2]:
            continue
        made = calibration_of(row)
        if made == file.calibration or (own_ranges and file.precision == "int8"):
            return True
        # What one quantizer refuses it refuses whatever the images are; the store keeps one refusal of a precision.
        if row["artifact"] is None and made and file.calibration and made.quantizer == file.calibration.quantizer:
            return True
    return False


def _in_place(paths: RunPaths, row: Row) -> bool:
    return row["artifact"] is None or paths.artifact(row["artifact"], row["format"]).exists()
