"""ResNet (He, Zhang, Ren, Sun 2016, "Deep Residual Learning for Image Recognition", tables 1 and 6).

Layout `imagenet`: 7x7 convolution of stride 2, 3x3 max-pool of stride 2, four stages. Depth 18 and 34 have blocks of two 3x3
convolutions; 50, 101 and 152 bottlenecks of 1x1, 3x3 and 1x1, with four times the channels at their ends.
Layout `cifar`: 3x3 convolution, three stages of (depth - 2) / 6 blocks of two 3x3 convolutions, channels 16, 32, 64.
Batch norm follows every convolution; the first block of every stage but the first halves height and width.

| layout | depth | trainable parameters, 1000 or 10 classes |
|---|---|---|
| imagenet | 18, 34, 50, 101, 152 | 11,689,512, 21,797,672, 25,557,032, 44,549,160, 60,192,808 |
| cifar, shortcut A | 20, 32, 44, 56, 110 | 269,722, 464,154, 658,586, 853,018, 1,727,962 |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Shape, Share, check_halvings

_IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # blocks a stage


class ResNet(Classifier, frozen=True, kw_only=True):
    """Options.

    Order of `widths`: with bottlenecks the stem's (otherwise it is tied to the first stage's); then for each stage its own,
    tied over its blocks' sums, and for each of its blocks those inside (one, in bottlenecks two).
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar"] = "imagenet"
    depth: Count = 50  # layers with weights
    shortcut: Literal["A", "B"] | None = (
        None  # where channels grow: A adds zeros, B is a 1x1 convolution; None: cifar A, imagenet B
    )
    # which convolution of a bottleneck halves: 3x3 as in PyTorch, 1x1 as in the paper
    stride_at: Annotated[Literal["3x3", "1x1"], Only("imagenet")] = "3x3"
    se: Annotated[int, Meta(ge=0)] = 0  # Squeeze-and-Excitation's reduction; 0: none
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()  # () = as the other options say

    def __post_init__(self) -> None:
        if self.stride_at == "1x1" and not has_bottlenecks(self):
            raise UserError(f"model.stride_at of resnet: only bottlenecks (depth 50 and more) have it, got depth {self.depth}")


def default_widths(config: ResNet) -> tuple[int, ...]:
    """The channels of all free layers, in the order that `ResNet` tells."""
    inside, growth = (2, 4) if has_bottlenecks(config) else (1, 1)
    stem = 64 if config.layout == "imagenet" else 16
    widths = [stem] if inside == 2 else []
    for stage, blocks in enumerate(blocks_of(config)):
        widths += [growth * stem * 2**stage] + [stem * 2**stage] * inside * blocks
    return tuple(widths)


def has_bottlenecks(config: ResNet) -> bool:
    """Whether blocks are 1x1, 3x3, 1x1 rather than 3x3, 3x3."""
    return config.layout == "imagenet" and config.depth >= 50


