"""The block `subset`: Distill-Net, a trained network reduced to what some of its classes need."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from flaxcomp.errors import UserError, suggest
from flaxcomp.sweep.compression.facts import Facts
from flaxcomp.sweep.kinds import Fraction, NonNegativeInt, PositiveInt, Spec, Unit

MOST_STEPS = 32

# What is recorded of a trial. Accuracies are on the kept classes, after_whole without the bitmaps, where there are any; `val`
# chose the thresholds, `test` chose nothing.
FIGURES = (
    *("subset_kept_classes", "subset_removed_classes", "subset_val_images", "subset_test_images"),
    *("subset_val_accuracy_before", "subset_val_accuracy_after", "subset_val_accuracy_after_whole"),
    *("subset_test_accuracy_before", "subset_test_accuracy_after", "subset_test_accuracy_after_whole"),
    *("subset_parameters_removed", "subset_parameters_removed_share", "subset_removed_channels", "subset_removed_positions"),
    *("subset_held_channels", "subset_macs_skipped", "subset_macs_skipped_whole", "subset_macs_skipped_partial"),
)


class Subset(Spec, frozen=True):
    """See `flaxcomp.compress.subset`. Nothing is trained."""

    classes: Annotated[tuple[str | NonNegativeInt, ...], Meta(min_length=1)] | None = None  # to keep: names or numbers
    remove_fraction: Fraction | None = None  # instead: the share of the classes that goes, drawn at random
    class_seed: NonNegativeInt = 0  # of that draw
    max_accuracy_loss: Unit = 0.01  # on the held-out images of the kept classes, as a share: 0.01 is one point
    partial: bool = True  # whether positions go too, as bitmaps that the network carries; else whole channels only
    outputs: Literal["all", "kept"] = "all"  # among which outputs an image's class is sought
    order: Literal["input_first", "output_first"] = "input_first"  # of the layers' searches
    spend: Literal["evenly", "freely"] = "evenly"  # the loss: each layer its share and what is left over, or all that is left
    steps: Annotated[int, Meta(ge=1, le=MOST_STEPS)] = 12  # of each layer's binary search, at most
    images_per_class: PositiveInt | None = None  # for the heat maps; None: all that the network was trained on

    def __post_init__(self) -> None:
        if (self.classes is None) == (self.remove_fraction is None):
            given = "none" if self.classes is None else "both"
            raise ValueError(f"give either `classes` to keep or `remove_fraction`, got {given}")


def effective(block: Subset) -> Subset | None:
    """The block with what has no effect at its default; None where it changes nothing."""
    if block.remove_fraction == 0:
        return None
    if block.classes is None:
        return block
    ordered = sorted(block.classes, key=lambda label: (isinstance(label, str), label))
    return replace(block, classes=tuple(ordered), class_seed=0)


def check(block: Subset, facts: Facts) -> None:
    """Refuse what the data set or the model makes impossible.

    Raises:
        UserError: with the key.
    """
    if block.classes is not None:
        numbers(block.classes, facts.labels)
    elif block.remove_fraction:
        total, gone = len(facts.labels), removed_count(block.remove_fraction, len(facts.labels))
        if not 0 < gone < total:
            raise UserError(f"subset.remove_fraction must remove one class at least and leave one of {total}, got "
                            f"{block.remove_fraction:g}, which removes {gone}")  # fmt: skip


def numbers(classes: Sequence[str | int], labels: Sequence[str]) -> tuple[int, ...]:
    """The numbers of classes given by name or number, ascending.

    Raises:
        UserError: one does not exist, or comes twice.
    """
    found: list[int] = []
    for label in classes:
        if isinstance(label, str) and label not in labels:
            raise UserError(f"subset.classes must be names or numbers of the data set's classes, got {label!r}."
                            f"{suggest(label, labels)}")  # fmt: skip
        if isinstance(label, int) and label >= len(labels):
            raise UserError(f"subset.classes must be names, or numbers from 0 to {len(labels) - 1}, got {label}")
        number = label if isinstance(label, int) else labels.index(label)
        if number in found:
            raise UserError(f"subset.classes must be different classes, got {labels[number]!r} twice")
        found.append(number)
    return tuple(sorted(found))


def removed_count(fraction: float, classes: int) -> int:
    """How many classes a share of them is, to the nearest, half a class counting as one."""
    return int(fraction * classes + 0.5 + 1e-9)
