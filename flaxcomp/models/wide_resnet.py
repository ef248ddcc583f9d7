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
from flaxcomp.models.config import Classifier, Count, Only, Shape, Share, a_third, check_halvings

_STEM = 16


class WideResNet(Classifier, frozen=True, kw_only=True):
    """Options.

    Order of `widths`: the stem's unless the first stage has 16 channels too (then they are tied); then for each stage its own,
    tied over its blocks' sums, and for each of its blocks the channels between the two convolutions.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    layout: Literal["cifar", "embedded"] = "cifar"
    depth: Annotated[Count, Only("cifar")] = 40  # layers with weights
    widen_factor: Annotated[Count, Only("cifar")] = 2  # the first stage's channels / 16
    blocks: Annotated[Count, Only("embedded")] = 9  # of all three stages together
    width: Annotated[Count, Only("embedded")] = 16  # the first stage's channels
    se: Annotated[int, Meta(ge=0)] = 0  # Squeeze-and-Excitation's reduction; 0: none
    dropout: Share = 0.0  # share dropped between a block's convolutions
    widths: tuple[Count, ...] = ()  # () = as the other options say


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
        UserError: no three stages of equal depth make this depth, or these blocks.
    """
    if config.layout == "embedded":
        return a_third("wide_resnet", config.blocks)
    if config.depth < 10 or (config.depth - 4) % 6:
        raise UserError(f"model.depth of wide_resnet: layout cifar has 6n + 4 layers (16, 22, 28, 40), got {config.depth}")
    return (config.depth - 4) // 6


NAMES = {"wide_resnet": WideResNet()}
SMALL = {"layout": "embedded", "blocks": 3, "width": 8, "input_shape": (16, 16, 3), "num_classes": 10}

import itertools
from typing import Any

import jax
from flax import nnx

from flaxcomp.models.layers import (
    HE_FAN_OUT,
    TORCH_DENSE,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    flatten,
    global_avg_pool,
    squeeze_excite,
)


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
        self.se = nnx.data(squeeze_excite(c_out, config.se, rngs))
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
        self.logits = Dense(c, num_classes, kernel_init=TORCH_DENSE, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, rngs)
        return self.logits(flatten(global_avg_pool(nnx.relu(self.bn(x)))))


def _conv(c_in: int, c_out: int, size: int, stride: int, padding: Any, rngs: nnx.Rngs) -> Conv:
    return Conv(
        c_in, c_out, (size, size), strides=(stride, stride), padding=padding, use_bias=False, kernel_init=HE_FAN_OUT, rngs=rngs
    )


def build(config: WideResNet, input_shape: Shape, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    check_halvings("wide_resnet", input_shape, input_shape[:2], ["stage 2", "stage 3"], up=True)
    return _Network(config, input_shape[2], num_classes, rngs)
