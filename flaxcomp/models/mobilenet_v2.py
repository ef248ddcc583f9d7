"""MobileNet v2 (Sandler et al. 2018, table 2), and its layout for 32x32 images (Greffe 2019, 3.4.1).

Inverted residual blocks: a pointwise convolution expands, a depthwise 3x3 one filters, a pointwise one without activation
projects; the input is added where its shape is that of the output. ReLU6, batch norm after each convolution.
He's initial weights: the publication names none, and its code's normal ones of deviation 0.09 let the signal die out until
batch norm has seen some images.

- `imagenet`: 3x3x32 at stride 2; blocks of expansion, channels, repetitions, first stride: 1 16 1 1, 6 24 2 2, 6 32 3 2,
  6 64 4 2, 6 96 3 1, 6 160 3 2, 6 320 1 1; 1x1x1280 (not scaled by width multipliers below 1).
- `embedded`: 3x3x16, three sub-networks of equal depth, of `width`, 2 `width` and 4 `width` channels, the second and third
  begin with stride 2. Table 3.3, blocks/width/expansion, dropout 0.2: 9/16/4, 9/24/4, 12/24/6; figure 3.21 adds `se: 2`.

| width multiplier | trainable parameters, 1000 classes | multiply-adds at 224x224 |
|---|---|---|
| 1.4 | 6,108,776 | 582 million |
| 1.3 | 5,386,792 | 509 million |
| 1.0 | 3,504,872 | 300 million |
| 0.75 | 2,636,424 | 209 million |
| 0.5 | 1,968,680 | 97 million |
| 0.35 | 1,677,128 | 59 million |
"""

from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from flaxcomp.models.config import Activation, Classifier, Count, Only, Positive, Shape, Share, scaled
from flaxcomp.models.inverted_residual import Block, Plan, Row, embedded_rows, make_plan

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(Classifier, frozen=True, kw_only=True):
    """Options of MobileNet v2.

    `widths`: the first convolution's channels; then for each block the expanded channels (not for an expansion of 1) and its
    output channels (not where its input is added: those are the input's); in the ImageNet layout at last the channels of the
    last convolution.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # scales all channels, rounded to multiples of 8
    width: Annotated[Count, Only("embedded")] = 16  # channels of the first of three sub-networks; then doubled
    blocks: Annotated[Count, Only("embedded")] = 9  # blocks of all three sub-networks together
    expansion: Count = 6  # of all blocks; the first one of the ImageNet layout has 1
    activation: Activation = "relu6"
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation that ends each block; 0: none
    dropout: Share = 0.2  # share dropped before the logits
    widths: tuple[Count, ...] = ()


def _plan(config: MobileNetV2) -> Plan:
    if config.layout == "imagenet":
        multiplier, rows = config.width_multiplier, []
        for expansion, channels, repeats, stride in _STAGES:
            expansion, out = 1 if expansion == 1 else config.expansion, scaled(channels, multiplier)
            rows += [Row(3, 1 if i else stride, expansion, out, config.se) for i in range(repeats)]
        return make_plan(scaled(32, multiplier), 2, rows, "out", scaled(1280, max(1.0, multiplier)))
    return make_plan(16, 1, embedded_rows("mobilenet_v2", config.blocks, config.width, config.expansion, config.se), "out")


def default_widths(config: MobileNetV2) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    return _plan(config).widths()


NAMES = {"mobilenet_v2": MobileNetV2()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "expansion": 2, "se": 2}

import jax
from flax import nnx

from flaxcomp.models.layers import ConvBN, Dense, Dropout, activation, flatten, global_avg_pool, squeeze_excite


class Initializers(NamedTuple):
    """How the kernels begin."""

    conv: Any = nnx.initializers.he_normal()
    depthwise: Any = nnx.initializers.he_normal()
    dense: Any = nnx.initializers.lecun_normal()


class InvertedResidual(nnx.Module):
    """One block: [n, h, w, c_in] to [n, h / stride, w / stride, block.out]."""

    def __init__(self, c_in: int, block: Block, gate: str, act: str, init: Initializers, rngs: nnx.Rngs) -> None:
        hidden = block.hidden or c_in
        self.expand = nnx.data(_conv(c_in, hidden, 1, act=act, init=init.conv, rngs=rngs) if block.hidden else None)
        self.depthwise = _conv(
            hidden, hidden, block.kernel, block.stride, groups=hidden, act=act, init=init.depthwise, rngs=rngs
        )
        self.project = _conv(hidden, block.out, 1, act=None, init=init.conv, rngs=rngs)
        gated, of = (hidden, c_in) if gate == "hidden" else (block.out, block.out)
        self.se = nnx.data(squeeze_excite(gated, block.se, rngs, of=of))
        self.gate, self.residual = gate, block.residual

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        if self.se is not None and self.gate == "hidden":
            y = self.se(y)
        y = self.project(y)
        if self.se is not None and self.gate == "out":
            y = self.se(y)
        return x + y if self.residual else y


class InvertedResiduals(nnx.Module):
    """A network as its plan says: [n, h, w, c_in] to logits [n, num_classes]."""

    def __init__(
        self, plan: Plan, c_in: int, num_classes: int, *, act: str, dropout: float, init: Initializers, rngs: nnx.Rngs
    ) -> None:
        activation(act)  # refuses an unknown name before anything is built
        self.stem = _conv(c_in, plan.stem, 3, plan.stem_stride, act=act, init=init.conv, rngs=rngs)
        outs = [plan.stem, *(block.out for block in plan.blocks)]
        self.blocks = nnx.List(
            [InvertedResidual(c, block, plan.gate, act, init, rngs) for c, block in zip(outs, plan.blocks, strict=False)]
        )
        self.head = nnx.data(_conv(outs[-1], plan.head, 1, act=act, init=init.conv, rngs=rngs) if plan.head else None)
        self.dropout = Dropout(dropout)
        self.logits = Dense(plan.head or outs[-1], num_classes, kernel_init=init.dense, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = x if self.head is None else self.head(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def _conv(
    c_in: int, c_out: int, size: int, stride: int = 1, *, groups: int = 1, act: str | None, init: Any, rngs: nnx.Rngs
) -> ConvBN:
    # The published code's momentum of 0.997 needs thousands of steps; 0.99 is MnasNet's and the embedded study's.
    return ConvBN(c_in, c_out, size, stride, groups=groups, act=act, momentum=0.99, epsilon=1e-3, kernel_init=init, rngs=rngs)


def build(config: MobileNetV2, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    return InvertedResiduals(
        _plan(config).with_widths(config.widths),
        input_shape[2],
        num_classes,
        act=config.activation,
        dropout=config.dropout,
        init=Initializers(),
        rngs=rngs,
    )
