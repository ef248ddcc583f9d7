"""`run.json`: which run a folder holds, and where its records are."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from flaxcomp.durable import write_bytes, write_text
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths

T = TypeVar("T")


class RunFile(msgspec.Struct, frozen=True):
    """Attributes:
    run_id: names the run in the store.
    name: the sweep's name.
    store_url: of the PostgreSQL database, without its password; None: SQLite in the run folder.
    created: seconds since 1970.
    """

    run_id: str
    name: str
    store_url: str | None
    created: float


def read_run_file(paths: RunPaths) -> RunFile:
    """Read `run.json`.

    Raises:
        UserError: the folder is not there, is not a run folder, or the file is damaged.
    """
    try:
        return msgspec.json.decode(paths.run_file.read_bytes(), type=RunFile)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a run folder: it has no run.json" if paths.root.is_dir() else "is not a folder"
        raise UserError(f"{paths.root} {what}. Give the folder that `flaxcomp run` wrote.") from error
    except OSError as error:
        raise UserError(f"Cannot read {paths.run_file}: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{paths.run_file} is damaged ({error}): restore it from a copy.") from error


def write_sweep(paths: RunPaths, text: str, overrides: Sequence[str]) -> None:
    """Write the sweep file as it was given, and beside it the `--set` that changed it."""
    write_text(paths.sweep_file, text)
    if overrides:
        write_bytes(paths.overrides_file, msgspec.json.encode(overrides))
    else:
        paths.overrides_file.unlink(missing_ok=True)


def read_overrides(paths: RunPaths) -> tuple[str, ...]:
    """The `--set` of the run's sweep, as they were given.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    return _read_json(paths.overrides_file, tuple[str, ...]) or ()


def write_inputs(paths: RunPaths, contents: Mapping[str, str]) -> None:
    """Write which files the sweep names: their SHA-256 by the path that they have in it."""
    write_bytes(paths.inputs_file, msgspec.json.encode(contents))


def read_inputs(paths: RunPaths) -> dict[str, Path]:
    """The run's copies of the files that its sweep names, by the path that they have in it.

    Raises:
        UserError: the record of them is damaged or cannot be read.
    """
    contents = _read_json(paths.inputs_file, dict[str, str]) or {}
    return {path: paths.weights(content) for path, content in contents.items()}


def _read_json(file: Path, kind: type[T]) -> T | None:
    """What a file holds, None where it is not there."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{file} is damaged ({error}): restore it from a copy.") from error


def claim_run_file(paths: RunPaths, new: RunFile) -> RunFile:
    """Write `run.json` unless there is one; return the one that is there then.

    Of two programs that do this at once, one writes and both read the same.
    """
    if not paths.run_file.exists():
        partial = paths.run_file.with_name(f".run.json.{os.getpid()}.{time.monotonic_ns()}")
        write_bytes(partial, msgspec.json.encode(new))
        try:
            os.link(partial, paths.run_file)  # unlike a rename, fails where the name is taken
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            partial.replace(paths.run_file)
        finally:
            partial.unlink(missing_ok=True)
    return read_run_file(paths)
