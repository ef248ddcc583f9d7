"""Decoded arrays of a prepared data set. TensorFlow is imported only where the decoded cache is missing or damaged."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flaxcomp.data import cache, catalog
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.data.paths import SetPaths
from flaxcomp.data.sources import idx
from flaxcomp.data.splits import Splits, fingerprint_of
from flaxcomp.errors import UserError

_SAMPLE_FOLDER = Path(__file__).parent / "embedded" / catalog.SAMPLE


@dataclass(frozen=True)
class Arrays(Splits):
    """A data set in memory: images uint8 [N, H, W, C], labels int32 [N], in the order of the original files, read-only."""

    info: DatasetInfo


def load(name: str, data_dir: Path | None = None) -> Arrays:
    """Load a prepared data set and check it against its fingerprint.

    The arrays are mapped from files, so that processes on one machine share them.

    Raises:
        UserError: not prepared or unknown (the message says what to run), or what is stored is damaged beyond its TFDS records.
    """
    if name == catalog.SAMPLE:
        splits = idx.read(_SAMPLE_FOLDER).splits
        info = catalog.info(name)
        if fingerprint_of(splits) != info.fingerprint:
            raise UserError(f"the files in {_SAMPLE_FOLDER} are damaged. Install flaxcomp again.")
    else:
        if not catalog.is_prepared(name, data_dir):
            raise catalog.missing(name, data_dir)
        info = catalog.info(name, data_dir)
        paths = SetPaths.of(name, data_dir)
        cached = cache.read(paths, info.fingerprint)
        splits = cached if cached is not None else _from_records(paths, info)
    return Arrays(splits.train_images, splits.train_labels, splits.test_images, splits.test_labels, info)


def split_validation(n: int, fraction: float, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which of n training images train and which are held out for validation.

    The same for every version of NumPy: bit generator, seed sequence and `RandomState` are frozen by NumPy's policy.

    Args:
        n: training images.
        fraction: share held out, in (0, 1); at least one image is held out and one is left.
        seed: any number from 0.

    Returns:
        Sorted indices, int32: training, validation.
    """
    held_out = catalog.held_out(n, fraction)
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).permutation(n).astype(np.int32)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _from_records(paths: SetPaths, info: DatasetInfo) -> Splits:
    """Decode the TFDS records again and put the cache right, where that is possible."""
    from flaxcomp.data import tfds_store

    splits = tfds_store.read(paths.root)
    if fingerprint_of(splits) != info.fingerprint:
        raise UserError(
            f"the data set in {paths.root} is damaged: its arrays must have the SHA-256 {info.fingerprint}. "
            f"Remove that folder and run: flaxcomp data prepare {info.name}"
        )
    with contextlib.suppress(OSError):  # a data folder that may only be read is no error: the next load decodes again
        cache.write(paths, splits)
    return splits
