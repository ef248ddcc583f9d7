"""The decoded arrays beside a TFDS data set, as .npy files: a worker maps them and needs no TensorFlow.

They are a cache: whoever finds them missing or wrong decodes the TFDS records again.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from flaxcomp.data.paths import SetPaths
from flaxcomp.data.splits import Splits, fingerprint_of
from flaxcomp.durable import replace_folder

_NAMES = tuple(Splits.__dataclass_fields__)


def read(paths: SetPaths, fingerprint: str) -> Splits | None:
    """The arrays, mapped read-only, or None where they are missing or have another fingerprint."""
    try:
        splits = Splits(*(np.asarray(np.load(paths.array(name), mmap_mode="r", allow_pickle=False)) for name in _NAMES))
    except (OSError, ValueError, EOFError):
        return None
    return splits if fingerprint_of(splits) == fingerprint else None


def write(paths: SetPaths, splits: Splits) -> None:
    """Write the four files; the folder of them appears whole or not at all.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    partial = Path(tempfile.mkdtemp(prefix=".arrays.", suffix=".partial", dir=paths.root))
    try:
        for name, array in splits.named().items():
            with (partial / paths.array(name).name).open("wb") as file:
                # Not np.save: its error on a full disk does not say that the disk is full.
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
        partial.chmod(0o755)
        replace_folder(partial, paths.arrays_folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
