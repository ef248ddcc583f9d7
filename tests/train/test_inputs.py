"""What a network sees of an image is the same in training and in export."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from flaxcomp.data import catalog
from flaxcomp.sweep.ids import canonical, signature
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.train.inputs import input_shape, interpolation, normalise, normalise_array, resize

INFO = replace(catalog.info("mnist_sample"), image_shape=(4, 5, 3), mean=(0.5, 0.25, 0.1), std=(0.2, 0.3, 0.25))
MODES = ["unit", "channel", "image"]
SHAPE = (2, 4, 5, 3)
ROUNDING = 2e-3  # of a mean in float32, divided by the smallest deviation of a nearly uniform image
images = arrays(np.uint8, SHAPE)


def spec(mode: str) -> Dataset:
    return Dataset(name="mnist_sample", normalize=mode)  # type: ignore[arg-type]


@functools.cache
def in_jax(mode: str) -> Any:
    return jax.jit(lambda x: normalise(x, spec(mode), INFO, jnp))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30, deadline=None)
@given(x=images)
def test_numpy_and_jax_see_the_same(mode: str, x: np.ndarray[Any, Any]) -> None:
    ours = normalise_array(x, spec(mode), INFO)
    assert (ours.dtype, ours.shape) == (np.dtype(np.float32), SHAPE)
    for given_ in (x, x.astype(np.float32)):  # images as stored, and as `augment` leaves them
        theirs = in_jax(mode)(given_)
        assert theirs.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=ROUNDING if mode == "image" else 1e-6)


@given(x=images)
def test_unit_is_the_share_of_white(x: np.ndarray[Any, Any]) -> None:
    seen = normalise_array(x, spec("unit"), INFO)
    np.testing.assert_allclose(seen, x / 255, rtol=1e-6)
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_channel_takes_the_training_sets_figures_to_zero_and_one() -> None:
    x = np.zeros(SHAPE, np.float32) + np.asarray(INFO.mean, np.float32) * 255
    np.testing.assert_allclose(normalise(x, spec("channel"), INFO), 0, atol=1e-6)
    x += np.asarray(INFO.std, np.float32) * 255
    np.testing.assert_allclose(normalise(x, spec("channel"), INFO), 1, rtol=1e-5)


@given(x=images)
def test_image_has_zero_mean_and_unit_deviation_unless_it_is_uniform(x: np.ndarray[Any, Any]) -> None:
    seen = normalise_array(x, spec("image"), INFO)
    np.testing.assert_allclose(seen.mean((1, 2, 3)), 0, atol=ROUNDING)
    for image, original in zip(seen, x, strict=True):
        if original.std() >= 1:
            assert image.std() == pytest.approx(1, abs=1e-3)
        if np.ptp(original) == 0:
            assert np.abs(image).max() < ROUNDING


def test_the_embedded_set_has_the_figures_it_is_told_to_have() -> None:
    from flaxcomp.data.arrays import load

    data = load("mnist_sample")
    seen = normalise_array(data.train_images, spec("channel"), data.info)
    assert float(seen.mean(dtype=np.float64)) == pytest.approx(0, abs=1e-3)
    assert float(seen.std(dtype=np.float64)) == pytest.approx(1, abs=1e-3)


def sized(size: int | None, mode: str = "unit") -> Dataset:
    return Dataset(name="mnist_sample", size=size, normalize=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 16, 24, 28, 32, 75, 96])
def test_resizing_is_jaxs_antialiased_linear_one(size: int) -> None:
    """In double precision there: its float32 weights are off by up to 2e-6."""
    x = np.random.default_rng(size).integers(0, 256, (3, 32, 28, 2)).astype(np.uint8)
    ours = resize(x, sized(size))
    with jax.enable_x64(True):
        wanted = jax.image.resize(jnp.asarray(x, jnp.float64), (3, size, size, 2), "linear", antialias=True)
    assert (ours.dtype, ours.shape) == (np.float32, (3, size, size, 2))
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    np.testing.assert_allclose(jax.jit(lambda x: resize(x, sized(size), jnp))(x), ours, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_resized_is_the_same_in_training_and_in_export(mode: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 5, 3)).astype(np.uint8)
    ours = normalise_array(x, sized(7, mode), INFO)
    assert ours.shape == (5, *input_shape(sized(7), INFO)) == (5, 7, 7, 3)
    theirs = jax.jit(lambda x: normalise(x, sized(7, mode), INFO, jnp))(x.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_without_a_size_pixels_are_left_alone() -> None:
    x = np.zeros(SHAPE, np.uint8)
    assert resize(x, sized(None)) is x
    assert input_shape(sized(None), INFO) == INFO.image_shape
    square = np.zeros((2, 9, 9, 3), np.uint8)
    assert resize(square, sized(9)) is square


@pytest.mark.parametrize(("before", "after"), [(28, 1), (28, 16), (5, 5), (5, 13), (1, 3)])
def test_rows_of_interpolation_are_weights(before: int, after: int) -> None:
    matrix = interpolation(before, after)
    assert matrix.shape == (after, before)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)  # left and right alike
    assert (matrix.sum(0) > 0).all() or after > before


@pytest.mark.parametrize("size", [0, -3, 1025, 16.5])
def test_an_impossible_size_is_refused(size: float) -> None:
    with pytest.raises(msgspec.ValidationError, match="size"):
        msgspec.convert({"name": "mnist_sample", "size": size}, Dataset)


def test_a_size_is_part_of_the_id_and_the_signature_and_none_is_as_ever() -> None:
    plain, small = (TrialConfig(dataset=sized(size), model={"name": "simplenet_v1"}) for size in (None, 16))
    assert canonical(plain) == b'{"dataset":{"name":"mnist_sample"},"model":{"name":"simplenet_v1"}}'
    assert canonical(small) == b'{"dataset":{"name":"mnist_sample","size":16},"model":{"name":"simplenet_v1"}}'
    assert signature(plain) != signature(small)
