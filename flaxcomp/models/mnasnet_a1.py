"""MnasNet-A1 (Tan et al. 2019, figure 7), and its layout for 32x32 images (Greffe 2019, 3.4.1).

The inverted residual blocks of MobileNet v2, with kernels, expansions and Squeeze-and-Excitation found by search. ReLU.

- `imagenet`: 3x3x32 at stride 2; blocks of kernel, expansion, channels, repetitions, first stride: 3 1 16 1 1, 3 6 24 2 2,
  5 3 40 3 2 (SE), 3 6 80 4 2, 3 6 112 2 1 (SE), 5 6 160 3 2 (SE), 3 6 320 1 1; 1x1x1280 (not scaled by width multipliers).
  SE scales the expanded channels, with a fourth of the block's input channels in its middle.
- `embedded`: MobileNet v2's, with 5x5 depthwise kernels in all blocks of the second and third sub-network but their last,
  and half the expansion in the first block of all. Table 3.3, blocks/width/expansion, ReLU6, dropout 0.2: 9/16/4, 12/16/6,
  12/24/6; `se: 0` and, in figure 3.21, `se: 2`, which ends each block.

| width multiplier | trainable parameters, 1000 classes | multiply-adds at 224x224 |
|---|---|---|
| 1.0 | 3,887,038 | 312 million |
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Activation, Classifier, Count, Only, Positive, Shape, Share, scaled
from flaxcomp.models.inverted_residual import Plan, Row, embedded_rows, make_plan

_STAGES = (  # kernel, expansion, channels, repetitions, first stride, Squeeze-and-Excitation
    (3, 1, 16, 1, 1, False), (3, 6, 24, 2, 2, False), (5, 3, 40, 3, 2, True), (3, 6, 80, 4, 2, False),
    (3, 6, 112, 2, 1, True), (5, 6, 160, 3, 2, True), (3, 6, 320, 1, 1, False),
)  # fmt: skip


class MnasNetA1(Classifier, frozen=True, kw_only=True):
    """Options of MnasNet-A1.

    `widths`: the first convolution's channels; then for each block the expanded channels (not for an expansion of 1) and its
    output channels (not where its input is added: those are the input's); in the ImageNet layout at last the channels of the
    last convolution.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # scales all channels but the last, rounded to multiples of 8
    width: Annotated[Count, Only("embedded")] = 16  # channels of the first of three sub-networks; then doubled
    blocks: Annotated[Count, Only("embedded")] = 9  # blocks of all three sub-networks together
    expansion: Annotated[Count, Only("embedded")] = 6  # of all blocks but the first
    activation: Activation = "relu"
    se: Annotated[int, Meta(ge=0)] = 4  # reduction of the Squeeze-and-Excitation; 0: none
    dropout: Share = 0.2  # share dropped before the logits
    widths: tuple[Count, ...] = ()


def _plan(config: MnasNetA1) -> Plan:
    return _published(config) if config.layout == "imagenet" else _embedded(config)


def _published(config: MnasNetA1) -> Plan:
    multiplier, rows = config.width_multiplier, []
    for kernel, expansion, channels, repeats, stride, gated in _STAGES:
        se = config.se if gated else 0
        rows += [Row(kernel, 1 if i else stride, expansion, scaled(channels, multiplier), se) for i in range(repeats)]
    return make_plan(scaled(32, multiplier), 2, rows, "hidden", 1280)


def _embedded(config: MnasNetA1) -> Plan:
    rows = embedded_rows("mnasnet_a1", config.blocks, config.width, config.expansion, config.se)
    each = config.blocks // 3
    large = [i >= each and i % each != each - 1 for i in range(config.blocks)]
    rows = [row._replace(kernel=5 if five else 3) for row, five in zip(rows, large, strict=True)]
    rows[0] = rows[0]._replace(expansion=config.expansion / 2)
    return make_plan(16, 1, rows, "out")


def default_widths(config: MnasNetA1) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    return _plan(config).widths()


NAMES = {"mnasnet_a1": MnasNetA1()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "expansion": 4, "se": 2}

from flax import nnx

from flaxcomp.models.mobilenet_v2 import Initializers, InvertedResiduals


def build(config: MnasNetA1, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    scaling = nnx.initializers.variance_scaling  # as the published code has it; a depthwise kernel's fan-in is its fan-out
    init = Initializers(
        scaling(2.0, "fan_out", "normal"), scaling(2.0, "fan_in", "normal"), scaling(1 / 3, "fan_out", "uniform")
    )
    plan = _plan(config).with_widths(config.widths)
    return InvertedResiduals(
        plan, input_shape[2], num_classes, act=config.activation, dropout=config.dropout, init=init, rngs=rngs
    )
