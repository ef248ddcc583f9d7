"""Every form that a path may hold is decoded exactly; a broken or truncated one is refused."""

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import (
    CIFAR10,
    CIFAR100,
    FORMS,
    GRAY,
    IMAGES,
    Form,
    cifar_files,
    random_splits,
    write_folder,
    write_idx,
    write_images,
    write_npz,
)
from flaxcomp.data.prepare import prepare
from flaxcomp.data.sources import cifar_archive, idx, image_folder, npz
from flaxcomp.data.splits import Splits
from flaxcomp.errors import UserError


def assert_same(found: Splits, expected: Splits) -> None:
    for name, array in expected.named().items():
        assert found.named()[name].dtype == array.dtype
        np.testing.assert_array_equal(found.named()[name], array, err_msg=name)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def test_every_form_decodes_to_the_arrays_that_were_written(form: Form, tmp_path: Path) -> None:
    assert_same(form.read(form.write(tmp_path)).splits, form.splits)


@pytest.mark.parametrize("name", FORMS)
def test_exactly_one_reader_recognises_a_form(name: str, tmp_path: Path) -> None:
    path = FORMS[name].write(tmp_path)
    # A folder with train/ and test/ is for image_folder alone, and files named train and test are CIFAR-100's.
    recognised = [reader.__name__ for reader in (idx, cifar_archive, npz, image_folder) if reader.recognises(path)]
    assert [reader.removeprefix("flaxcomp.data.sources.") for reader in recognised] == [
        "cifar_archive" if name.startswith("cifar") else name.removesuffix("_gz")
    ]


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused(name: str, data: st.DataObject) -> None:
    """Cut one file anywhere: it is refused, or nothing that matters was cut off.

    A binary CIFAR folder cut between two images is a smaller set; only a named set's size and SHA-256 can tell.
    """
    form = FORMS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = form.write(Path(folder))
        files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        files = [file for file in files if "meta" not in file.name and "names" not in file.name]
        file = data.draw(st.sampled_from(files), label="file")
        cut = data.draw(st.integers(0, file.stat().st_size - 1), label="cut")
        os.truncate(file, cut)
        try:
            found = form.read(path).splits
        except UserError:
            return
        if name.endswith("binary_folder") and cut and cut % (3073 if "cifar10_" in name else 3074) == 0:
            assert len(found.train_labels) + len(found.test_labels) < len(form.splits.train_labels) + len(
                form.splits.test_labels
            )
        else:
            assert_same(found, form.splits)


@pytest.mark.parametrize("name", FORMS)
def test_half_a_file_is_refused_by_prepare_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    path = FORMS[name].write(tmp_path)
    file = max((file for file in [path, *path.rglob("*")] if file.is_file()), key=lambda file: file.stat().st_size)
    os.truncate(file, file.stat().st_size // 2 + 1)
    data_dir = tmp_path / "data"
    with pytest.raises(UserError, match=r"truncated"):
        prepare("tiny", str(path), data_dir)
    assert list(data_dir.iterdir()) == []


def test_cifar_labels_get_the_names_of_the_meta_file(tmp_path: Path) -> None:
    for binary in (False, True):
        for classes, splits in ((10, CIFAR10), (100, CIFAR100)):
            files = cifar_files(splits, classes=classes, binary=binary)
            decoded = cifar_archive.read(write_folder(tmp_path / f"{classes}{binary}", files))
            assert decoded.labels == tuple(f"class{index}" for index in range(classes))


def test_cifar_batches_are_joined_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    splits = random_splits(33, 3, (32, 32, 3), 3)
    path = write_folder(tmp_path / "set", cifar_files(splits, classes=10, binary=True, batches=11))
    assert_same(cifar_archive.read(path).splits, splits)
    (path / "data_batch_10.bin").unlink()
    with pytest.raises(UserError, match="without a gap"):
        cifar_archive.read(path)


def test_cifar_is_found_in_the_archive_s_own_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar-10-batches-bin", cifar_files(CIFAR10, classes=10, binary=True))
    assert cifar_archive.recognises(tmp_path)
    assert_same(cifar_archive.read(tmp_path).splits, CIFAR10)


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch flaxcomp-was-here",)


def test_a_pickle_may_call_nothing_but_what_builds_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = cifar_files(CIFAR10, classes=10, binary=False)
    files["test_batch"] = pickle.dumps({b"data": _Malicious()}, 2)
    with pytest.raises(UserError, match="has no place in a data set"):
        cifar_archive.read(write_folder(tmp_path / "set", files))
    assert not (tmp_path / "flaxcomp-was-here").exists()


def test_idx_reads_the_dotted_names_too(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "set", GRAY, compressed=False)
    for file in list(path.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert_same(idx.read(path).splits, GRAY)


def test_idx_names_the_file_that_is_missing(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "set", GRAY, compressed=True)
    (path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-labels"):
        idx.read(path)


def test_idx_refuses_what_is_too_long_or_of_another_type(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "set", GRAY, compressed=False)
    file = path / "train-labels-idx1-ubyte"
    data = file.read_bytes()
    file.write_bytes(data + b"\0")
    with pytest.raises(UserError, match=f"{len(data)} bytes by its own head and has {len(data) + 1}"):
        idx.read(path)
    file.write_bytes(data[:2] + b"\x0d" + data[3:])
    with pytest.raises(UserError, match="unsigned bytes"):
        idx.read(path)


def test_npz_takes_both_sets_of_names_and_columns_of_labels(tmp_path: Path) -> None:
    own = write_npz(tmp_path / "own.npz", GRAY, tuple(GRAY.named()))
    assert_same(npz.read(own).splits, GRAY)
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), GRAY.named().values(), strict=True))
    np.savez(tmp_path / "column.npz", **arrays | {"y_train": GRAY.train_labels[:, None].astype(np.uint8)})
    assert_same(npz.read(tmp_path / "column.npz").splits, GRAY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": np.zeros((24, 6, 5), np.float32)}, r"training images must be uint8 .* found float32"),
        ({"x_train": np.zeros((23, 6, 5), np.uint8)}, "23 images and 24 labels"),
        ({"x_test": np.zeros((12, 6, 6), np.uint8)}, "must have one shape"),
        ({"y_test": np.full(12, -1)}, "must be from 0 on; found -1"),
        ({"y_test": np.zeros(12)}, "whole numbers"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8), "y_train": np.zeros(0, np.int64)}, "0 images and 0 labels"),
        ({"y_test": np.array([{}] * 12)}, "plain arrays"),
    ],
)
def test_npz_says_which_array_is_wrong(changed: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), GRAY.named().values(), strict=True))
    np.savez(tmp_path / "set.npz", **arrays | changed)
    with pytest.raises(UserError, match=message):
        npz.read(tmp_path / "set.npz")


