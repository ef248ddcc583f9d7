"""The base of every part of a sweep file, and the numbers in it."""

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_INT = 2**31 - 1  # what every backend counts with

PositiveInt = Annotated[int, Meta(ge=1, le=MAX_INT)]
NonNegativeInt = Annotated[int, Meta(ge=0, le=MAX_INT)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Unit = Annotated[float, Meta(ge=0, le=1)]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every part of a sweep file."""
