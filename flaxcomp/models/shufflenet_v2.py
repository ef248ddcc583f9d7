"""ShuffleNet v2 (Ma et al. 2018, table 5), and its layout for 32x32 images (Greffe 2019, table 3.3).

A unit splits its channels in halves, sends one through a 1x1, a depthwise 3x3 and a 1x1 convolution, puts both together
again and shuffles. The first unit of a stage does not split: it convolves both branches and may halve height and width.
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, check_size, stage_units

_PUBLISHED = {  # width multiplier: channels of stages 2, 3 and 4, and of the last 1x1 convolution
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class ShuffleNetV2(Classifier, frozen=True, kw_only=True):
    """Options of ShuffleNet v2.

    `widths`: the first convolution's channels; then for each of the three stages its output channels (even, shared by all
    its units) and the inner channels of each unit; in the ImageNet layout at last the channels of the last convolution.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # 0.5, 1, 1.5 and 2 are published, others scale the 1.0 net
    width: Annotated[Count, Only("embedded")] = 64  # output channels of the first of three stages; then doubled
    blocks: Annotated[Count, Only("embedded")] = 12  # units of all three stages together
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation after each unit's last convolution; 0: none
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"shufflenet_v2": ShuffleNetV2()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "se": 2}


def default_widths(config: ShuffleNetV2) -> tuple[int, ...]:
    """The widths that the other options ask for.

    Raises:
        UserError: blocks that three stages cannot share equally.
    """
    last: tuple[int, ...] = ()
    if config.layout == "imagenet":
        *stages, head = _PUBLISHED.get(config.width_multiplier) or _scaled(config.width_multiplier)
        stem, last = 24, (head,)
    else:
        stem, *stages = 16, config.width, 2 * config.width, 4 * config.width
    counts = stage_units("shufflenet_v2", config.layout, config.blocks)
    inner = [width for out, units in zip(stages, counts, strict=True) for width in (out, *[out // 2] * units)]
    return (stem, *inner, *last)


def _scaled(multiplier: float) -> tuple[int, ...]:
    return (*(max(2, round(channels * multiplier / 2) * 2) for channels in (116, 232, 464)), 1024)


import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import (
    ConvBN,
    Dense,
    Dropout,
    channel_shuffle,
    flatten,
    global_avg_pool,
    max_pool,
    squeeze_excite,
)


class _Unit(nnx.Module):
    """Figure 3 (c), or with a `stride` (d): [n, h, w, c_in] to [n, h / stride, w / stride, c_out]."""

    def __init__(self, c_in: int, c_out: int, inner: int, stride: int | None, se: int, rngs: nnx.Rngs) -> None:
        half, step = c_out // 2, stride or 1
        branch_in = c_in if stride else half
        shortcut = [
            ConvBN(c_in, c_in, 3, step, groups=c_in, act=None, rngs=rngs),
            ConvBN(c_in, half, 1, rngs=rngs),
        ]
        self.shortcut = nnx.List(shortcut if stride else [])
        branch: list[nnx.Module] = [
            ConvBN(branch_in, inner, 1, rngs=rngs),
            ConvBN(inner, inner, 3, step, groups=inner, act=None, rngs=rngs),
            ConvBN(inner, half, 1, rngs=rngs),
        ]
        if gate := squeeze_excite(half, se, rngs):
            branch.append(gate)
        self.branch = nnx.List(branch)

    def __call__(self, x: jax.Array) -> jax.Array:
        half = x.shape[-1] // 2
        kept, x = (x, x) if self.shortcut else (x[..., :half], x[..., half:])
        for layer in self.shortcut:
            kept = layer(kept)
        for step in self.branch:
            x = step(x)
        return channel_shuffle(jnp.concatenate([kept, x], -1), 2)


class _Network(nnx.Module):
    def __init__(self, config: ShuffleNetV2, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        self.imagenet = config.layout == "imagenet"
        least, times = (32, 5) if self.imagenet else (4, 2)
        check_size("shufflenet_v2", input_shape, least, f"halves height and width {times} times")
        widths = iter(config.widths or default_widths(config))
        channels = next(widths)
        self.stem = ConvBN(input_shape[2], channels, 3, 2 if self.imagenet else 1, rngs=rngs)
        units = []
        for stage, count in enumerate(stage_units("shufflenet_v2", config.layout, config.blocks)):
            out = next(widths)
            if out % 2:
                raise UserError(
                    f"shufflenet_v2 stage {stage + 2}: units split the channels in halves, the width must be even, got {out}"
                )
            for i in range(count):
                stride = None if i else 1 if stage == 0 and not self.imagenet else 2
                units.append(_Unit(channels, out, next(widths), stride, config.se, rngs))
                channels = out
        self.units = nnx.List(units)
        self.last = nnx.data(None)
        if self.imagenet:
            last = next(widths)
            self.last = nnx.data(ConvBN(channels, last, 1, rngs=rngs))
            channels = last
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        if self.imagenet:
            x = max_pool(x, 3, 2, "SAME")
        for unit in self.units:
            x = unit(x)
        if self.last is not None:
            x = self.last(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def build(config: ShuffleNetV2, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    The paper names no initial weights: convolutions get He's, batch norm keeps PyTorch's momentum and epsilon. Padding is
    SAME, as TensorFlow's and TFLite's; torchvision pads symmetrically where the stride is 2.
    """
    return _Network(config, input_shape, num_classes, rngs)
