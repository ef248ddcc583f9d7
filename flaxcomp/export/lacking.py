"""What a run's trials still lack in files, and whether they can be made; needs neither JAX nor TensorFlow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import Export, Precision

if TYPE_CHECKING:
    from flaxcomp.store.records import Store

File = tuple[Precision, str]  # precision and format (tflite, onnx)

ONNX_PRECISIONS = ("float32", "int8")


def files_of(spec: Export) -> list[File]:
    """The files that one trial becomes, in the order they are made."""
    files: list[File] = [(precision, "tflite") for precision in dict.fromkeys(spec.precisions)]
    return files + [(precision, "onnx") for precision, _ in files if spec.onnx and precision in ONNX_PRECISIONS]


def lacking(store: "Store", paths: RunPaths, trial_ids: Sequence[str], spec: Export) -> dict[str, list[File]]:
    """The files that each trial still lacks; trials that have all of theirs are left out."""
    done = {(row["trial"], row["precision"], row["format"])
            for row in store.frame(epochs=False).artifacts if _in_place(paths, row)}  # fmt: skip
    files = {id_: [file for file in files_of(spec) if (id_, *file) not in done] for id_ in trial_ids}
    return {id_: wanted for id_, wanted in files.items() if wanted}


def without_network(store: "Store", paths: RunPaths, trial_ids: Sequence[str], spec: Export) -> list[str]:
    """The trials whose files cannot be made, because their network was removed, by `retention` or by hand."""
    gone = [id_ for id_ in trial_ids if not paths.model(id_).is_dir()]
    return list(lacking(store, paths, gone, spec)) if gone else []


def _in_place(paths: RunPaths, row: Row) -> bool:
    return row["artifact"] is None or paths.artifact(row["artifact"], row["format"]).exists()
