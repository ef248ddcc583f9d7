"""The block `cramnet`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Cramnet(Retraining, frozen=True):
    """See `flaxcomp.compress.cramnet`."""


def effective(block: Cramnet) -> Cramnet | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block


def check(block: Cramnet, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
