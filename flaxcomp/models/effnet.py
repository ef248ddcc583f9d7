"""EffNet (Freeman et al. 2018), and its deeper layout (Greffe 2019, 3.3.4 and 3.4.1).

A block: 1x1 convolution, depthwise 1x3, maximum over 2x1 pixels, depthwise 3x1, and a convolution over 1x2 pixels with that
stride, which doubles the channels. So height and width are halved at two places, and no layer narrows the flow by more than
half. Batch norm after each convolution; leaky ReLU after the first and last one of a block, ReLU after the depthwise ones.
A block without stride has no pooling and no last convolution. At last a dense layer over all pixels. He's initial
weights; the publication does not name its own.

- `cifar`: three blocks of stride 2 by default, from `width` = 32 to 64, 128, 256 channels; the first 1x1 convolution sees
  the image.
- `embedded`: a 1x1 convolution to `width` channels with ReLU before the first block. Table 3.3, blocks/width/expansion:
  12/32/4. A sub-network is blocks without stride, then one with stride.

The 1x1 convolution gives `expansion` / 2 times the sub-network's width; the publication has an expansion of 2.

| expansion | trainable parameters, `cifar` | multiply-adds at 32x32, 10 classes |
|---|---|---|
| 2 | 151,146 | 5,640,192 |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Shape, Share, a_third


class EffNet(Classifier, frozen=True, kw_only=True):
    """Options of EffNet.

    `widths`: in the embedded layout the first convolution's channels; then for each block the channels of its 1x1
    convolution and, where it has stride, of its last convolution.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    layout: Literal["cifar", "embedded"] = "cifar"
    width: Count = 32  # channels that the first of three sub-networks begins with; doubled by each of them
    blocks: Count = 3  # of all three sub-networks together
    expansion: Count = 2
    slope: Annotated[float, Meta(ge=0, lt=1)] = 0.3  # of the leaky ReLU below zero
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


def default_widths(config: EffNet) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    each = a_third("effnet", config.blocks)
    widths = [config.width] if config.layout == "embedded" else []
    for width in (config.width, 2 * config.width, 4 * config.width):
        widths += [max(1, width * config.expansion // 2)] * each + [2 * width]
    return tuple(widths)


NAMES = {"effnet": EffNet()}
SMALL = {"layout": "embedded", "width": 8, "blocks": 6, "expansion": 4}

import jax
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, ConvBN, Dense, Dropout, flatten, max_pool


def _conv(c_in: int, c_out: int, size: tuple[int, int], groups: int, act: str | None, rngs: nnx.Rngs) -> ConvBN:
    return ConvBN(c_in, c_out, size, groups=groups, act=act, momentum=0.99, epsilon=1e-3, rngs=rngs)


class _Unit(nnx.Module):
    """A block of `inner` channels; `out` of its convolution with stride, 0: there is none, and `inner` channels come out."""

    def __init__(self, c_in: int, inner: int, out: int, slope: float, rngs: nnx.Rngs) -> None:
        self.pointwise = _conv(c_in, inner, (1, 1), 1, None, rngs)
        self.across = _conv(inner, inner, (1, 3), inner, "relu", rngs)
        self.down = _conv(inner, inner, (3, 1), inner, "relu", rngs)
        self.widen = nnx.data(None)
        if out:
            self.widen = Conv(inner, out, (1, 2), strides=(1, 2), use_bias=False, rngs=rngs)
            self.bn = BatchNorm(out, momentum=0.99, epsilon=1e-3, rngs=rngs)
        self.slope = slope

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.across(nnx.leaky_relu(self.pointwise(x), self.slope))
        if self.widen is None:
            return self.down(x)
        x = self.widen(self.down(max_pool(x, (2, 1))))
        return nnx.leaky_relu(self.bn(x), self.slope)


class _Network(nnx.Module):
    def __init__(self, config: EffNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        if height < 8:
            raise UserError(f"effnet's three 2x1 maxima halve the height: it must be at least 8, got {height}x{width}")
        widths = iter(config.widths or default_widths(config))
        self.stem = nnx.data(None)
        if config.layout == "embedded":
            stem = next(widths)
            self.stem = nnx.data(_conv(channels, stem, (1, 1), 1, "relu", rngs))
            channels = stem
        units, each = [], a_third("effnet", config.blocks)
        for i in range(config.blocks):
            strided = i % each == each - 1
            inner = next(widths)
            out = next(widths) if strided else 0
            units.append(_Unit(channels, inner, out, config.slope, rngs))
            channels = out or inner
            if strided:
                height, width = height // 2, (width + 1) // 2
        self.units = nnx.List(units)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(height * width * channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = x if self.stem is None else self.stem(x)
        for unit in self.units:
            x = unit(x)
        return self.logits(self.dropout(flatten(x), rngs=rngs))


def build(config: EffNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    return _Network(config, input_shape, num_classes, rngs)
