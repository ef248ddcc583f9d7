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
from flaxcomp.export.check import Floats, check, predict
from flaxcomp.export.convert import ExportError, Precision
from flaxcomp.export.lacking import File, files_of, lacking
from flaxcomp.export.operators import ends
from flaxcomp.export.trained import Trained
from flaxcomp.store.frame import Row
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import Export, TrialConfig

if TYPE_CHECKING:
    from flaxcomp.store.records import Store

_KERNEL_IMAGES = 64  # the reference kernels are some thirty times slower


def export_trial(paths: RunPaths, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays) -> list[Row]:
    """Write all files of one trial into `paths.artifacts`; see `export_files`.

    Raises:
        UserError: the trial's model cannot be read.
    """
    return list(export_files(paths, _read(paths, trial_id, config, spec, arrays), files_of(spec)))


def export_files(paths: RunPaths, trained: Trained, files: Collection[File]) -> Iterator[Row]:
    """Convert, write and check one file after the other.

    Yields:
        A row a file: `trial, artifact, precision, format, size_bytes, accuracy, accuracy_drop` (Flax's test accuracy minus the
        file's), `flagged, reason` (what is wrong with it), `note` (what is worth knowing), `flax_accuracy, max_abs_error,
        agreement, metadata_bytes, calibration_images, kernel_steps` (int8 TFLite: XNNPACK against reference kernels).
        Where a file cannot be made or run, `artifact` is None and `reason` says why.
    """
    for precision, format_ in files:
        row = {"trial": trained.card.trial, "precision": precision, "format": format_}
        try:
            yield row | _export_file(paths, trained, precision, format_)
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
            trained = _read(paths, trial_id, config, spec, arrays)
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


def _read(paths: RunPaths, trial_id: str, config: TrialConfig, spec: Export, arrays: Arrays) -> Trained:
    from flaxcomp.train.found import as_trained
    from flaxcomp.train.restore import load_model

    config = as_trained(paths, trial_id, config)
    return Trained.of(trial_id, config, spec, arrays, load_model(paths.model(trial_id), config, arrays.info))


def _export_file(paths: RunPaths, trained: Trained, precision: Precision, format_: str) -> Row:
    made = trained.make(precision, format_)
    sha256 = hashlib.sha256(made.content).hexdigest()
    path = paths.artifact(sha256, format_)
    durable.write_bytes(path, made.content)
    try:
        result = check(path, trained.inputs, trained.test_labels, trained.logits)
        steps = _kernel_steps(path, trained.inputs) if (precision, format_) == ("int8", "tflite") else None
    except UserError as error:  # a file that its runtime refuses is no artifact
        path.unlink()
        raise ExportError(str(error)) from error
    reasons = trained.faults(made, precision, result, steps)
    return {
        "artifact": sha256,
        "size_bytes": len(made.content),
        "accuracy": result.accuracy,
        "accuracy_drop": trained.accuracy - result.accuracy,
        "flagged": bool(reasons),
        "reason": "; ".join(reasons) or None,
        "note": trained.note(made, precision),
        "flax_accuracy": trained.accuracy,
        "max_abs_error": result.max_abs_error,
        "agreement": result.agreement,
        "metadata_bytes": made.metadata_bytes,
        "calibration_images": len(trained.calibration) if precision == "int8" else None,
        "kernel_steps": steps,
    }


def _kernel_steps(path: Path, inputs: Floats) -> int:
    """Largest difference of a logit between XNNPACK's int8 kernels and TFLite's reference kernels, in quantisation steps."""
    sample = inputs[:_KERNEL_IMAGES]
    apart = np.abs(predict(path, sample) - predict(path, sample, reference_kernels=True)).max()
    return round(float(apart) / ends(path.read_bytes())[1].scale)
