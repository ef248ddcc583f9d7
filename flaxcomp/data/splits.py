"""The four decoded arrays of a data set, their form, and the fingerprint over them."""

import hashlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaxcomp.errors import UserError

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Splits:
    """Training and test images with their labels, in the order of the original files.

    Images are uint8 [N, H, W, C], labels int32 [N].
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train_images.shape[1:]
        return int(height), int(width), int(channels)

    @property
    def size_bytes(self) -> int:
        return sum(int(array.nbytes) for array in self.named().values())

    def named(self) -> dict[str, NDArray[Any]]:
        """The four arrays by name, always in the same order."""
        return {field.name: getattr(self, field.name) for field in fields(Splits)}


@dataclass(frozen=True)
class Decoded:
    """What a source gave: the arrays and, where it knows them, the names of the classes."""

    splits: Splits
    labels: tuple[str, ...] | None = None


def make_splits(train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, *, origin: str) -> Splits:
    """Bring arrays of the usual forms to the one form of `Splits`.

    Args:
        train_images, test_images: uint8 [N, H, W] or [N, H, W, C].
        train_labels, test_labels: whole numbers from 0, [N] or [N, 1].
        origin: where they come from, for the error.

    Raises:
        UserError: another type or shape, no images, not one label for each image, or a negative label.
    """
    splits = Splits(
        _images(train_images, f"{origin}: training images"),
        _labels(train_labels, f"{origin}: training labels"),
        _images(test_images, f"{origin}: test images"),
        _labels(test_labels, f"{origin}: test labels"),
    )
    for part, images, labels in (
        ("training", splits.train_images, splits.train_labels),
        ("test", splits.test_images, splits.test_labels),
    ):
        if len(images) != len(labels) or not len(images):
            raise UserError(
                f"{origin}: each {part} image needs one label; found {len(images)} images and {len(labels)} labels."
            )
    if splits.train_images.shape[1:] != splits.test_images.shape[1:]:
        raise UserError(
            f"{origin}: training and test images must have one shape; found {splits.train_images.shape[1:]} "
            f"and {splits.test_images.shape[1:]}."
        )
    return splits


def fingerprint_of(splits: Splits) -> str:
    """SHA-256 (64 hex digits) over name, type, shape and bytes (C order, little endian) of the four arrays."""
    digest = hashlib.sha256()
    for name, array in splits.named().items():
        shape = "x".join(str(size) for size in array.shape)
        digest.update(f"{name} {array.dtype.name} {shape}\n".encode())
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little_endian).data)
    return digest.hexdigest()


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of x/255 per channel over all images and pixels; exact integer sums.

    Args:
        images: uint8 [N, H, W, C].
    """
    mean, std = [], []
    values = np.arange(256)
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        total, first, second = int(counts.sum()), int(counts @ values), int(counts @ values**2)
        mean.append(first / total / 255)
        std.append((total * second - first**2) ** 0.5 / total / 255)
    return tuple(mean), tuple(std)


def _images(array: Any, what: str) -> Images:
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(f"{what} must be uint8 of shape [N, H, W] or [N, H, W, C]; found {array.dtype} of shape {array.shape}.")
    return np.ascontiguousarray(array[..., None] if array.ndim == 3 else array)


def _labels(array: Any, what: str) -> Labels:
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{what} must be whole numbers of shape [N] or [N, 1]; found {array.dtype} of shape {array.shape}.")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= 2**31):
        raise UserError(f"{what} must be from 0 on; found {int(array.min())} to {int(array.max())}.")
    return np.ascontiguousarray(array, dtype=np.int32)
