"""The base of every architecture's configuration. Needs no JAX, so that a sweep file can be checked without it."""

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=2**20)]  # of channels, units, blocks
Share = Annotated[float, Meta(ge=0, lt=1)]  # of what dropout drops
Positive = Annotated[float, Meta(gt=0)]
Shape = tuple[Count, Count, Count]  # height, width, channels
Activation = str  # relu, relu6, swish, hard_swish, elu, leaky_relu, tanh, sigmoid


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an architecture: frozen, checked once; field names are the keys of `model:` in a sweep file."""


class Classifier(ModelConfig, frozen=True, kw_only=True):
    """Options that every architecture has. In a sweep the data set's classes and image shape are used unless others are given.

    The defaults in an architecture's NAMES are those of its publication.
    """

    num_classes: Count
    input_shape: Shape


def scaled(channels: int, multiplier: float, divisor: int = 8) -> int:
    """Channels times a width multiplier, rounded to a multiple of `divisor`, never more than 10 % below (MobileNet's rule)."""
    rounded = max(divisor, int(channels * multiplier + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels * multiplier else rounded
