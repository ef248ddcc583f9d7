"""ShuffleNet v1 (Zhang et al. 2018, table 1), and its layout for 32x32 images (Greffe 2019, table 3.3).

A unit is a bottleneck of a grouped 1x1 convolution, a channel shuffle, a depthwise 3x3 and a grouped 1x1 convolution. The
first unit of a stage may halve height and width and puts its input, averaged 3x3, before what it computes; the others add.
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, check_size, stage_units

_STAGES = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}


class ShuffleNetV1(Classifier, frozen=True, kw_only=True):
    """Options of ShuffleNet v1.

    `widths`: the first convolution's channels; then for each of the three stages the channels that its first unit adds to
    those of the stage before, and the inner channels of each unit. Both are multiples of `groups`.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    groups: Literal[1, 2, 3, 4, 8] = 3  # of the 1x1 convolutions; the imagenet layout is wider the more there are
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # 0.25, 0.5, 1, 1.5 and 2 are published
    width: Annotated[Count, Only("embedded")] = 80  # output channels of the first of three stages; then doubled
    blocks: Annotated[Count, Only("embedded")] = 9  # units of all three stages together
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation after each unit's last convolution; 0: none
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"shufflenet_v1": ShuffleNetV1()}
SMALL = {"layout": "embedded", "groups": 2, "width": 24, "blocks": 6, "se": 2}


def default_widths(config: ShuffleNetV1) -> tuple[int, ...]:
    """The widths that the other options ask for: bottlenecks are a quarter as wide as their stage.

    Raises:
        UserError: blocks that three stages cannot share equally, or a first stage no wider than the first convolution.
    """
    if config.layout == "imagenet":
        multiplier = config.width_multiplier
        stem, *stages = (_grouped(int(channels * multiplier), config.groups) for channels in (24, *_STAGES[config.groups]))
        stem = 24 if multiplier == 1.5 else stem  # as in the authors' code
    else:
        stem, *stages = 16, config.width, 2 * config.width, 4 * config.width
    if not 0 < stem < stages[0]:
        raise UserError("shufflenet_v1 stage 2 puts its input before what it computes: it must be wider than the first "
                        f"convolution ({stem}), got {stages[0]}; raise width or width_multiplier")  # fmt: skip
    widths, before = [stem], stem
    for out, units in zip(stages, stage_units("shufflenet_v1", config.layout, config.blocks), strict=True):
        inner = _grouped(out // 4, config.groups) if config.layout == "imagenet" else max(1, out // 4)
        widths += [out - before, *[inner] * units]
        before = out
    return tuple(widths)


def _grouped(channels: int, groups: int) -> int:
    """Up to the next multiple of `groups`: only other multipliers than 1 need it, as the authors' own 0.5x with 8 groups."""
    return max(1, -(-channels // groups)) * groups


import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import (
    ConvBN,
    Dense,
    Dropout,
    avg_pool,
    channel_shuffle,
    flatten,
    global_avg_pool,
    max_pool,
    squeeze_excite,
)


class _Unit(nnx.Module):
    """Figure 2 (b), or with a `stride` (c): [n, h, w, c_in] to [n, h / stride, w / stride, c_in or c_in + c_out].

    Args:
        c_out: channels that the unit computes.
        squeeze_groups: of the first convolution; the net's very first unit has 1, for it sees few channels.
    """

    def __init__(
        self, c_in: int, inner: int, c_out: int, stride: int | None, squeeze_groups: int, groups: int, se: int, rngs: nnx.Rngs
    ) -> None:
        self.stride, self.groups = stride, groups
        self.squeeze = ConvBN(c_in, inner, 1, groups=squeeze_groups, rngs=rngs)
        self.spatial = ConvBN(inner, inner, 3, stride or 1, groups=inner, act=None, rngs=rngs)
        self.expand = ConvBN(inner, c_out, 1, groups=groups, act=None, rngs=rngs)
        self.gate = nnx.data(squeeze_excite(c_out, se, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.expand(self.spatial(channel_shuffle(self.squeeze(x), self.groups)))
        if self.gate is not None:
            y = self.gate(y)
        if self.stride is None:
            return nnx.relu(x + y)
        kept = x if self.stride == 1 else avg_pool(x, 3, self.stride, "SAME")
        return jnp.concatenate([kept, nnx.relu(y)], -1)  # what is kept has passed a ReLU already


class _Network(nnx.Module):
    def __init__(self, config: ShuffleNetV1, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        self.imagenet = config.layout == "imagenet"
        least, times = (32, 5) if self.imagenet else (4, 2)
        check_size("shufflenet_v1", input_shape, least, f"halves height and width {times} times")
        widths = iter(config.widths or default_widths(config))
        channels = next(widths)
        self.stem = ConvBN(input_shape[2], channels, 3, 2 if self.imagenet else 1, rngs=rngs)
        units: list[nnx.Module] = []
        for stage, count in enumerate(stage_units("shufflenet_v1", config.layout, config.blocks), 2):
            added = next(widths)
            for i in range(count):
                inner, place = next(widths), f"stage {stage} unit {i + 1}"
                stride = None if i else 1 if stage == 2 and not self.imagenet else 2
                squeeze_groups = config.groups if units else 1
                c_out = channels if i else added
                _check_groups(f"{place}, input", channels, squeeze_groups)
                _check_groups(f"{place}, inner", inner, config.groups)
                _check_groups(f"{place}, output", c_out, config.groups)
                units.append(_Unit(channels, inner, c_out, stride, squeeze_groups, config.groups, config.se, rngs))
                channels += 0 if i else added
        self.units = nnx.List(units)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        if self.imagenet:
            x = max_pool(x, 3, 2, "SAME")
        for unit in self.units:
            x = unit(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def _check_groups(place: str, channels: int, groups: int) -> None:
    if channels % groups:
        raise UserError(f"shufflenet_v1 {place}: a convolution in {groups} groups needs a multiple of {groups} channels, "
                        f"got {channels}")  # fmt: skip


def build(config: ShuffleNetV1, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    The paper names no initial weights: convolutions get He's, batch norm keeps PyTorch's momentum and epsilon. Padding is
    SAME, and average pools do not count it, as in TensorFlow and TFLite; PyTorch's ports pad symmetrically and count it.
    """
    return _Network(config, input_shape, num_classes, rngs)
