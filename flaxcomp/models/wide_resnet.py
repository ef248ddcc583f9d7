"""Wide residual networks (Zagoruyko, Komodakis 2016, table 1), pre-activated: batch norm and ReLU before each convolution.

3x3 convolution with 16 channels, three stages of equal depth, batch norm, ReLU, average over all pixels, dense. A block is two
3x3 convolutions beside a shortcut; where channels change the shortcut is a 1x1 convolution of the activated input. The second
and the third stage halve height and width in their first block and double the channels.
Layout `cifar` is given by depth (6n + 4: n blocks a stage) and widen factor; layout `embedded` (Greffe 2019, section 3.4) by
the blocks of all stages together and the first stage's channels.

| net | trainable parameters, 10 classes |
|---|---|
| WRN-40-1, 40-2, 40-4 | 563,930, 2,243,546, 8,949,210 |
| WRN-16-4, 16-8, 28-10 | 2,748,890, 10,961,370, 36,479,194 |
| embedded, blocks/width 9/16, 9/24, 12/32 | 272,282, 609,210, 1,467,610 |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Shape, Share

_STEM = 16
_DEPTH, _WIDEN_FACTOR = 40, 2


class WideResNet(Classifier, frozen=True, kw_only=True):
    """Options.

    Order of `widths`: the stem's unless the first stage has 16 channels too (then they are tied); then for each stage its own,
    tied over its blocks' sums, and for each of its blocks the channels between the two convolutions.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    layout: Literal["cifar", "embedded"] = "cifar"
    depth: Count = _DEPTH  # cifar: layers with weights
    widen_factor: Count = _WIDEN_FACTOR  # cifar: the first stage's channels / 16
    blocks: Annotated[int, Meta(ge=0)] = 0  # embedded: of all three stages together
    width: Annotated[int, Meta(ge=0)] = 0  # embedded: the first stage's channels
    se: Annotated[int, Meta(ge=0)] = 0  # Squeeze-and-Excitation's reduction; 0: none
    dropout: Share = 0.0  # share dropped between a block's convolutions
    widths: tuple[Count, ...] = ()  # () = as the other options say

    def __post_init__(self) -> None:
        wanted = len(default_widths(self))
        if self.widths and len(self.widths) != wanted:
            raise UserError(f"wide_resnet.widths: this layout has {wanted} free widths, got {len(self.widths)}")


def default_widths(config: WideResNet) -> tuple[int, ...]:
    """The channels of all free layers, in the order that `WideResNet` tells."""
    width = first_width(config)
    widths = [] if width == _STEM else [_STEM]
    for stage in range(3):
        widths += [width * 2**stage] * (1 + blocks_a_stage(config))
    return tuple(widths)


def first_width(config: WideResNet) -> int:
    """Channels of the first stage; the stem has as many or 16."""
    return config.width if config.layout == "embedded" else _STEM * config.widen_factor


def blocks_a_stage(config: WideResNet) -> int:
    """The number of blocks in each of the three stages.

    Raises:
        UserError: the depth does not fit, or options belong to the other layout.
    """
    if config.layout == "embedded":
        if (config.depth, config.widen_factor) != (_DEPTH, _WIDEN_FACTOR) or not config.width:
            raise UserError("wide_resnet: layout embedded is given by blocks and width, not by depth and widen_factor; got "
                            f"blocks {config.blocks}, width {config.width}")  # fmt: skip
        if config.blocks < 3 or config.blocks % 3:
            raise UserError(f"wide_resnet.blocks: three stages of equal depth need a multiple of 3, got {config.blocks}")
        return config.blocks // 3
    if config.blocks or config.width:
        raise UserError(
            "wide_resnet: blocks and width belong to layout embedded; layout cifar is given by depth and widen_factor"
        )
    if config.depth < 10 or (config.depth - 4) % 6:
        raise UserError(f"wide_resnet.depth: layout cifar has 6n + 4 layers (16, 22, 28, 40), got {config.depth}")
    return (config.depth - 4) // 6


NAMES = {"wide_resnet": WideResNet()}
SMALL = {"layout": "embedded", "blocks": 3, "width": 8, "input_shape": (16, 16, 3), "num_classes": 10}

import itertools
from typing import Any

import jax
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, Dense, Dropout, SqueezeExcite, flatten, global_avg_pool

_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # as in the authors' code
_LOGITS = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # Torch's dense layer; its bias starts at 0 there


class _Block(nnx.Module):
    def __init__(
        self, c_in: int, inside: int, c_out: int, stride: int, *, projects: bool, config: WideResNet, rngs: nnx.Rngs
    ) -> None:
        # Layout cifar pads both sides as published; SAME would pad a strided convolution at the right and bottom only.
        padding: Any = "SAME" if stride == 1 or config.layout == "embedded" else ((1, 1), (1, 1))
        self.bn1, self.bn2 = BatchNorm(c_in, momentum=0.9, rngs=rngs), BatchNorm(inside, momentum=0.9, rngs=rngs)
        self.conv1 = _conv(c_in, inside, 3, stride, padding, rngs)
        self.dropout = Dropout(config.dropout)
        self.conv2 = _conv(inside, c_out, 3, 1, "SAME", rngs)
        self.se = nnx.data(SqueezeExcite(c_out, max(1, c_out // config.se), rngs=rngs) if config.se else None)
        self.projection = nnx.data(_conv(c_in, c_out, 1, stride, "VALID", rngs) if projects else None)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        y = nnx.relu(self.bn1(x))
        if self.projection is not None:
            x = self.projection(y)
        y = nnx.relu(self.bn2(self.conv1(y)))
        y = self.conv2(self.dropout(y, rngs=rngs))
        return x + (y if self.se is None else self.se(y))


class _Network(nnx.Module):
    def __init__(self, config: WideResNet, channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        widths = iter(config.widths or default_widths(config))
        tied = first_width(config) == _STEM
        c = next(widths)
        if tied:
            widths = itertools.chain([c], widths)
        self.stem = _conv(channels, c, 3, 1, "SAME", rngs)
        blocks = []
        for stage in range(3):
            c_out = next(widths)
            for i in range(blocks_a_stage(config)):
                stride = 2 if stage and i == 0 else 1
                projects = i == 0 and (stage > 0 or not tied)
                blocks.append(_Block(c, next(widths), c_out, stride, projects=projects, config=config, rngs=rngs))
                c = c_out
        self.blocks = nnx.List(blocks)
        self.bn = BatchNorm(c, momentum=0.9, rngs=rngs)
        self.logits = Dense(c, num_classes, kernel_init=_LOGITS, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, rngs)
        return self.logits(flatten(global_avg_pool(nnx.relu(self.bn(x)))))


def _conv(c_in: int, c_out: int, size: int, stride: int, padding: Any, rngs: nnx.Rngs) -> Conv:
    return Conv(
        c_in, c_out, (size, size), strides=(stride, stride), padding=padding, use_bias=False, kernel_init=_HE, rngs=rngs
    )


def build(config: WideResNet, input_shape: Shape, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    height, width, channels = input_shape
    for stage in (2, 3):
        if min(height, width) < 2:
            raise UserError(f"wide_resnet: stage {stage} halves what it is given, which must be 2x2 pixels at least; an input "
                            f"of {input_shape[0]}x{input_shape[1]} gives it {height}x{width}")  # fmt: skip
        height, width = (height + 1) // 2, (width + 1) // 2
    return _Network(config, channels, num_classes, rngs)
