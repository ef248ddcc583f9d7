"""What a distillation's options make together: those without effect, and those that no student can learn by."""

import math

import msgspec
from msgspec.structs import replace

from flaxcomp import distill as losses
from flaxcomp.errors import UserError
from flaxcomp.sweep.compression import METHODS
from flaxcomp.sweep.spec import Distill, Hint, TrialConfig

_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Distill)}


def of_teachers(value: Distill, teachers: tuple[str, ...]) -> Distill:
    """The distillation with its teachers: in the order of their ids, so that the file's order makes no other trial.

    Args:
        value: with the `weights` that the file gives; its teacher is not read.
        teachers: their trial ids in the file's order.

    Raises:
        UserError: a teacher is there twice, or the weights are not one for each.
    """
    if len(set(teachers)) < len(teachers):
        raise UserError(f"distill.teacher must be trainings that differ, but {len(teachers)} of them are "
                        f"{len(set(teachers))}; give one more weight by distill.weights instead")  # fmt: skip
    if value.weights and len(value.weights) != len(teachers):
        raise UserError(f"distill.weights must be one for each of {len(teachers)} teachers, got {len(value.weights)}")
    order = sorted(range(len(teachers)), key=teachers.__getitem__)
    total = math.fsum(value.weights)  # of any order the same
    weights = tuple(value.weights[i] / total for i in order) if len(set(value.weights)) > 1 else ()
    return replace(value, teacher=teachers[0] if len(teachers) == 1 else tuple(teachers[i] for i in order), weights=weights)


def effective(value: Distill) -> Distill:
    """The same distillation with what has no effect at its default, so that trials which differ in nothing else are one."""
    unread = set(losses.options()) - losses.losses()[value.loss]
    if len(value.teachers) == 1:
        unread.add("combine")
    return replace(value, **{name: _DEFAULTS[name] for name in unread})


def check_options(value: Distill) -> None:
    """Refuse options that exclude one another.

    Raises:
        UserError: begins with the option.
    """
    several = len(value.teachers)
    if several > 1 and value.combine == "probabilities" and "temperature" not in losses.losses()[value.loss]:
        raise UserError(f"distill.combine must be logits for the loss {value.loss}, which compares logits, not probabilities; "
                        f"got probabilities of {several} teachers")  # fmt: skip
    if several > 1 and value.hint is not None:
        raise UserError(f"distill.hint is a layer of one teacher, but there are {several}; name one, or leave hints out")
    if value.memoise == "always" and value.asks_network:
        reason = "hints" if value.hint is not None else "its batch norms depend on the batch"
        raise UserError(f"distill.memoise cannot be always: the teacher is asked at every step ({reason})")


def check_training(config: TrialConfig, classes: int, teachers: dict[str, TrialConfig]) -> None:
    """Refuse a distillation that does not go with the rest of its trial.

    Args:
        config: the trial's, with distillation.
        classes: of its data set.
        teachers: by id, those of the trial at least.

    Raises:
        UserError: a teacher has other classes (both numbers are told); there are infinitely many changed images to memoise;
            there is no time for hints.
    """
    value = config.distill
    assert value is not None
    own = classes_of(config, classes)
    for teacher in value.teachers:
        theirs = classes_of(teachers[teacher], classes)
        if theirs != own:
            raise UserError(f"distill.teacher: {teachers[teacher].model['name']} has {theirs} classes, but its student "
                            f"{config.model['name']} has {own}; they must be the same")  # fmt: skip
    if value.memoise == "always" and config.train.augment.is_random and config.train.augment.variants is None:
        raise UserError("distill.memoise cannot be always: brightness and contrast change an image in endless ways; "
                        "only train.augment's pad and flip can be memoised")  # fmt: skip
    if value.hint is not None and value.hint.epochs:
        _check_time(value.hint, config)


def classes_of(config: TrialConfig, classes: int) -> int:
    """How many logits a trial's network has, on a data set of so many classes."""
    number: int = config.model.get("num_classes", classes)
    return number


def _check_time(hint: Hint, config: TrialConfig) -> None:
    if config.train.phases:
        raise UserError("distill.hint.epochs must be 0 where train.phases says what is trained when")
    trainings = {"train": config.train.epochs}
    trainings |= {name: epochs for name in METHODS if (epochs := getattr(getattr(config, name), "epochs", None)) is not None}
    for name, epochs in trainings.items():
        if hint.epochs >= epochs:
            raise UserError(f"distill.hint.epochs must be less than {name}.epochs, {epochs}, of which they are the first; "
                            f"got {hint.epochs}")  # fmt: skip
