"""The block `quantize`: training that knows of int8 (Krishnamoorthi 2018, 3.2; Jacob et al. 2018, 3)."""

from typing import Literal

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining


class Quantize(Retraining, frozen=True):
    """The trained network is trained further with weights and activations rounded as in its int8 file.

    See `flaxcomp.compress.quantize`.
    """

    then: Literal["scratch", "fine_tune"] = "fine_tune"
    per_channel: bool = True  # weights have a scale per output channel; else one per tensor


def effective(block: Quantize) -> Quantize | None:
    """The block with what has no effect at its default; it always changes something."""
    return block


def check(block: Quantize, facts: Facts) -> None:
    """There is nothing that the data set or the model makes impossible: what int8 lacks is said of the exported file."""
