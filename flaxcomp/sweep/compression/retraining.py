"""What follows once a method has found a smaller network."""

from typing import Literal

from flaxcomp.sweep.kinds import Positive, PositiveInt, Spec


class Retraining(Spec, frozen=True):
    """The training of the network that was found: as the trial's own sections say, but for what is given here."""

    then: Literal["scratch", "fine_tune"] = "scratch"  # from random weights, or from those that are left
    epochs: PositiveInt | None = None  # None: as long as `train`; given, `train.phases` does not apply
    learning_rate: Positive | None = None  # None: as in `train`
