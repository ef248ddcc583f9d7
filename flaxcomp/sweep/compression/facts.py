"""What a method's options are checked against before anything is trained."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Attributes:
    labels: the data set's classes.
    model: name and options of the network that the trial trains first.
    images: how many it trains on.
    """

    labels: tuple[str, ...]
    model: dict[str, Any]
    images: int
