"""The block `subset`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Subset(Retraining, frozen=True):
    """See `flaxcomp.compress.subset`."""


def effective(block: Subset) -> Subset | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block


def check(block: Subset, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
