"""DenseNet (Huang, Liu, van der Maaten, Weinberger 2017, tables 1 and 2).

A layer is batch norm, ReLU and a 3x3 convolution of `growth_rate` channels, which join what it was given; with bottlenecks a
1x1 convolution of 4 * growth_rate channels, likewise pre-activated, stands before. Between dense blocks a transition: batch
norm, ReLU, 1x1 convolution that keeps `compression` of the channels, 2x2 average pool. Bottlenecks and compression make it BC.
Layout `cifar`: 3x3 convolution, three blocks of equal depth. Layout `imagenet`: 7x7 convolution and 3x3 max-pool, both of
stride 2, and four blocks.

| net | trainable parameters, 10 or 1000 classes |
|---|---|
| DenseNet-40-12, 100-12, 100-24 | 1,019,722, 6,979,642, 27,249,082 |
| DenseNet-BC-100-12, 250-24, 190-40 | 769,162, 15,324,406, 25,624,430 |
| imagenet 121, 169, 201; 161 with growth rate 48 | 7,978,856, 14,149,480, 20,013,928; 28,681,000 |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Shape, Share, check_halvings

_IMAGENET = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}  # layers a block


class DenseNet(Classifier, frozen=True, kw_only=True):
    """Options.

    Order of `widths`: the stem's; then for each block its layers' (with bottlenecks the 1x1's and the 3x3's channels, else
    the 3x3's) and, but for the last block, its transition's.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    layout: Literal["cifar", "imagenet"] = "cifar"
    depth: Count = 100  # layers with weights
    growth_rate: Count = 12
    bottleneck: bool = True
    compression: Annotated[float, Meta(gt=0, le=1)] = 0.5  # share of the channels that a transition keeps
    dropout: Share = 0.0  # share dropped after every convolution but the first (0.2 as published, without augmentation)
    widths: tuple[Count, ...] = ()  # () = as the other options say


def default_widths(config: DenseNet) -> tuple[int, ...]:
    """The channels of all free layers, in the order that `DenseNet` tells."""
    k = config.growth_rate
    plain = config.layout == "cifar" and not (config.bottleneck and config.compression < 1)
    c = 16 if plain else 2 * k
    widths = [c]
    layers = layers_of(config)
    for i, count in enumerate(layers):
        widths += ([4 * k, k] if config.bottleneck else [k]) * count
        c += k * count
        if i < len(layers) - 1:
            c = int(c * config.compression)
            widths.append(c)
    if min(widths) < 1:
        raise UserError(f"model.compression of densenet: a transition must keep a channel at least, got {config.compression}")
    return tuple(widths)


def layers_of(config: DenseNet) -> tuple[int, ...]:
    """The number of layers in each block.

    Raises:
        UserError: there is no DenseNet of this depth.
    """
    if config.layout == "imagenet":
        if config.depth not in _IMAGENET or not config.bottleneck:
            depths = ", ".join(map(str, _IMAGENET))
            raise UserError(f"model.depth of densenet: layout imagenet has bottlenecks and {depths} layers, "
                            f"got bottleneck {config.bottleneck}, depth {config.depth}")  # fmt: skip
        return _IMAGENET[config.depth]
    step = 6 if config.bottleneck else 3
    if config.depth <= 4 or (config.depth - 4) % step:
        kind = "with" if config.bottleneck else "without"
        raise UserError(
            f"model.depth of densenet: layout cifar {kind} bottlenecks has {step}n + 4 layers (40, 100), got {config.depth}"
        )
    return ((config.depth - 4) // step,) * 3


NAMES = {"densenet": DenseNet()}
SMALL = {"depth": 10, "growth_rate": 6, "input_shape": (16, 16, 3), "num_classes": 10}

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import (
    HE_FAN_OUT,
    TORCH_DENSE,
    BatchNorm,
    Conv,
    ConvBN,
    Dense,
    NormConv,
    avg_pool,
    flatten,
    global_avg_pool,
    max_pool,
)


class _Layer(nnx.Module):
    def __init__(self, convolutions: list[NormConv]) -> None:
        self.convolutions = nnx.List(convolutions)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        y = x
        for convolution in self.convolutions:
            y = convolution(y, rngs)
        return jnp.concatenate([x, y], -1)


class _Network(nnx.Module):
    def __init__(self, config: DenseNet, channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        widths = iter(config.widths or default_widths(config))
        c = next(widths)
        self.stem: Conv | ConvBN
        if config.layout == "imagenet":
            self.stem = ConvBN(channels, c, 7, 2, padding=((3, 3), (3, 3)), kernel_init=HE_FAN_OUT, rngs=rngs)
        else:
            self.stem = Conv(channels, c, (3, 3), use_bias=False, kernel_init=HE_FAN_OUT, rngs=rngs)
        blocks, transitions = [], []
        counts = layers_of(config)
        for i, count in enumerate(counts):
            layers = []
            for _ in range(count):
                inputs, convolutions = c, []
                for size in (1, 3) if config.bottleneck else (3,):
                    width = next(widths)
                    convolutions.append(NormConv(inputs, width, size, dropout=config.dropout, rngs=rngs))
                    inputs = width
                layers.append(_Layer(convolutions))
                c += inputs
            blocks.append(nnx.List(layers))
            if i < len(counts) - 1:
                width = next(widths)
                transitions.append(NormConv(c, width, 1, dropout=config.dropout, rngs=rngs))
                c = width
        self.blocks, self.transitions = nnx.List(blocks), nnx.List(transitions)
        self.bn = BatchNorm(c, momentum=0.9, rngs=rngs)
        self.logits = Dense(c, num_classes, kernel_init=TORCH_DENSE, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        if isinstance(self.stem, ConvBN):
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)  # behind a ReLU zeros are as good as -inf
        for i, block in enumerate(self.blocks):
            for layer in block:
                x = layer(x, rngs)
            if i < len(self.transitions):
                x = avg_pool(self.transitions[i](x, rngs), 2)
        return self.logits(flatten(global_avg_pool(nnx.relu(self.bn(x)))))


def build(config: DenseNet, input_shape: Shape, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    height, width, channels = input_shape
    if config.layout == "imagenet":  # the stem and the max-pool round up, transitions down
        height, width = (height + 3) // 4, (width + 3) // 4
    transitions = [f"transition {i}" for i in range(1, len(layers_of(config)))]
    check_halvings("densenet", input_shape, (height, width), transitions, up=False)
    return _Network(config, channels, num_classes, rngs)
