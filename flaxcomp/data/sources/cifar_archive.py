"""CIFAR-10 and CIFAR-100 as their authors publish them: the python or the binary version, as .tar.gz or extracted.

Reference: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout" and "Binary version".
"""

import gzip
import io
import pickle
import re
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Decoded, make_splits
from flaxcomp.errors import UserError

_PLANES = (3, 32, 32)  # of a stored image: red, green and blue
_PIXELS = 3072
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_SUBFOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")

Batch = tuple[NDArray[Any], NDArray[Any]]  # images uint8 [N, 32, 32, 3], labels [N]


def recognises(path: Path) -> bool:
    """Whether `path` is a tar archive, or a folder with CIFAR's test file in it or in the archive's own folder."""
    return _is_archive(path) or (path.is_dir() and _folder_of_files(path) is not None)


def read(path: Path, _report: Report = silent) -> Decoded:
    """Decode the archive or folder `path`; of CIFAR-100 the fine labels are taken.

    Raises:
        UserError: truncated, a batch missing, or not CIFAR's form.
    """
    files = _from_archive(path) if _is_archive(path) else _from_folder(path)
    form = next((form for form in _FORMS if form.test in files), None)
    if form is None:
        raise UserError(
            f"{path} must hold the files of CIFAR's python or binary version, such as {_FORMS[0].test}; "
            f"found {', '.join(sorted(files)) or 'none'}."
        )
    train = sorted((name for name in files if form.train.fullmatch(name)), key=lambda name: (len(name), name))
    if not train:
        raise UserError(f"{path} has {form.test} but no file that is named {form.train.pattern}.")
    numbers = [int(match[1]) for name in train if (match := re.search(r"_(\d+)", name))]
    if numbers != list(range(1, len(numbers) + 1)):
        raise UserError(f"{path} must hold the batches 1, 2, ... without a gap; found {', '.join(train)}.")
    batches = [form.decode(files[name], f"{path}: {name}") for name in train]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    splits = make_splits(images, labels, *form.decode(files[form.test], f"{path}: {form.test}"), origin=str(path))
    names = form.names(files[form.name_file], f"{path}: {form.name_file}") if form.name_file in files else None
    return Decoded(splits, names)


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_ARCHIVES)


def _folder_of_files(path: Path) -> Path | None:
    for folder in (path, *(path / name for name in _SUBFOLDERS)):
        if any((folder / form.test).is_file() for form in _FORMS):
            return folder
    return None


def _from_folder(path: Path) -> dict[str, bytes]:
    folder = _folder_of_files(path)
    assert folder is not None, "recognises() was asked first"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and _wanted(file.name)}


def _from_archive(path: Path) -> dict[str, bytes]:
    try:
        # To the end, so that gzip's own checksum is looked at before anything else.
        data = path.read_bytes() if path.suffix == ".tar" else gzip.decompress(path.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [member for member in archive if member.isfile() and _wanted(Path(member.name).name)]
            return {Path(member.name).name: file.read() for member in members if (file := archive.extractfile(member))}
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise UserError(f"{path} is truncated or not a tar archive ({error}). Fetch it again.") from error


def _binary(data: bytes, what: str, *, label_bytes: int) -> Batch:
    row = label_bytes + _PIXELS
    if not data or len(data) % row:
        raise UserError(f"{what} must be rows of {row} bytes and has {len(data)} bytes: truncated? Fetch it again.")
    rows = np.frombuffer(data, np.uint8).reshape(-1, row)
    return _planes_last(rows[:, label_bytes:]), rows[:, label_bytes - 1]


def _pickled(data: bytes, what: str, *, key: bytes) -> Batch:
    content = _unpickle(data, what)
    pixels, labels = np.asarray(content.get(b"data")), content.get(key)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,) or not isinstance(labels, list):
        raise UserError(f"{what} must hold uint8 rows of {_PIXELS} under 'data' and a list under {key.decode()!r}.")
    return _planes_last(pixels), np.array(labels)


def _planes_last(rows: NDArray[Any]) -> NDArray[Any]:
    return rows.reshape(-1, *_PLANES).transpose(0, 2, 3, 1)


def _text_names(data: bytes, _what: str) -> tuple[str, ...]:
    return tuple(data.decode().split())


def _pickled_names(data: bytes, what: str, *, key: bytes) -> tuple[str, ...]:
    return tuple(name.decode() for name in _unpickle(data, what).get(key, []))


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and can call nothing else: these files come from anywhere."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            import codecs

            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set")


def _unpickle(data: bytes, what: str) -> dict[bytes, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle may raise nearly anything
        raise UserError(f"{what} is truncated or not one of CIFAR's python files ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{what} must hold a dictionary; it holds {type(content).__name__}.")
    return content


@dataclass(frozen=True)
class _Form:
    """One published version: which files it has and how one of them is decoded."""

    test: str
    train: re.Pattern[str]
    decode: Callable[[bytes, str], Batch]
    name_file: str
    names: Callable[[bytes, str], tuple[str, ...]]


_FORMS = (
    _Form(
        "test_batch",
        re.compile(r"data_batch_(\d+)"),
        partial(_pickled, key=b"labels"),
        "batches.meta",
        partial(_pickled_names, key=b"label_names"),
    ),
    _Form(
        "test_batch.bin", re.compile(r"data_batch_(\d+)\.bin"), partial(_binary, label_bytes=1), "batches.meta.txt", _text_names
    ),
    _Form(
        "test",
        re.compile("train"),
        partial(_pickled, key=b"fine_labels"),
        "meta",
        partial(_pickled_names, key=b"fine_label_names"),
    ),
    _Form("test.bin", re.compile(r"train\.bin"), partial(_binary, label_bytes=2), "fine_label_names.txt", _text_names),
)


def _wanted(name: str) -> bool:
    return any(name in (form.test, form.name_file) or form.train.fullmatch(name) for form in _FORMS)
