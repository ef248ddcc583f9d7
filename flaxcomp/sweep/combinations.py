"""What options make together: those that a choice leaves without effect, and those that no training can be made of."""

from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from flaxcomp.sweep.document import Node
from flaxcomp.sweep.spec import Dataset, Optimizer, Phase, Schedule, Train
from flaxcomp.sweep.trial import Images

Named = TypeVar("Named", Optimizer, Schedule)

# What each choice reads of the options that not all of its kind read.
OPTIMIZERS: dict[str, frozenset[str]] = {
    "adam": frozenset({"beta1", "beta2", "epsilon"}),
    "rmsprop": frozenset({"momentum", "decay", "epsilon"}),
    "sgd": frozenset({"momentum", "nesterov"}),
}
SCHEDULES: dict[str, frozenset[str]] = {
    "constant": frozenset(),
    "cosine": frozenset({"final"}),
    "multi_step": frozenset({"milestones", "factor"}),
    "exponential": frozenset({"factor", "every_epochs"}),
}


def effective_train(train: Train) -> Train:
    """The same training with what has no effect at its default, so that trials which differ in nothing else are one."""
    augment = train.augment
    if not augment.pad:
        augment = replace(augment, pad_mode=type(augment)().pad_mode)
    return replace(train, **_effective_rate(train), augment=augment,
                   phases=tuple(replace(phase, **_effective_rate(phase)) for phase in train.phases))  # fmt: skip


def check_dataset(dataset: Dataset, images: Images, node: Node) -> None:
    """Refuse more training images than there are.

    Raises:
        SweepFileError: with both numbers.
    """
    if dataset.train_limit is not None and dataset.train_limit > images.stored:
        raise node.place.at(("train_limit",)).error(
            f"dataset.train_limit must be at most {images.stored}, the training images of {dataset.name}, "
            f"got {dataset.train_limit}"
        )


def check_train(train: Train, dataset: Dataset, images: Images, node: Node) -> None:
    """Refuse a batch that the images do not fill, padding beyond the image, and steps at no epoch.

    Raises:
        SweepFileError: the first of these.
    """
    if train.batch_size > images.training:
        raise node.place.at(("batch_size",)).error(
            f"train.batch_size must be at most {images.training}, the images of {dataset.name} that `train_limit` and the "
            f"validation split leave to train on, got {train.batch_size}"
        )
    side = min(images.height, images.width)
    if train.augment.pad >= side:
        raise node.place.at(("augment", "pad")).error(
            f"train.augment.pad must be less than {side}, the shorter side of {dataset.name}'s images, got {train.augment.pad}"
        )
    for index, phase in enumerate(train.phases):
        _check_schedule(phase.schedule, f"train.phases[{index}].schedule", node, ("phases", index, "schedule"))
    if not train.phases:  # else they have replaced it
        _check_schedule(train.schedule, "train.schedule", node, ("schedule",))


def _check_schedule(schedule: Schedule, name: str, node: Node, route: tuple[str | int, ...]) -> None:
    if schedule.name == "multi_step" and not schedule.milestones:
        raise node.place.at(route).error(
            f"{name}: multi_step needs `milestones`, the epochs at which the rate is multiplied by `factor`; got none"
        )


def _effective_rate(part: Train | Phase) -> dict[str, Any]:
    return {"optimizer": _effective(part.optimizer, part.optimizer.name, OPTIMIZERS),
            "schedule": _effective(part.schedule, part.schedule.name, SCHEDULES)}  # fmt: skip


def _effective(options: Named, name: str, readers: dict[str, frozenset[str]]) -> Named:
    unread = frozenset[str]().union(*readers.values()) - readers[name]
    defaults = {field.name: field.default for field in msgspec.structs.fields(options) if field.name in unread}
    return replace(options, **defaults)
