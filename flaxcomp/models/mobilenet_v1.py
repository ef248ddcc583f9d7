"""MobileNet v1 (Howard et al. 2017, table 1), and its layouts for small images.

Blocks of a depthwise 3x3 and a pointwise convolution, batch norm and activation after each. The width multiplier scales
every layer's channels, the resolution multiplier is the input's size (`input_shape`). He's initial weights: the publication
names none, and its code's normal ones of deviation 0.09 let the signal die out until batch norm has seen some images.

- `imagenet`: 3x3x32 at stride 2, then 64, 128/2, 128, 256/2, 256, 512/2, five times 512, 1024/2, 1024 (/2: stride 2).
- `cifar`: the same layers, so the same weights, but the first convolution keeps the size. For images of 16 to 32 pixels
  (Chiang 2017, 4.3.3.1: multipliers 1, 0.75, 0.5, 0.25; the strides are not told there).
- `embedded` (Greffe 2019, 3.4.1): 3x3x16, three sub-networks of equal depth, of `width`, 2 `width` and 4 `width` channels,
  the second and third begin with stride 2. Table 3.3: blocks/width 15/32, 12/64, 15/100; figure 3.21 adds `se: 2`.

| width multiplier | trainable parameters, 1000 classes | multiply-adds at 224x224 |
|---|---|---|
| 1.0 | 4,231,976 | 569 million |
| 0.75 | 2,585,560 | 325 million |
| 0.5 | 1,331,592 | 149 million |
| 0.25 | 470,072 | 41 million |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Activation, Classifier, Count, Only, Positive, Shape, Share, a_third, scaled

_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


class MobileNetV1(Classifier, frozen=True, kw_only=True):
    """Options of MobileNet v1.

    `widths`: the first convolution's channels; then for each block the channels of its pointwise convolution.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar", "embedded"] = "imagenet"
    width_multiplier: Annotated[Positive, Only("imagenet", "cifar")] = 1.0  # scales all channels, rounded to multiples of 8
    width: Annotated[Count, Only("embedded")] = 32  # channels of the first of three sub-networks; then doubled
    blocks: Annotated[Count, Only("embedded")] = 15  # blocks of all three sub-networks together
    activation: Activation = "relu"  # the published code has relu6
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation that ends each block; 0: none
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


def default_widths(config: MobileNetV1) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    if config.layout == "embedded":
        each = a_third("mobilenet_v1", config.blocks)
        return (16, *(config.width * 2**i for i in range(3) for _ in range(each)))
    return tuple(scaled(channels, config.width_multiplier) for channels in (32, *_CHANNELS))


def _strides(config: MobileNetV1) -> tuple[int, ...]:
    """Of the first convolution and of each block."""
    if config.layout == "embedded":
        each = a_third("mobilenet_v1", config.blocks)
        return (1, *(2 if i and not j else 1 for i in range(3) for j in range(each)))
    return (2 if config.layout == "imagenet" else 1, *_STRIDES)


NAMES = {"mobilenet_v1": MobileNetV1()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "se": 2}

import itertools

import jax
from flax import nnx

from flaxcomp.models.layers import ConvBN, Dense, Dropout, activation, flatten, global_avg_pool, squeeze_excite


def _conv(c_in: int, c_out: int, size: int, stride: int = 1, *, groups: int = 1, act: str, rngs: nnx.Rngs) -> ConvBN:
    return ConvBN(c_in, c_out, size, stride, groups=groups, act=act, momentum=0.99, epsilon=1e-3, rngs=rngs)


class _Separable(nnx.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, act: str, se: int, rngs: nnx.Rngs) -> None:
        self.depthwise = _conv(c_in, c_in, 3, stride, groups=c_in, act=act, rngs=rngs)
        self.pointwise = _conv(c_in, c_out, 1, act=act, rngs=rngs)
        self.se = nnx.data(squeeze_excite(c_out, se, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pointwise(self.depthwise(x))
        return x if self.se is None else self.se(x)


class _Network(nnx.Module):
    def __init__(self, config: MobileNetV1, c_in: int, num_classes: int, rngs: nnx.Rngs) -> None:
        activation(config.activation)  # refuses an unknown name before anything is built
        act, widths, strides = config.activation, config.widths or default_widths(config), _strides(config)
        self.stem = _conv(c_in, widths[0], 3, strides[0], act=act, rngs=rngs)
        ends = zip(itertools.pairwise(widths), strides[1:], strict=True)
        self.blocks = nnx.List([_Separable(c, c_out, stride, act, config.se, rngs) for (c, c_out), stride in ends])
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(widths[-1], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def build(config: MobileNetV1, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    return _Network(config, input_shape[2], num_classes, rngs)
