"""The block `prune`: channels that matter least go."""

from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from flaxcomp.errors import suggest
from flaxcomp.sweep.compression.criteria import criteria
from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining
from flaxcomp.sweep.kinds import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt

Patterns = tuple[str, ...]

# What is recorded of a trial, of what `of` says, and in channels.
FIGURES = ("prune_ratio", "prune_cost_before", "prune_cost_after", "prune_threshold", "prune_channels_before",
           "prune_channels_after")  # fmt: skip


class Prune(Retraining, frozen=True):
    """See `flaxcomp.compress.prune.method`; groups and layers are what `flaxcomp model NAME --groups` shows."""

    ratio: Fraction = 0.5  # how much goes
    of: Literal["channels", "params", "macs", "latency"] = "channels"  # of what of the whole network
    criterion: Annotated[str, Meta(extra_json_schema={"enum": list(criteria())})] = "fisher"  # file of compress/prune/criteria
    scope: Literal["global", "layer"] = "global"  # one order over all groups, or the same share of each
    normalize: Literal["none", "mean", "max", "l2"] | None = (
        None  # a group's scores are divided by it; None: the criterion's own
    )
    per_cost: Literal["none", "params", "macs", "latency"] = "none"  # scores are divided by what a channel saves
    costs: str | None = None  # path of a table of measured layers, for latency
    schedule: Literal["one_shot", "iterative"] = "one_shot"
    steps: PositiveInt = 5  # iterative: in how many equal steps
    tune_epochs: NonNegativeInt | None = None  # iterative: training between two steps, one epoch unless said here
    tune_steps: NonNegativeInt | None = None  # iterative: or in steps of training
    tune_learning_rate: Positive | None = None  # iterative, penalty: None is a tenth of the rate in `train`
    retrain_at: tuple[PositiveInt, ...] = ()  # iterative: after these steps a whole training from random weights
    images: PositiveInt = 1000  # activation, taylor, fisher: training images to score on
    seed: NonNegativeInt = 0  # of `random`, and of which images those are
    penalty: NonNegative = 0.0  # network slimming: train with so much times the sum of |scale| of all batch norms, then score
    penalty_epochs: PositiveInt = 1  # for how long
    ignore: Patterns = ()  # patterns of groups or layers whose channels all stay
    tie: tuple[tuple[str, str], ...] = ()  # pairs of axes, as stem/kernel.3, whose channels go together
    round_to: dict[str, PositiveInt] = {}  # by pattern: a multiple of which so many channels stay
    equal_count: tuple[Patterns, ...] = ()  # patterns of groups that keep equally many
    spare_strided: bool = False  # layers that halve height and width keep their channels

    def __post_init__(self) -> None:
        if self.criterion not in criteria():
            raise ValueError(f"no criterion is called {self.criterion!r}.{suggest(self.criterion, criteria())}")
        if "latency" in (self.of, self.per_cost) and self.costs is None:
            raise ValueError("latency is looked up in a table of measured layers: give its path as `costs`")
        if self.tune_epochs is not None and self.tune_steps is not None:
            raise ValueError("the training between two steps lasts `tune_epochs` or `tune_steps`: give one of them")
        if list(self.retrain_at) != sorted(set(self.retrain_at)):
            raise ValueError(f"retrain_at must be step numbers that grow, got {list(self.retrain_at)}")
        if self.schedule == "iterative" and self.retrain_at and self.retrain_at[-1] >= self.steps:
            raise ValueError(f"retrain_at must be below the {self.steps} steps: what follows the last one `then` says, "
                             f"got {self.retrain_at[-1]}")  # fmt: skip


def effective(block: Prune) -> Prune | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    if not block.ratio:
        return None
    default = Prune()
    return replace(block, **{name: getattr(default, name) for name in _idle(block)})


def _idle(block: Prune) -> set[str]:
    """The names of the options that have no effect."""
    criterion, idle = criteria()[block.criterion], set[str]()
    if not criterion.sees_images:
        idle |= {"images"} if criterion.needs == "nothing" else {"images", "seed"}
    if criterion.by_layer:
        idle.add("scope")
    if criterion.by_layer or block.scope == "layer":
        idle |= {"normalize", "per_cost"}
    elif block.normalize == criterion.normalize:
        idle.add("normalize")
    is_iterative = block.schedule == "iterative" and block.steps > 1
    if not is_iterative:
        idle |= {"schedule", "steps", "tune_epochs", "tune_steps", "retrain_at"}
    elif block.tune_epochs == 1:
        idle.add("tune_epochs")
    if not block.penalty:
        idle.add("penalty_epochs")
    if not block.penalty and not (is_iterative and 0 not in (block.tune_epochs, block.tune_steps)):
        idle.add("tune_learning_rate")
    if block.of != "latency" and (block.per_cost != "latency" or "per_cost" in idle):
        idle.add("costs")
    return idle


def check(block: Prune, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible: neither does, for the network alone can tell.

    Raises:
        UserError: never.
    """
