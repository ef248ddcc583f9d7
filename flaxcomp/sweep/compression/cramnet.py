"""The block `cramnet`: a network is made smaller layer by layer, taught by its old self (Hoffman 2018)."""

from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from flaxcomp.errors import UserError
from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.compression.retraining import Retraining
from flaxcomp.sweep.kinds import Fraction, Positive, PositiveInt, Spec, Unit

Replacement = Literal["residual", "depthwise_separable"]

# What is recorded of a trial; where nothing is solved, the first two.
FIGURES = ("cramnet_sub_problems", "cramnet_ended", "cramnet_steps", "cramnet_source_val_accuracy", "cramnet_val_accuracy")


class SubProblems(Spec, frozen=True):
    """How each sub-problem is trained: by RMSProp at a constant rate, on images as they are stored."""

    epochs: PositiveInt = 5
    steps: PositiveInt | None = None  # instead of `epochs`
    batch_size: PositiveInt = 128
    learning_rate: Positive = 1e-3
    decay: Fraction = 0.9  # RMSProp's, of the mean square


class Cramnet(Retraining, frozen=True):
    """See `flaxcomp.compress.cramnet`."""

    then: Literal["scratch", "fine_tune"] = "fine_tune"
    widths: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] | None = None  # of the smaller network, as `model.widths`
    ratio: Fraction | None = None  # instead: the share of every width that goes
    replace: dict[str, Replacement] = {}  # by the name of a layer, what stands in its place
    direction: Literal["output_first", "input_first"] = "output_first"
    initialisation: Literal["random", "largest"] = "random"  # of a re-sized layer: anew, or its channels of largest L1 norm
    sub_problems: SubProblems = SubProblems()
    target_params: PositiveInt | None = None  # solve no more sub-problems once the network is as small
    max_accuracy_loss: Unit | None = None  # on the held-out images: a sub-problem that loses more is taken back and is the last
    dropout: Fraction | None = None  # of the smaller network; None: the model's own

    def __post_init__(self) -> None:
        if self.widths is not None and self.ratio is not None:
            raise ValueError("give `widths` or `ratio`, not both")

    @property
    def solves(self) -> bool:
        """Whether sub-problems are trained; else their weights would serve nothing, and only their widths are taken."""
        return self.then == "fine_tune" or self.max_accuracy_loss is not None


def effective(block: Cramnet) -> Cramnet | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    if block.widths is None and not block.ratio and not block.replace:
        return None
    if block.sub_problems.steps is not None:
        block = replace(block, sub_problems=replace(block.sub_problems, epochs=SubProblems().epochs))
    if not block.solves:
        block = replace(block, sub_problems=SubProblems(), initialisation="random")
        if block.target_params is None:
            block = replace(block, direction="output_first")
    return block


def check(block: Cramnet, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
    name = facts.model.get("name")
    widths = facts.model.get("widths")
    if block.widths is not None and widths is not None and len(block.widths) != len(widths):
        raise UserError(f"cramnet.widths must be as many as the {len(widths)} widths of {name}, got {len(block.widths)}")
    size = block.sub_problems.batch_size
    if block.solves and effective(block) is not None and size > facts.images:
        raise UserError(f"cramnet.sub_problems.batch_size must be at most {facts.images}, the images that `train_limit` and "
                        f"the validation split leave to train on, got {size}")  # fmt: skip
