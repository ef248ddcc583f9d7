"""What a network sees of an image. One definition for training (JAX) and for export and checks (NumPy)."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flaxcomp.sweep.spec import Dataset

if TYPE_CHECKING:
    from flaxcomp.data.catalog import DatasetInfo

_SMALLEST_DEVIATION = 1e-3  # of an image in [0, 1]; a uniform image is not blown up
_BATCH = 500


def input_shape(spec: Dataset, info: "DatasetInfo") -> tuple[int, int, int]:
    """Height, width and channels of what a network sees: the data set's images, resized if `spec.size` says so."""
    height, width, channels = info.image_shape
    return (spec.size or height, spec.size or width, channels)


def resize(images: Any, spec: Dataset, xp: Any = np) -> Any:
    """Return images at `spec.size`, or just as they are without one.

    Linear interpolation between pixel centres; where images shrink, the triangle is as much wider as they get smaller, so
    that no pixel is passed over. What lies outside the image has no weight. (`jax.image.resize` with `antialias`.)

    Args:
        images: uint8 or float, [n, h, w, c].

    Returns:
        [n, size, size, c], float32 where resized.
    """
    _, height, width, _ = images.shape
    if spec.size is None or (height, width) == (spec.size, spec.size):
        return images
    x = images.astype(xp.float32)
    options = {"optimize": True} if xp is np else {"precision": "highest"}  # by BLAS; not in a GPU's 10-bit fractions
    for product, before in (("oh,nhwc->nowc", height), ("ow,nhwc->nhoc", width)):
        x = xp.einsum(product, interpolation(before, spec.size), x, **options)
    return x


@functools.cache
def interpolation(before: int, after: int) -> npt.NDArray[np.float32]:
    """The matrix [after, before] that resizes a row of pixels; its rows sum to 1."""
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(before)) / max(scale, 1.0)
    weights = np.maximum(1 - distance, 0)
    matrix: npt.NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return matrix


def normalise(images: Any, spec: Dataset, info: "DatasetInfo", xp: Any = np) -> Any:
    """Return images as a network takes them: resized, then normalised.

    Args:
        images: uint8 or float in [0, 255], [n, h, w, c].
        spec: `normalize` says how: `unit` x / 255; `channel` (x / 255 - mean) / deviation with the training set's figures;
            `image` zero mean and unit norm per image, as the MobileNet study does.
        info: gives the training set's mean and deviation per channel.
        xp: `numpy` or `jax.numpy`.

    Returns:
        float32 [n, *input_shape(spec, info)].
    """
    x = resize(images, spec, xp).astype(xp.float32) * np.float32(1 / 255)
    if spec.normalize == "channel":
        return (x - np.asarray(info.mean, np.float32)) / np.asarray(info.std, np.float32)
    if spec.normalize == "image":
        mean = x.mean((1, 2, 3), keepdims=True)
        deviation = xp.sqrt(((x - mean) ** 2).mean((1, 2, 3), keepdims=True))
        return (x - mean) / xp.maximum(deviation, np.float32(_SMALLEST_DEVIATION))
    return x


def normalise_array(images: npt.NDArray[np.uint8], spec: Dataset, info: "DatasetInfo") -> npt.NDArray[np.float32]:
    """`normalise` for NumPy arrays, typed."""
    if spec.size is None:
        result: npt.NDArray[np.float32] = normalise(images, spec, info)
        return result
    resized = np.empty((len(images), *input_shape(spec, info)), np.float32)
    for i in range(0, len(images), _BATCH):  # intermediate results of all images at once would be many times their size
        resized[i : i + _BATCH] = normalise(images[i : i + _BATCH], spec, info)
    return resized
