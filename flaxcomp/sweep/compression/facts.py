"""What a method's options are checked against before anything is trained."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Attributes:
    labels: the data set's classes.
    model: name and options of the network that the trial trains first.
    training: how many images are trained on.
    """

    labels: tuple[str, ...]
    model: dict[str, Any]
    training: int
