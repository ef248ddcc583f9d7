"""What a network sees of an image. One definition for training (JAX) and for export and checks (NumPy)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flaxcomp.sweep.spec import Dataset

if TYPE_CHECKING:
    from flaxcomp.data.catalog import DatasetInfo

_SMALLEST_DEVIATION = 1e-3  # of an image in [0, 1]; a uniform image is not blown up


def normalise(images: Any, spec: Dataset, info: "DatasetInfo", xp: Any = np) -> Any:
    """Return images as a network takes them.

    Args:
        images: uint8 or float in [0, 255], [n, h, w, c].
        spec: `normalize` says how: `unit` x / 255; `channel` (x / 255 - mean) / deviation with the training set's figures;
            `image` zero mean and unit norm per image, as the MobileNet study does.
        info: gives the training set's mean and deviation per channel.
        xp: `numpy` or `jax.numpy`.

    Returns:
        float32 [n, h, w, c].
    """
    x = images.astype(xp.float32) * np.float32(1 / 255)
    if spec.normalize == "channel":
        return (x - np.asarray(info.mean, np.float32)) / np.asarray(info.std, np.float32)
    if spec.normalize == "image":
        mean = x.mean((1, 2, 3), keepdims=True)
        deviation = xp.sqrt(((x - mean) ** 2).mean((1, 2, 3), keepdims=True))
        return (x - mean) / xp.maximum(deviation, np.float32(_SMALLEST_DEVIATION))
    return x


def normalise_array(images: npt.NDArray[np.uint8], spec: Dataset, info: "DatasetInfo") -> npt.NDArray[np.float32]:
    """`normalise` for NumPy arrays, typed."""
    result: npt.NDArray[np.float32] = normalise(images, spec, info)
    return result