def blocks_of(config: ResNet) -> tuple[int, ...]:
    """The number of blocks of every stage.

    Raises:
        UserError: there is no ResNet of this depth.
    """
    if config.layout == "imagenet":
        if config.depth not in _IMAGENET:
            raise UserError(
                f"model.depth of resnet: layout imagenet has {', '.join(map(str, _IMAGENET))} layers, got {config.depth}"
            )
        return _IMAGENET[config.depth]
    if config.depth < 8 or (config.depth - 2) % 6:
        raise UserError(f"model.depth of resnet: layout cifar has 6n + 2 layers (20, 32, 44, 56, 110), got {config.depth}")
    return ((config.depth - 2) // 6,) * 3


NAMES = {"resnet": ResNet()}
SMALL = {"layout": "cifar", "depth": 8, "input_shape": (16, 16, 3), "num_classes": 10}

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import (
    HE_FAN_OUT,
    TORCH_DENSE,
    ConvBN,
    Dense,
    Dropout,
    flatten,
    global_avg_pool,
    max_pool,
    squeeze_excite,
)


class _Block(nnx.Module):
    """Convolutions of (channels, size, stride) `layers` beside a shortcut; ReLU after their sum."""

    def __init__(self, c_in: int, layers: list[tuple[int, int, int]], *, projects: bool, se: int, rngs: nnx.Rngs) -> None:
        c_out, last = layers[-1][0], len(layers) - 1
        stride = max(stride for _, _, stride in layers)
        inputs = [c_in, *(channels for channels, _, _ in layers)]
        self.convolutions = nnx.List(
            _conv(inputs[i], channels, size, step, "relu" if i < last else None, rngs)
            for i, (channels, size, step) in enumerate(layers)
        )
        self.se = nnx.data(squeeze_excite(c_out, se, rngs))
        self.projection = nnx.data(_conv(c_in, c_out, 1, stride, None, rngs) if projects else None)
        self.stride, self.added = stride, c_out - c_in

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for convolution in self.convolutions:
            y = convolution(y)
        if self.se is not None:
            y = self.se(y)
        if self.projection is not None:
            x = self.projection(x)
        elif self.stride > 1 or self.added:
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, self.added)))
        return nnx.relu(x + y)


class _Network(nnx.Module):
    def __init__(self, config: ResNet, channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        widths = iter(config.widths or default_widths(config))
        bottlenecks, shortcut = has_bottlenecks(config), config.shortcut or ("A" if config.layout == "cifar" else "B")
        c = next(widths)
        if not bottlenecks:
            widths = itertools.chain([c], widths)  # the stem is tied to the first stage
        self.imagenet = config.layout == "imagenet"
        self.stem = _conv(channels, c, 7 if self.imagenet else 3, 2 if self.imagenet else 1, "relu", rngs)
        blocks = []
        for stage, count in enumerate(blocks_of(config), 1):
            width = next(widths)
            if shortcut == "A" and width < c:
                raise UserError(
                    f"model.widths of resnet: shortcut A only adds channels, so stage {stage} needs {c} at least, got {width}"
                )
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                layers = _layers(widths, width, stride, bottlenecks, config.stride_at)
                projects = shortcut == "B" and i == 0 and (stage > 1 or bottlenecks)
                blocks.append(_Block(c, layers, projects=projects, se=config.se, rngs=rngs))
                c = width
        self.blocks = nnx.List(blocks)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(c, num_classes, kernel_init=TORCH_DENSE, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        if self.imagenet:
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)  # behind a ReLU zeros are as good as -inf
        for block in self.blocks:
            x = block(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def _conv(c_in: int, c_out: int, size: int, stride: int, act: str | None, rngs: nnx.Rngs) -> ConvBN:
    # The published nets pad both sides; SAME would pad a strided convolution at the right and bottom only.
    padding: Any = "SAME" if stride == 1 else ((size // 2, size // 2),) * 2
    return ConvBN(c_in, c_out, size, stride, act=act, padding=padding, kernel_init=HE_FAN_OUT, rngs=rngs)


def _layers(widths: Iterator[int], width: int, stride: int, bottlenecks: bool, stride_at: str) -> list[tuple[int, int, int]]:
    """Channels, kernel size and stride of a block's convolutions; takes the inner widths."""
    if not bottlenecks:
        return [(next(widths), 3, stride), (width, 3, 1)]
    first, second = (stride, 1) if stride_at == "1x1" else (1, stride)
    return [(next(widths), 1, first), (next(widths), 3, second), (width, 1, 1)]


def build(config: ResNet, input_shape: Shape, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    halvings = ["the stem", "the max-pool"] if config.layout == "imagenet" else []
    halvings += [f"stage {stage}" for stage in range(2, len(blocks_of(config)) + 1)]
    check_halvings("resnet", input_shape, input_shape[:2], halvings, up=True)
    return _Network(config, input_shape[2], num_classes, rngs)
