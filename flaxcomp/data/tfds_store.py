"""Data sets as TensorFlow Datasets stores them; with `sources/tfds.py` and its child process, the home of TFDS.

A named set is written as TFDS itself would write it: official name, version, features and keys, so that the same records lie in
the same order and `tfds.load(name, data_dir=..., download=False)` reads them.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxcomp.data.catalog import NAMED, DatasetInfo
from flaxcomp.data.labels import CIFAR100_COARSE, CIFAR100_COARSE_OF_FINE
from flaxcomp.data.paths import SetPaths
from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Splits, make_splits
from flaxcomp.errors import MissingPackageError, UserError


@contextlib.contextmanager
def _native_messages_dropped() -> Iterator[None]:
    """TensorFlow's C++ greets on file descriptor 2 at its import and at its first operation, whatever its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no messages of level "info"; read when TensorFlow is imported
try:
    with _native_messages_dropped():
        import tensorflow_datasets as tfds
        from absl import logging as absl_logging
        from tensorflow_datasets.core.hashing import Hasher

        # TFDS imports TensorFlow when it first needs it; encoding an image is such a need.
        tfds.features.Image(shape=(1, 1, 1)).encode_example(np.zeros((1, 1, 1), np.uint8))
except ImportError as error:
    message = f"data sets are stored by TensorFlow Datasets ({error}). Run: pip install 'flaxcomp[full]'"
    raise MissingPackageError(message) from error

OWN_VERSION = "1.0.0"  # of sets that TFDS does not know
_DISK_FULL = ("No space left", "File too large", "Disk quota")
_BATCH = 1000
_REPORT_EVERY = 500  # images


def write(data_dir: Path, info: DatasetInfo, splits: Splits, report: Report) -> None:
    """Store `splits` as the TFDS data set `info.name` below `data_dir`, which must not hold it yet.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    features: dict[str, Any] = {
        "image": tfds.features.Image(shape=info.image_shape),
        "label": tfds.features.ClassLabel(names=list(info.labels)),
    }
    total = info.train_size + info.test_size
    try:
        with _tfds_silent():
            official = tfds.builder(info.name, data_dir=data_dir) if info.name in NAMED else None
            if official and "id" in official.info.features:
                features["id"] = tfds.features.Text()
            if official and "coarse_label" in official.info.features:
                features["coarse_label"] = tfds.features.ClassLabel(names=list(CIFAR100_COARSE))
            tfds.dataset_builders.store_as_tfds_dataset(
                name=info.name,
                version=official.version if official else OWN_VERSION,
                data_dir=data_dir,
                features=tfds.features.FeaturesDict(features),
                split_datasets={
                    "train": _examples("train", splits.train_images, splits.train_labels, features, 0, total, report),
                    "test": _examples("test", splits.test_images, splits.test_labels, features, info.train_size, total, report),
                },
                description=official.info.description if official else f"Images in {info.num_classes} classes.",
                homepage=official.info.homepage if official else None,
                citation=official.info.citation if official else None,
            )
    except RuntimeError as error:  # that is what TFDS makes of TensorFlow's errors, a full disk among them
        if not any(words in str(error) for words in _DISK_FULL):
            raise
        raise OSError(errno.ENOSPC, _first_line(error)) from error


def read(set_folder: Path, report: Report = silent) -> Splits:
    """Decode a TFDS data set to arrays in the order of the original files.

    TFDS shuffles by the hash of each example's key when it writes. The key is the position in the original file, so the
    order is known and is undone here.

    Args:
        set_folder: the folder of the data set, with a folder of its version in it.

    Raises:
        UserError: no TFDS data set there, or its records cannot be read.
    """
    folder = SetPaths(set_folder).tfds_folder
    if folder is None:
        raise UserError(f"there is no TFDS data set in {set_folder}. Remove that folder and prepare the data set again.")
    try:
        with _tfds_silent():
            builder = tfds.builder_from_directory(folder)
        sizes = [builder.info.splits[split].num_examples for split in ("train", "test")]
        decoded: list[Any] = []
        for split, before in (("train", 0), ("test", sizes[0])):
            decoded += _decode(builder, split, before, sum(sizes), report)
    except Exception as error:  # TensorFlow's errors have no common base but this
        if isinstance(error, UserError | MemoryError):
            raise
        raise UserError(f"the TFDS data set in {folder} cannot be read ({_first_line(error)}). Prepare it again.") from error
    return make_splits(*decoded, origin=str(folder))


def present_folder(name: str) -> Path | None:
    """The folder of the named set in TFDS's own data folder (TFDS_DATA_DIR or its default), where it is prepared there."""
    with _tfds_silent():
        builder = tfds.builder(name)
        return Path(builder.data_dir).parent if builder.is_prepared() else None


@contextlib.contextmanager
def _tfds_silent() -> Iterator[None]:
    """No progress bars, no advice on standard output, no warnings."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        absl_logging.set_verbosity(verbosity)


def _examples(
    split: str, images: Any, labels: Any, features: dict[str, Any], before: int, total: int, report: Report
) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        example = {"image": image, "label": label}
        if "id" in features:
            example["id"] = f"{split}_{index:05d}"
        if "coarse_label" in features:
            example["coarse_label"] = CIFAR100_COARSE_OF_FINE[label]
        if (before + index + 1) % _REPORT_EVERY == 0 or before + index + 1 == total:
            report("store", before + index + 1, total)
        yield index, example


def _decode(builder: Any, split: str, before: int, total: int, report: Report) -> tuple[Any, Any]:
    one_file_after_another = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(count, np.int64)
    hasher = Hasher(split)
    stored = np.array(sorted(range(count), key=hasher.hash_key))
    done = 0
    examples = builder.as_dataset(split=split, shuffle_files=False, read_config=one_file_after_another)
    for batch in tfds.as_numpy(examples.batch(_BATCH)):
        places = stored[done : done + len(batch["label"])]
        images[places], labels[places] = batch["image"], batch["label"]
        done += len(places)
        report("read back", before + done, total)
    if done != count:
        raise ValueError(f"{done} of {count} examples in split {split!r}")
    return images, labels


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
