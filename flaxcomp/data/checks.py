"""Whether decoded arrays are the named set that they claim to be; what is known of a set of the user's own."""

import numpy as np

from flaxcomp.data.catalog import NAMED, DatasetInfo
from flaxcomp.data.splits import Decoded, channel_statistics, fingerprint_of
from flaxcomp.errors import UserError

_STATISTICS_TOLERANCE = 1e-4  # of published means and deviations, which are rounded


def check_named(name: str, decoded: Decoded) -> None:
    """Hold the arrays of a named set to its sizes and its SHA-256, or, where that is not known, to its published statistics.

    Raises:
        UserError: they are another set, another version of it, in another order, or damaged.
    """
    info = NAMED.get(name)
    if info is None:
        return
    splits = decoded.splits
    found = (len(splits.train_images), len(splits.test_images), splits.image_shape)
    expected = (info.train_size, info.test_size, info.image_shape)
    if found != expected:
        raise UserError(
            f"{name} has {expected[0]} training and {expected[1]} test images of shape {expected[2]}; these are "
            f"{found[0]}, {found[1]} and {found[2]}. Incomplete files? Give another set a name of its own."
        )
    if not info.fingerprint:
        _check_statistics(info, decoded)
    elif (digest := fingerprint_of(splits)) != info.fingerprint:
        raise UserError(
            f"{name}'s decoded arrays must have the SHA-256 {info.fingerprint}; these have {digest}: damaged, changed or in "
            f"another order. Give another set a name of its own."
        )


def own_info(name: str, decoded: Decoded, fingerprint: str) -> DatasetInfo:
    """What is known of a set of the user's own."""
    splits = decoded.splits
    highest = int(max(splits.train_labels.max(), splits.test_labels.max()))
    labels = decoded.labels or tuple(str(label) for label in range(highest + 1))
    if highest >= len(labels):
        raise UserError(f"{name} names {len(labels)} classes, so labels go to {len(labels) - 1}; found {highest}.")
    mean, std = channel_statistics(splits.train_images)
    return DatasetInfo(
        name=name,
        num_classes=len(labels),
        image_shape=splits.image_shape,
        labels=labels,
        train_size=len(splits.train_images),
        test_size=len(splits.test_images),
        mean=mean,
        std=std,
        fingerprint=fingerprint,
        licence="not known to flaxcomp",
    )


def _check_statistics(info: DatasetInfo, decoded: Decoded) -> None:
    splits = decoded.splits
    for part, labels in (("training", splits.train_labels), ("test", splits.test_labels)):
        counts = np.bincount(labels, minlength=info.num_classes)
        if len(counts) != info.num_classes or len(set(counts.tolist())) != 1:
            raise UserError(f"{info.name} has as many {part} images of each of its {info.num_classes} classes; these have not.")
    mean, std = channel_statistics(splits.train_images)
    if not np.allclose(mean + std, info.mean + info.std, rtol=0, atol=_STATISTICS_TOLERANCE):
        raise UserError(
            f"{info.name}'s training images have channel means {info.mean} and deviations {info.std}; "
            f"these have {mean} and {std}."
        )
