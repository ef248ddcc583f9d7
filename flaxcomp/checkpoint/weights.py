"""Weights from outside a run: `.safetensors` and `.npz` files, and model folders as this package writes them.

What is here needs neither JAX nor Orbax: a plan checks weights, and knows them by their content.
"""

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flaxcomp import durable
from flaxcomp.errors import MissingPackageError, UserError

Arrays = dict[str, npt.NDArray[Any]]

_METADATA = "_METADATA"  # of Orbax: the names of the arrays in a folder


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file's content, or of all names and contents in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{fingerprint(file_path)}\n".encode())
    return digest.hexdigest()


def check(path: Path) -> None:
    """Refuse what is no weight file or model folder, or not a whole one.

    Raises:
        UserError: with the reason.
    """
    if path.is_dir():
        _check_folder(path)
    elif not path.exists():
        raise UserError(f"{path}: initial weights must be there, but there is nothing")
    else:
        read(path)


def read(file: Path) -> Arrays:
    """The arrays of a `.npz` or `.safetensors` file, told apart by their first bytes, by name.

    Raises:
        UserError: it is neither, or damaged, or holds what is no array of numbers.
    """
    try:
        with file.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
        arrays = _read_npz(file) if is_zip else _read_safetensors(file)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and safetensors raise many kinds for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{file}: a .safetensors or .npz file must be given; this one cannot be read ({reason})") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise UserError(f"{file}: weights must be numbers, {name!r} is {array.dtype}")
    return arrays


def keep(source: Path, content: str, target: Path) -> None:
    """Copy weights to `target` if they are not there, so that a run does not depend on what lies outside it.

    Args:
        source: a file or a folder.
        content: its `fingerprint`.
        target: ends up whole or not at all.

    Raises:
        UserError: the source has changed since.
        OSError: the copy cannot be written.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copyfile(source, partial)
        if fingerprint(partial) != content:
            raise UserError(f"{source}: the weights have changed while they were read. Give the command again.")
        for path in [partial, *partial.rglob("*")]:
            durable.sync(path)
        durable.replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if partial.is_file():
            partial.unlink()


def _read_npz(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_safetensors(file: Path) -> Arrays:
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError:
        raise MissingPackageError("weights in .safetensors need the package safetensors: pip install safetensors") from None
    try:
        arrays: Arrays = load_file(file)
    except KeyError as error:
        raise UserError(f"{file}: weights must be float16, float32 or float64, but some are {error.args[0]}") from None
    return arrays


def _check_folder(folder: Path) -> None:
    if not (folder / _METADATA).is_file():
        raise UserError(f"{folder}: a model folder must be given, such as a run's trials/ID/model; this is none")
    try:
        names = set(json.loads((folder / _METADATA).read_text())["tree_metadata"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: the model folder is damaged ({type(error).__name__} in {_METADATA})") from None
    if "('checksum',)" not in names or not any(name.startswith("('params/") for name in names):
        raise UserError(f"{folder}: a model folder as flaxcomp writes it must be given; this is another checkpoint")
