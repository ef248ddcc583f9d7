"""MNIST's own format: a folder with four IDX files, each plain or gzip.

Reference: the format's description on the MNIST page: two zero bytes, a type code, the number of dimensions, then each
dimension as a big-endian 32-bit number, then the data in C order.
"""

import gzip
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Decoded, make_splits
from flaxcomp.errors import UserError

PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_UNSIGNED_BYTE = 0x08


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with at least one of MNIST's four files."""
    return path.is_dir() and any(_find(path, part) for part in PARTS)


def read(path: Path, _report: Report = silent) -> Decoded:
    """Decode the four files of the folder `path`.

    Raises:
        UserError: a file is missing, truncated, or not IDX of unsigned bytes.
    """
    arrays = []
    for part in PARTS:
        file = _find(path, part)
        if file is None:
            raise UserError(f"{path} must hold the four IDX files of MNIST's form; {part}-idx?-ubyte (or .gz) is missing.")
        arrays.append(read_file(file))
    return Decoded(make_splits(*arrays, origin=str(path)))


def read_file(file: Path) -> NDArray[Any]:
    """Decode one IDX file to a uint8 array of the shape that its head names."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is truncated or not gzip ({error}). Fetch it again.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or not data[3]:
        raise UserError(f"{file} must be an IDX file of unsigned bytes; its head is {data[:4].hex() or 'empty'}.")
    head = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:head]) if len(data) >= head else ()
    expected = head + int(np.prod(shape, dtype=object)) if shape else head
    if not shape or len(data) != expected:
        raise UserError(f"{file} must have {expected} bytes by its own head and has {len(data)}: truncated? Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _find(folder: Path, part: str) -> Path | None:
    name = re.compile(re.escape(part) + r"[-.]idx\d-ubyte(\.gz)?")
    return min((file for file in folder.iterdir() if name.fullmatch(file.name)), default=None)
