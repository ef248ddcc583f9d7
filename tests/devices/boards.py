"""What the tests of devices share: two small networks, and a cache with the emulated board."""

import hashlib
import os
from pathlib import Path

import pytest

from flaxcomp.devices import provision
from flaxcomp.devices.measure import Subject
from flaxcomp.errors import UserError
from parts import require

MODELS = Path(__file__).parent / "models"


def subject(path: Path) -> Subject:
    """A file as `measure` wants it; its trial is named like the file."""
    return Subject(hashlib.sha256(path.read_bytes()).hexdigest(), path, path.stem, path.stem)


FLOAT32, INT8 = subject(MODELS / "float32.tflite"), subject(MODELS / "int8.tflite")


def emulated_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder with the board, made once a session, whatever the number of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emulated-board"
    try:
        provision.provision(cache, provision.DEFAULT_CPU, print)
    except UserError as error:
        require(False, str(error))
    return cache
