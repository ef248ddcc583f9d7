"""The block `morphnet`: training with a penalty on what channels cost, then a width multiplier."""

from typing import Literal

from msgspec.structs import replace

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining
from flaxcomp.sweep.kinds import Fraction, NonNegative, Positive, PositiveInt

# What is recorded of a trial; the second line's are of the training with the penalty, the multiplier is of `ratio`.
FIGURES = (
    *("morphnet_source_cost", "morphnet_found_cost", "morphnet_cost", "morphnet_multiplier"),
    *("morphnet_threshold", "morphnet_val_accuracy", "morphnet_channels", "morphnet_alive", "morphnet_kept"),
)


class Morphnet(Retraining, frozen=True):
    """See `flaxcomp.compress.morphnet.method`."""

    strength: NonNegative = 1.0  # of the penalty, in units of the whole network's cost; 0: no search, the multiplier alone
    of: Literal["params", "macs", "latency"] = "macs"  # what the penalty weighs and `ratio` is a share of
    costs: str | None = None  # path of a table of measured layers, for latency
    threshold: Positive = 0.01  # channels whose largest |scale| is not above it go
    start: Literal["trained", "scratch"] = "trained"  # what the penalty trains: the trained network, or random weights
    search_epochs: PositiveInt | None = None  # of the training with the penalty; None: as many as `train`
    search_learning_rate: Positive | None = None  # None: as in `train`
    ratio: Fraction | None = None  # widths are multiplied until this share of the cost is gone, 0: none; None: they are not

    def __post_init__(self) -> None:
        if self.of == "latency" and self.costs is None:
            raise ValueError("latency is looked up in a table of measured layers: give its path as `costs`")
        if self.ratio is not None and self.then == "fine_tune":
            raise ValueError("then: fine_tune needs weights, and a width multiplier (`ratio`) leaves none; give "
                             "`then: scratch` or `ratio: null`")  # fmt: skip


def effective(block: Morphnet) -> Morphnet | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    if block.of != "latency":
        block = replace(block, costs=None)
    if block.strength:
        return block
    if not block.ratio:
        return None
    default = Morphnet()
    return replace(block, threshold=default.threshold, start=default.start, search_epochs=None, search_learning_rate=None)


def check(block: Morphnet, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible: all of that shows in the network only."""
