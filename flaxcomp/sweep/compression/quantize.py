"""The block `quantize`."""

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Quantize(Retraining, frozen=True):
    """See `flaxcomp.compress.quantize`."""


def effective(block: Quantize) -> Quantize | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    return block


def check(block: Quantize, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
