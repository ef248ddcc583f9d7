"""A NumPy archive (.npz) with the four arrays, named as Keras names them or as flaxcomp does."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Decoded, make_splits
from flaxcomp.errors import UserError

_NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)


def recognises(path: Path) -> bool:
    """Whether `path` is a file whose name ends in .npz."""
    return path.is_file() and path.suffix == ".npz"


def read(path: Path, _report: Report = silent) -> Decoded:
    """Read the four arrays; pickled objects are not read.

    Raises:
        UserError: truncated, not an .npz, or without the four arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            for names in _NAMES:
                if set(names) <= set(archive.files):
                    return Decoded(make_splits(*(archive[name] for name in names), origin=str(path)))
            found = ", ".join(archive.files) or "nothing"
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path} is truncated or not a .npz of plain arrays ({error}). Fetch it again.") from error
    raise UserError(f"{path} must hold {' or '.join(', '.join(names) for names in _NAMES)}; it holds {found}.")
