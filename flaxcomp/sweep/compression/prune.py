"""The block `prune`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining
from flaxcomp.sweep.kinds import Fraction


class Prune(Retraining, frozen=True):
    """See `flaxcomp.compress.prune`."""

    ratio: Fraction = 0.5  # how much goes


def effective(block: Prune) -> Prune | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block if block.ratio else None


def check(block: Prune, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
