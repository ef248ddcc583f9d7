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

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Activation, Classifier, Count, Positive, Shape, Share, scaled

_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


class MobileNetV1(Classifier, frozen=True, kw_only=True):
    """Options of MobileNet v1.

    `widths`: the first convolution's channels; then for each block the channels of its pointwise convolution and, with
    `se`, the units in the middle of its Squeeze-and-Excitation.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar", "embedded"] = "imagenet"
    width_multiplier: Positive = 1.0  # imagenet, cifar: scales all channels, rounded to multiples of 8
    width: Count = 32  # embedded: channels of the first of three sub-networks; doubled in each following one
    blocks: Count = 15  # embedded: blocks of all three sub-networks together
    activation: Activation = "relu"  # the published code has relu6
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation that ends each block; 0: none
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        _plan(self)  # refuses what cannot be built


class _Block(NamedTuple):
    stride: int
    out: int
    squeezed: int  # units of the Squeeze-and-Excitation; 0: there is none


def _plan(config: MobileNetV1) -> tuple[int, int, list[_Block]]:
    """The first convolution's channels and stride, and the blocks."""
    stem, stem_stride, blocks = _published(config) if config.layout != "embedded" else _embedded(config)
    if not config.widths:
        return stem, stem_stride, blocks
    wanted = 1 + len(blocks) * (2 if config.se else 1)
    if len(config.widths) != wanted:
        raise UserError(f"mobilenet_v1 with these options has {wanted} widths (first convolution, then each block's), "
                        f"got {len(config.widths)}")  # fmt: skip
    stem, *rest = config.widths
    outs, squeezed = (rest[::2], rest[1::2]) if config.se else (rest, [0] * len(rest))
    return (
        stem,
        stem_stride,
        [_Block(b.stride, *both) for b, both in zip(blocks, zip(outs, squeezed, strict=True), strict=True)],
    )


def _published(config: MobileNetV1) -> tuple[int, int, list[_Block]]:
    outs = [scaled(channels, config.width_multiplier) for channels in _CHANNELS]
    blocks = [_block(config, stride, out) for stride, out in zip(_STRIDES, outs, strict=True)]
    return scaled(32, config.width_multiplier), 2 if config.layout == "imagenet" else 1, blocks


def _embedded(config: MobileNetV1) -> tuple[int, int, list[_Block]]:
    each, rest = divmod(config.blocks, 3)
    if rest:
        raise UserError(
            f"mobilenet_v1 shares its blocks among three sub-networks: blocks must be a multiple of 3, got {config.blocks}"
        )
    return 16, 1, [_block(config, 2 if i and not j else 1, config.width * 2**i) for i in range(3) for j in range(each)]


def _block(config: MobileNetV1, stride: int, out: int) -> _Block:
    return _Block(stride, out, max(1, out // config.se) if config.se else 0)


def default_widths(config: MobileNetV1) -> tuple[int, ...]:
    """The widths in use: those given, else those that the other options ask for."""
    stem, _, blocks = _plan(config)
    return (stem, *(width for block in blocks for width in ((block.out, block.squeezed) if block.squeezed else (block.out,))))


NAMES = {"mobilenet_v1": MobileNetV1()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "se": 2}

import jax
from flax import nnx

from flaxcomp.models.layers import ConvBN, Dense, Dropout, SqueezeExcite, activation, flatten, global_avg_pool


def _conv(c_in: int, c_out: int, size: int, stride: int = 1, *, groups: int = 1, act: str, rngs: nnx.Rngs) -> ConvBN:
    return ConvBN(c_in, c_out, size, stride, groups=groups, act=act, momentum=0.99, epsilon=1e-3, rngs=rngs)


class _Separable(nnx.Module):
    def __init__(self, c_in: int, block: _Block, act: str, rngs: nnx.Rngs) -> None:
        self.depthwise = _conv(c_in, c_in, 3, block.stride, groups=c_in, act=act, rngs=rngs)
        self.pointwise = _conv(c_in, block.out, 1, act=act, rngs=rngs)
        self.se = nnx.data(SqueezeExcite(block.out, block.squeezed, rngs=rngs) if block.squeezed else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pointwise(self.depthwise(x))
        return x if self.se is None else self.se(x)


class _Network(nnx.Module):
    def __init__(self, config: MobileNetV1, c_in: int, num_classes: int, rngs: nnx.Rngs) -> None:
        activation(config.activation)  # refuses an unknown name before anything is built
        stem, stride, blocks = _plan(config)
        self.stem = _conv(c_in, stem, 3, stride, act=config.activation, rngs=rngs)
        outs = [stem, *(block.out for block in blocks)]
        self.blocks = nnx.List([_Separable(c, block, config.activation, rngs) for c, block in zip(outs, blocks, strict=False)])
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(outs[-1], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def build(config: MobileNetV1, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    return _Network(config, input_shape[2], num_classes, rngs)
