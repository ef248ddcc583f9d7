"""The block `morphnet`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Morphnet(Retraining, frozen=True):
    """See `flaxcomp.compress.morphnet`."""


def effective(block: Morphnet) -> Morphnet | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block


def check(block: Morphnet, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
