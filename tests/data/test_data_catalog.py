"""What is known of the named sets, the embedded sample, and the validation split."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_files import GRAY
from flaxcomp.data import catalog, labels
from flaxcomp.data.arrays import load, split_validation
from flaxcomp.data.splits import Splits, channel_statistics, fingerprint_of
from flaxcomp.errors import UserError


def test_the_sample_is_what_the_catalog_says() -> None:
    arrays = load("mnist_sample")
    info = arrays.info
    assert (len(arrays.train_images), len(arrays.test_images)) == (info.train_size, info.test_size) == (12_000, 2_000)
    assert arrays.train_images.shape[1:] == info.image_shape == (28, 28, 1)
    assert arrays.train_images.dtype == np.uint8
    assert arrays.train_labels.dtype == np.int32
    assert fingerprint_of(arrays) == info.fingerprint


def test_the_sample_s_statistics_are_those_of_the_formula() -> None:
    arrays = load("mnist_sample")
    pixels = arrays.train_images.astype(np.float64) / 255
    assert arrays.info.mean == pytest.approx((pixels.mean(),), abs=1e-12)
    assert arrays.info.std == pytest.approx((pixels.std(),), abs=1e-12)


def test_the_sample_keeps_the_shares_of_the_classes_and_is_small() -> None:
    arrays = load("mnist_sample")
    mnist_counts = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert np.abs(np.bincount(arrays.train_labels) - mnist_counts / 5).max() < 1
    folder = Path(catalog.__file__).parent / "embedded" / "mnist_sample"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    assert "CC BY-SA 3.0" in (folder / "LICENSE.txt").read_text()


def test_channel_statistics_are_per_channel_and_exact() -> None:
    images = np.zeros((2, 1, 1, 3), np.uint8)
    images[:, 0, 0, 1] = 255
    images[1, 0, 0, 2] = 255
    assert channel_statistics(images) == ((0.0, 1.0, 0.5), (0.0, 0.0, 0.5))


def test_the_fingerprint_is_fixed_and_sees_every_part() -> None:
    """A changed constant would give every trial another id."""
    tiny = Splits(
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1),
        np.array([0, 1], np.int32),
        np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1),
        np.array([1], np.int32),
    )
    assert fingerprint_of(tiny) == "31d99820be0ca5182b7ae7f83f265643b02fa77dff99b37613c0d447627b43be"
    for name, array in tiny.named().items():
        changed = array.copy()
        changed.flat[0] += 1
        assert fingerprint_of(Splits(**tiny.named() | {name: changed})) != fingerprint_of(tiny)
    reshaped = Splits(tiny.train_images.reshape(2, 4, 1, 1), tiny.train_labels, tiny.test_images, tiny.test_labels)
    assert fingerprint_of(reshaped) != fingerprint_of(tiny)
    swapped = Splits(np.asfortranarray(tiny.train_images), tiny.train_labels.astype(">i4"), tiny.test_images, tiny.test_labels)
    assert fingerprint_of(swapped) == fingerprint_of(tiny)


def test_named_sets_need_not_be_prepared_to_be_planned_with(tmp_path: Path) -> None:
    for name in ("mnist", "fashion_mnist", "cifar10"):
        assert len(catalog.fingerprint(name, tmp_path)) == 64
        assert not catalog.is_prepared(name, tmp_path)
    assert catalog.is_prepared("mnist_sample", tmp_path)


def test_cifar100_has_no_fingerprint_until_it_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="flaxcomp data prepare cifar100"):
        catalog.fingerprint("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("given_name", "meant"), [("mnits", "mnist"), ("cifar_10", "cifar10"), ("fashion-mnist", "fashion_mnist")]
)
def test_an_unknown_name_gets_the_nearest(given_name: str, meant: str, tmp_path: Path) -> None:
    for ask in (catalog.info, catalog.fingerprint, load):
        with pytest.raises(UserError, match=f"unknown data set '{given_name}'. Did you mean '{meant}'?"):
            ask(given_name, tmp_path)


def test_a_set_that_is_not_prepared_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run: flaxcomp data prepare mnist"):
        load("mnist", tmp_path)


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    for content in (b"", b"{}", b'{"info": {"name": 3}, "source": ""}'):
        (tmp_path / "flowers" / "flaxcomp.json").write_bytes(content)
        with pytest.raises(UserError, match=r"Remove .* and prepare 'flowers' again"):
            catalog.info("flowers", tmp_path)


def test_cifar100_names_and_groups() -> None:
    assert len(set(labels.CIFAR100)) == 100
    assert list(labels.CIFAR100_COARSE) == sorted(labels.CIFAR100_COARSE)
    assert np.bincount(labels.CIFAR100_COARSE_OF_FINE).tolist() == [5] * 20
    coarse = labels.CIFAR100_COARSE_OF_FINE[labels.CIFAR100.index("apple")]
    assert labels.CIFAR100_COARSE[coarse] == "fruit_and_vegetables"
    for info in catalog.NAMED.values():
        assert len(info.labels) == info.num_classes
        assert len(info.mean) == len(info.std) == info.image_shape[-1]


def test_the_data_folder_is_the_environment_s_or_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flaxcomp.data.paths import default_data_dir

    monkeypatch.setenv("FLAXCOMP_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("FLAXCOMP_DATA")
    assert default_data_dir().parts[-2:] == ("flaxcomp", "data")


@given(n=st.integers(2, 2000), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**70))
def test_the_validation_split_parts_all_images(n: int, fraction: float, seed: int) -> None:
    train, held_out = split_validation(n, fraction, seed)
    assert train.dtype == held_out.dtype == np.int32
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(n))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    assert len(held_out) == min(max(round(n * fraction), 1), n - 1)
    np.testing.assert_array_equal(held_out, split_validation(n, fraction, seed)[1])


def test_the_validation_split_is_fixed_and_depends_on_the_seed() -> None:
    """Another split would change results under the same trial id."""
    assert split_validation(20, 0.25, 0)[1].tolist() == [1, 4, 9, 10, 11]
    assert split_validation(20, 0.25, 1)[1].tolist() == [1, 8, 10, 15, 16]
    with pytest.raises(UserError, match="at least 2"):
        split_validation(1, 0.5, 0)


def test_loading_imports_neither_tensorflow_nor_jax() -> None:
    code = (
        "import sys; from flaxcomp.data import catalog; assert 'numpy' not in sys.modules;"
        "from flaxcomp.data.arrays import load; load('mnist_sample');"
        "assert not {'tensorflow', 'tensorflow_datasets', 'jax', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_labels_without_names_are_numbered() -> None:
    from flaxcomp.data.checks import own_info
    from flaxcomp.data.splits import Decoded

    info = own_info("tiny", Decoded(GRAY), "0" * 64)
    assert (info.labels, info.num_classes) == (("0", "1", "2"), 3)
    with pytest.raises(UserError, match="names 2 classes, so labels go to 1; found 2"):
        own_info("tiny", Decoded(GRAY, ("a", "b")), "0" * 64)
