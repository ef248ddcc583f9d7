"""The block `netadapt`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Netadapt(Retraining, frozen=True):
    """See `flaxcomp.compress.netadapt`."""


def effective(block: Netadapt) -> Netadapt | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block


def check(block: Netadapt, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
