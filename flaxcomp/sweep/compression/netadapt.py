"""The block `netadapt`: step by step the layer is narrowed that loses the least accuracy for what it saves."""

from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining
from flaxcomp.sweep.kinds import Fraction, NonNegativeInt, Positive, PositiveInt

# What is recorded of a trial.
FIGURES = ("netadapt_source_cost", "netadapt_cost", "netadapt_steps", "netadapt_candidates", "netadapt_val_accuracy")


class Netadapt(Retraining, frozen=True):
    """See `flaxcomp.compress.netadapt.method`."""

    ratio: Fraction = 0.5  # how much goes
    of: Literal["params", "macs", "latency"] = "macs"  # of what of the whole network
    costs: str | None = None  # path of a table of measured layers, for latency
    reduction: Annotated[float, Meta(gt=0, lt=1)] = 0.05  # share of the cost that the first step saves
    decay: Annotated[float, Meta(gt=0, le=1)] = 0.96  # each step is to save so much of what the last one was to save
    tune_steps: NonNegativeInt = 100  # of training for every candidate of a step
    tune_learning_rate: Positive | None = None  # None: a tenth of the rate in `train`
    criterion: Literal["l2", "fisher"] = "l2"  # which channels of a layer go
    images: PositiveInt = 1000  # fisher: training images to score on
    allow_small_prunings: bool = False  # layers that cannot save what a step is to save are tried with what they can
    sampled_layers: PositiveInt | None = None  # so many layers are tried in a step, drawn anew for each; None: all
    seed: NonNegativeInt = 0  # of that draw, and of which images those are

    def __post_init__(self) -> None:
        if self.of == "latency" and self.costs is None:
            raise ValueError("latency is looked up in a table of measured layers: give its path as `costs`")
        if self.decay < 1 and self.reduction <= self.ratio * (1 - self.decay) * (1 + 1e-9):
            most = self.reduction / (1 - self.decay)
            raise ValueError(f"reductions that begin with {self.reduction:g} and decay by {self.decay:g} add up to less than "
                             f"{most:.3g}, but ratio is {self.ratio:g}: give a larger `reduction` or `decay`")  # fmt: skip

    @property
    def most_steps(self) -> int:
        """How many steps reach the ratio at the latest, unless no layer can save what one of them is to save."""
        gone, reduction, steps = 0.0, self.reduction, 0
        while gone < self.ratio * (1 - 1e-9):
            gone, reduction, steps = gone + reduction, reduction * self.decay, steps + 1
        return steps


def effective(block: Netadapt) -> Netadapt | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    if not block.ratio:
        return None
    default = Netadapt()
    idle = {"costs": block.of != "latency", "tune_learning_rate": not block.tune_steps, "images": block.criterion == "l2",
            "seed": block.criterion == "l2" and block.sampled_layers is None}  # fmt: skip
    return replace(block, **{name: getattr(default, name) for name, is_idle in idle.items() if is_idle})


def check(block: Netadapt, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible: all of that shows in the network only."""