def test_npz_without_the_arrays_names_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", photos=np.zeros(3))
    with pytest.raises(UserError, match="it holds photos"):
        npz.read(tmp_path / "set.npz")


def test_image_folder_labels_are_the_sorted_folders(tmp_path: Path) -> None:
    assert FORMS["image_folder"].read(FORMS["image_folder"].write(tmp_path)).labels == ("class0", "class1", "class2")


def test_image_folder_without_splits_holds_out_a_tenth_of_each_class(tmp_path: Path) -> None:
    everything = random_splits(90, 2, (4, 4, 1), 3)
    path = write_images(tmp_path / "photos", everything.train_images, everything.train_labels)
    first, again = image_folder.read(path).splits, image_folder.read(path).splits
    assert_same(again, first)
    assert np.bincount(first.train_labels).tolist() == [27, 27, 27]
    assert np.bincount(first.test_labels).tolist() == [3, 3, 3]
    images = np.concatenate([first.train_images, first.test_images])
    assert {image.tobytes() for image in images} == {image.tobytes() for image in everything.train_images}


def test_image_folder_of_several_sizes_wants_a_size(tmp_path: Path) -> None:
    path = write_images(tmp_path / "photos", IMAGES.train_images, IMAGES.train_labels)
    PIL.Image.new("RGB", (20, 10), (200, 0, 0)).save(path / "class0" / "wide.jpg")
    with pytest.raises(UserError, match=r"wide\.jpg is 20x10.*--size N"):
        image_folder.read(path)
    splits = image_folder.read(path, image_size=8).splits
    assert splits.train_images.shape[1:] == (8, 8, 3)


def test_image_folder_is_gray_only_when_all_images_are(tmp_path: Path) -> None:
    path = write_images(tmp_path / "photos", GRAY.train_images, GRAY.train_labels)
    assert image_folder.read(path).splits.image_shape == (6, 5, 1)
    PIL.Image.new("P", (5, 6)).save(path / "class1" / "palette.png")
    assert image_folder.read(path).splits.image_shape == (6, 5, 3)


def test_image_folder_ignores_other_and_hidden_files_but_no_empty_class(tmp_path: Path) -> None:
    path = write_images(tmp_path / "photos", GRAY.train_images, GRAY.train_labels)
    (path / "class0" / "notes.txt").write_text("x")
    (path / "class0" / "._0001.png").write_bytes(b"resource fork")
    assert len(image_folder.read(path).splits.train_labels) == 21
    (path / "empty").mkdir()
    with pytest.raises(UserError, match="empty must hold images"):
        image_folder.read(path)


def test_image_folder_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    path = FORMS["image_folder"].write(tmp_path)
    (path / "test" / "class2").rename(path / "test" / "other")
    with pytest.raises(UserError, match=r"same classes.*other"):
        image_folder.read(path)


def test_image_folder_stands_photographs_upright(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: 8 wide and 4 high is shown 4 wide and 8 high
    for label in ("a", "b"):
        (path / label).mkdir(parents=True)
        for number in range(2):
            PIL.Image.new("RGB", (8, 4)).save(path / label / f"{number}.jpg", exif=exif)
    assert image_folder.read(path).splits.image_shape == (8, 4, 3)
