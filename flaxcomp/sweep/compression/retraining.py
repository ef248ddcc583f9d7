"""What follows once a method has found a smaller network."""

from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.kinds import Positive, PositiveInt, Spec

if TYPE_CHECKING:
    from flaxcomp.sweep.spec import Train, TrialConfig


class Retraining(Spec, frozen=True):
    """The training of the network that was found: as the trial's own sections say, but for what is given here."""

    then: Literal["scratch", "fine_tune"] = "scratch"  # from random weights, or from those that are left
    epochs: PositiveInt | None = None  # None: as long as `train`; given, `train.phases` does not apply
    learning_rate: Positive | None = None  # None: as in `train`


def own_training(config: "TrialConfig") -> "Train | None":
    """How a trial's own network trains; None where a method leaves it as it is."""
    method = method_of(config)
    block = None if method is None else getattr(config, method)
    if block is None:
        return config.train
    return retrained(config.train, block) if isinstance(block, Retraining) else None


def retrained(train: "Train", block: Retraining) -> "Train":
    """How the smaller network trains: as the trial says, but for what the method's block says, and from no foreign weights."""
    train = replace(train, init_from=None)
    if block.epochs is not None:
        train = replace(train, epochs=block.epochs, phases=())
    if block.learning_rate is None:
        return train
    phases = tuple(replace(p, optimizer=replace(p.optimizer, learning_rate=block.learning_rate)) for p in train.phases)
    return replace(train, optimizer=replace(train.optimizer, learning_rate=block.learning_rate), phases=phases)
