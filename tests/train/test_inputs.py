"""What a network sees of an image is the same in training and in export."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from flaxcomp.data import catalog
from flaxcomp.sweep.spec import Dataset
from flaxcomp.train.inputs import normalise, normalise_array

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
