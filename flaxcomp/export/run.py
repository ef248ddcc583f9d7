"""From finished trials to checked files: what `flaxcomp export` and `flaxcomp run` call."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flaxcomp import durable
from flaxcomp.data.arrays import Arrays, load
from flaxcomp.errors import UserError
from flaxcomp.export.check import check, predict
from flaxcomp.export.convert import ExportError
from flaxcomp.export.lacking import File, files_of, has_own_ranges, lacking
from flaxcomp.export.operators import ends
from flaxcomp.export.tensors import Floats
from flaxcomp.export.trained import Trained
from flaxcomp.store.frame import Row
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import Calibration, Export, TrialConfig

if TYPE_CHECKING:
    from flaxcomp.store.records import Store

_KERNEL_IMAGES = 64  # the reference kernels are some thirty times slower


def export_trial(paths: RunPaths, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays) -> list[Row]:
    """Write all files of one trial into `paths.artifacts`; see `export_files`.

    Raises:
        UserError: the trial's model cannot be read.
    """
    files = files_of(spec, own_ranges=has_own_ranges(config))
    return list(export_files(paths, read_trained(paths, trial_id, config, spec, arrays), files))


def export_files(paths: RunPaths, trained: Trained, files: Collection[File]) -> Iterator[Row]:
    """Convert, write and check one file after the other.

    Yields:
        A row a file: `trial, artifact, precision, format, size_bytes, accuracy, accuracy_drop` (Flax's test accuracy minus the
        file's), `flagged, reason` (what is wrong with it), `note` (what is worth knowing), `flax_accuracy, max_abs_error,
        agreement, metadata_bytes`, how the ranges were found: `quantizer` (tensorflow, ai_edge; qwix: in training),
        `calibration_images, calibration_seed`, and `kernel_steps` (int8 TFLite: XNNPACK against reference kernels).
        Where a file cannot be made or run, `artifact` is None and `reason` says why.
    """
    for file in files:
        row = {"trial": trained.card.trial, "precision": file.precision, "format": file.format, **_way(file.calibration)}
        try:
            yield row | _export_file(paths, trained, file)
        except ExportError as error:
            yield row | {"artifact": None, "flagged": True, "reason": str(error)}


def export_run(
    store: "Store",
    lease: Lease,
    paths: RunPaths,
    trial_ids: Sequence[str],
    spec: Export,
    on_progress: Callable[[int, int, Row | None], None] | None = None,
) -> list[Row]:
    """Export finished trials of a run and record every file once it is checked; what is recorded already is left alone.

    Args:
        on_progress: called with files done, files to do and the row just recorded (None at the start).

    Returns:
        The new rows.

    Raises:
        UserError: a trial is unknown or not finished; or, after all others were exported, models that could not be read.
        LeaseLostError: another controller has taken the run over.
    """
    work, configs = _work(store, paths, trial_ids, spec)
    total = sum(len(files) for files in work.values())
    rows: list[Row] = []
    unreadable: list[str] = []
    if on_progress:
        on_progress(0, total, None)
    arrays: Arrays | None = None
    for trial_id in sorted(work, key=lambda id_: configs[id_].dataset.name):  # each data set is loaded once
        config = configs[trial_id]
        if arrays is None or arrays.info.name != config.dataset.name:
            arrays = load(config.dataset.name)
        try:
            trained = read_trained(paths, trial_id, config, spec, arrays)
        except UserError as error:
            unreadable.append(f"{trial_id}: {error}")
            continue
        for row in export_files(paths, trained, work[trial_id]):
            store.add_artifact(lease, row)
            rows.append(row)
            if on_progress:
                on_progress(len(rows), total, row)
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(work)} trials could not be exported:\n" + "\n".join(unreadable))
    return rows


def _work(
    store: "Store", paths: RunPaths, trial_ids: Sequence[str], spec: Export
) -> tuple[dict[str, list[File]], dict[str, TrialConfig]]:
    """The files that each trial still lacks, and the configurations of those trials."""
    statuses = store.statuses()
    for trial_id in trial_ids:
        if statuses.get(trial_id) != "finished":
            raise UserError(f"only finished trials can be exported; {trial_id} is {statuses.get(trial_id, 'not in this run')}")
    work = lacking(store, paths, trial_ids, spec)
    return work, {id_: msgspec.json.decode(text, type=TrialConfig) for id_, text in store.configs(work).items()}


def read_trained(paths: RunPaths, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays) -> Trained:
    """A finished trial, ready for export.

    Raises:
        UserError: its network cannot be read.
    """
    from flaxcomp.train.found import as_trained
    from flaxcomp.train.restore import load_besides, load_model

    config, folder = as_trained(paths, trial_id, config), paths.model(trial_id)
    network = load_model(folder, config, arrays.info)
    ranges = load_besides(folder, config, arrays.info) if has_own_ranges(config) else None
    return Trained.of(trial_id, config, spec, arrays, network, ranges)


def _export_file(paths: RunPaths, trained: Trained, file: File) -> Row:
    made, precision = trained.make(file), file.precision
    sha256 = hashlib.sha256(made.content).hexdigest()
    path = paths.artifact(sha256, file.format)
    durable.write_bytes(path, made.content)
    try:
        result = check(path, trained.inputs, trained.test_labels, trained.reference(precision))
        steps = _kernel_steps(path, trained.inputs) if file[:2] == ("int8", "tflite") else None
    except UserError as error:  # a file that its runtime refuses is no artifact
        path.unlink()
        raise ExportError(str(error)) from error
    reasons = trained.faults(made, precision, result, steps)
    accuracy, of_training = trained.accuracy(precision), precision == "int8" and made.bare.calibration is None
    return {
        "artifact": sha256,
        "size_bytes": len(made.content),
        "accuracy": result.accuracy,
        "accuracy_drop": accuracy - result.accuracy,
        "flagged": bool(reasons),
        "reason": "; ".join(reasons) or None,
        "note": trained.note(made, precision),
        "flax_accuracy": accuracy,
        "max_abs_error": result.max_abs_error,
        "agreement": result.agreement,
        "metadata_bytes": made.metadata_bytes,
        "kernel_steps": steps,
        **(_way(None) | {"quantizer": "qwix"} if of_training else _way(made.bare.calibration)),
    }


def _way(calibration: Calibration | None) -> Row:
    """How a file's ranges were found, in the columns of a row."""
    if calibration is None:
        return {"quantizer": None, "calibration_images": None, "calibration_seed": None}
    return {"quantizer": calibration.quantizer, "calibration_images": calibration.images,
            "calibration_seed": calibration.seed}  # fmt: skip


def _kernel_steps(path: Path, inputs: Floats) -> int:
    """Largest difference of a logit between XNNPACK's int8 kernels and TFLite's reference kernels, in quantisation steps."""
    sample = inputs[:_KERNEL_IMAGES]
    apart = np.abs(predict(path, sample) - predict(path, sample, reference_kernels=True)).max()
    return round(float(apart) / ends(path.read_bytes())[1].scale)
