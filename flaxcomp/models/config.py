"""The base of every architecture's configuration, and what all check alike. No JAX, so that `plan` needs none."""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flaxcomp.errors import UserError

Count = Annotated[int, Meta(ge=1, le=2**20)]  # of channels, units, blocks
Share = Annotated[float, Meta(ge=0, lt=1)]  # of what dropout drops
Positive = Annotated[float, Meta(gt=0)]
Shape = tuple[Count, Count, Count]  # height, width, channels
Kind = Literal["conv", "residual", "depthwise_separable"]  # what stands for a convolution: flaxcomp.models.replacements
Activation = str  # relu, relu6, swish, hard_swish, elu, leaky_relu, tanh, sigmoid


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an architecture: frozen, checked once; field names are the keys of `model:` in a sweep file."""


class Classifier(ModelConfig, frozen=True, kw_only=True):
    """Options that every architecture has. In a sweep the data set's classes and image shape are used unless others are given.

    The defaults in an architecture's NAMES are those of its publication.
    """

    num_classes: Count
    input_shape: Shape
    masked: tuple[
        str, ...
    ] = ()  # layers, as blocks.0.conv, whose outputs are multiplied by bitmaps: see flaxcomp.models.masked


class Only:
    """In a field's annotation: with which values of another option, by default `layout`, the field means anything.

    Any other value refuses the option, instead of leaving it without effect.
    """

    def __init__(self, *values: object, option: str = "layout") -> None:
        self.values, self.option = values, option


def refuse_unused(name: str, config: ModelConfig, given: Iterable[str]) -> None:
    """Refuse options that change nothing beside the others.

    Raises:
        UserError: one of the `given` options is for other values of another option than `config` has; see `Only`.
    """
    fields = {field.name: field.type for field in msgspec.structs.fields(config)}
    for option in given:
        for rule in getattr(fields[option], "__metadata__", ()):
            if isinstance(rule, Only) and (got := getattr(config, rule.option)) not in rule.values:
                wanted = f"{rule.option} {' or '.join(map(_plain, rule.values))}"
                raise UserError(f"model.{option} of {name}: only {wanted} has it, got {rule.option} {_plain(got)}")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)  # as in a sweep file


def check_number_of_widths(name: str, given: tuple[int, ...], default: tuple[int, ...]) -> None:
    """Refuse `widths` that are more or fewer than the network has.

    Raises:
        UserError: `given` is not empty and not as long as `default`.
    """
    if given and len(given) != len(default):
        begin = ", ".join(map(str, default[:8])) + (", ..." if len(default) > 8 else "")
        raise UserError(f"model.widths of {name}: it has {len(default)} widths with these options (by default {begin}), "
                        f"got {len(given)}")  # fmt: skip


def a_third(name: str, blocks: int) -> int:
    """The blocks of each of three sub-networks of equal depth, `blocks` together (Greffe 2019, 3.4.1).

    Raises:
        UserError: they cannot be shared equally.
    """
    each, rest = divmod(blocks, 3)
    if rest or not each:
        raise UserError(f"model.blocks of {name}: three sub-networks of equal depth need a multiple of 3, got {blocks}")
    return each


def stage_units(name: str, layout: str, blocks: int) -> tuple[int, int, int]:
    """The units of a ShuffleNet's three stages: as published, or a third of `blocks` each."""
    return (4, 8, 4) if layout == "imagenet" else (a_third(name, blocks),) * 3


def check_size(name: str, input_shape: Shape, least: int, why: str) -> None:
    """Refuse images too small for a network's strides.

    Args:
        least: pixels that height and width must have. why: what the network does with them.

    Raises:
        UserError: they have fewer.
    """
    height, width, _ = input_shape
    if min(height, width) < least:
        raise UserError(f"{name} {why}: height and width must be at least {least}, got {height}x{width}")


def check_halvings(name: str, input_shape: Shape, size: tuple[int, int], layers: Iterable[str], *, up: bool) -> None:
    """Refuse images of which too little reaches a layer that halves height and width.

    Args:
        size: height and width that reach the first of `layers`, which are named in their order.
        up: whether a half is rounded up; else down.

    Raises:
        UserError: less than 2x2 pixels reach one of them.
    """
    for layer in layers:
        if min(size) < 2:
            raise UserError(f"{name}: {layer} halves what it is given, which must be 2x2 pixels at least; an input of "
                            f"{input_shape[0]}x{input_shape[1]} gives it {size[0]}x{size[1]}")  # fmt: skip
        size = ((size[0] + up) // 2, (size[1] + up) // 2)


def scaled(channels: int, multiplier: float, divisor: int = 8) -> int:
    """Channels times a width multiplier, rounded to a multiple of `divisor`, never more than 10 % below (MobileNet's rule)."""
    rounded = max(divisor, int(channels * multiplier + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels * multiplier else rounded
