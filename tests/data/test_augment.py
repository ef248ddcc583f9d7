"""Random changes to images: their ranges and shares, and that the key alone decides them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcomp.data.augment import augment, variant, variants_of
from flaxcomp.sweep.spec import Augment

N = 400
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    """[n, 6, 8, 2]: every pixel another value, every image the same."""
    one = np.arange(6 * 8 * 2, dtype=np.float32).reshape(6, 8, 2) + 50
    return jnp.asarray(np.broadcast_to(one, (N, 6, 8, 2)))


def changed(images: jax.Array, spec: Augment, key: jax.Array = KEY) -> np.ndarray[Any, Any]:
    out = augment(images, spec, key)
    assert (out.shape, out.dtype) == (images.shape, jnp.float32)
    return np.asarray(out)


def test_nothing_is_changed_by_default(images: jax.Array) -> None:
    np.testing.assert_array_equal(changed(images, Augment()), images)
    assert not Augment().is_random


@pytest.mark.parametrize("spec", [Augment(pad=1), Augment(flip=True), Augment(brightness=5), Augment(contrast=(0.5, 1.5))])
def test_the_key_decides_and_images_differ(images: jax.Array, spec: Augment) -> None:
    assert spec.is_random
    first = changed(images, spec)
    np.testing.assert_array_equal(first, changed(images, spec))
    assert (first != changed(images, spec, jax.random.key(4))).any()
    assert len({image.tobytes() for image in first}) > 1, "all images of a batch are changed alike"


def test_flip_mirrors_half_of_the_images_left_to_right(images: jax.Array) -> None:
    original, out = np.asarray(images[0]), changed(images, Augment(flip=True))
    mirrored = np.asarray([np.array_equal(image, original[:, ::-1]) for image in out])
    assert (mirrored | np.asarray([np.array_equal(image, original) for image in out])).all()
    assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_are_windows_of_the_padded_image_each_as_likely(images: jax.Array, mode: Any) -> None:
    p, original = 2, np.asarray(images[0])
    padded = np.pad(original, ((p, p), (p, p), (0, 0)), mode=mode)
    windows = {padded[i : i + 6, j : j + 8].tobytes(): (i, j) for i in range(5) for j in range(5)}
    corners = [windows[image.tobytes()] for image in changed(images, Augment(pad=p, pad_mode=mode))]
    assert len(set(corners)) == 25
    share = np.asarray(corners).mean(0) / (2 * p)
    np.testing.assert_allclose(share, 0.5, atol=0.08)  # not drawn to an edge: 2 * pad is among the corners


def test_brightness_moves_a_whole_image_within_its_range(images: jax.Array) -> None:
    moved = changed(images, Augment(brightness=63)) - np.asarray(images)
    np.testing.assert_allclose(np.ptp(moved, (1, 2, 3)), 0, atol=1e-4)
    by = moved[:, 0, 0, 0]
    assert -63 <= by.min() < -50
    assert 50 < by.max() <= 63
    assert abs(by.mean()) < 10


def test_contrast_scales_each_channel_around_its_mean(images: jax.Array) -> None:
    x, out = np.asarray(images), changed(images, Augment(contrast=(0.2, 1.8)))
    np.testing.assert_allclose(out.mean((1, 2)), x.mean((1, 2)), rtol=1e-5)
    factors = out.std((1, 2)) / x.std((1, 2))
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-4)
    assert 0.2 <= factors.min() < 0.3
    assert 1.7 < factors.max() <= 1.8001
    assert abs(factors.mean() - 1) < 0.1


def test_all_together_leave_the_range_of_pixels_as_the_study_does(images: jax.Array) -> None:
    spec = Augment(pad=2, flip=True, brightness=63, contrast=(0.2, 1.8))
    out = changed(images * 1.7, spec)
    assert out.max() > 255
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("spec", "ways"),
    [
        (Augment(pad=1, flip=True), 18),
        (Augment(pad=2), 25),
        (Augment(pad=1, pad_mode="constant"), 9),
        (Augment(flip=True), 2),
        (Augment(), 1),
        (Augment(pad=4, flip=True), 162),
    ],
)
def test_every_change_is_one_of_the_variants(images: jax.Array, spec: Augment, ways: int) -> None:
    assert spec.variants == ways
    number = np.asarray(variants_of(N, spec, KEY))
    assert (number.dtype, number.min() >= 0, number.max() < ways) == (np.int32, True, True)
    out = changed(images, spec)
    for way in set(number.tolist()):
        expected = np.asarray(variant(images, spec, jnp.int32(way)))
        np.testing.assert_array_equal(out[number == way], expected[number == way])
    if ways <= 25:
        assert set(number.tolist()) == set(range(ways)), "400 images see every way"


def test_brightness_and_contrast_have_endless_variants() -> None:
    for spec in (Augment(brightness=1), Augment(pad=1, contrast=(0.5, 2))):
        assert spec.variants is None
        with pytest.raises(ValueError, match="endless"):
            variants_of(3, spec, KEY)
