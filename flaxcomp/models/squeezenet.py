"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, table 1; 1.1 is from the authors' release), and a layout for 32x32 images.

A fire module squeezes the channels by a 1x1 convolution and expands them by a 1x1 and a 3x3 convolution side by side, all
with ReLU. The ImageNet layout halves by 3x3 max-pools and ends in a 1x1 convolution with ReLU and a global average.

The embedded layout is that of Greffe 2019, section 3.4, in which he compares his architectures: 3x3 convolution of 16 channels,
three sub-networks of equally many modules, channels doubled and pixels halved between them, average pool, dense layer. He
says nothing on SqueezeNet's modules in it: here they keep the ratios of version 1.0 (one eighth is squeezed, half of the
expansion is 3x3), halving is SqueezeNet's own max-pool, and batch norm is on, because his learning rate of 0.1 needs it.
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, a_third, check_size, scaled

_FIRES = (128, 128, 256, 256, 384, 384, 512, 512)  # outputs of the fire modules, both versions
_STEMS = {"1.0": (96, 7), "1.1": (64, 3)}  # channels and kernel of the first convolution
_LEAST = {"1.0": 21, "1.1": 17}  # pixels of the image's sides
_POOLS = {"1.0": (0, 3, 7), "1.1": (0, 2, 4)}  # fire modules that a max-pool comes before


class SqueezeNet(Classifier, frozen=True, kw_only=True):
    """Options of SqueezeNet.

    `widths`: the first convolution's channels; then for each fire module its squeezed, 1x1-expanded and 3x3-expanded channels.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    version: Annotated[Literal["1.0", "1.1"], Only("imagenet")] = "1.0"
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # of all channels; rounded to multiples of 8
    width: Annotated[Count, Meta(multiple_of=8), Only("embedded")] = 64  # output channels of the first of three sub-networks
    blocks: Annotated[Count, Only("embedded")] = 9  # fire modules of all three together
    norm: Literal["none", "batch"] | None = None  # batch norm before each ReLU; null: none in imagenet, batch in embedded
    se: Annotated[int, Meta(ge=0)] = 0  # reduction of the Squeeze-and-Excitation after each fire module; 0: none
    dropout: Share = 0.5  # share dropped before the last layer
    widths: tuple[Count, ...] = ()


NAMES = {"squeezenet": SqueezeNet()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6, "se": 2}


def default_widths(config: SqueezeNet) -> tuple[int, ...]:
    """The widths that the other options ask for.

    Raises:
        UserError: blocks that three sub-networks cannot share equally.
    """
    if config.layout == "imagenet":
        fires = [width for out in _FIRES for width in (out // 8, out // 2, out // 2)]
        return tuple(scaled(width, config.width_multiplier) for width in (_STEMS[config.version][0], *fires))
    outs = [config.width * 2**i for i in range(3) for _ in range(a_third("squeezenet", config.blocks))]
    return (16, *(width for out in outs for width in (out // 8, out // 2, out // 2)))


import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, Dense, Dropout, caffe_max_pool, flatten, global_avg_pool, squeeze_excite


class _Convolution(nnx.Module):
    """Convolution with bias, or without it and with batch norm; ReLU."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int, padding: str, batch: bool, rngs: nnx.Rngs) -> None:
        self.conv = Conv(c_in, c_out, (size, size), strides=(stride, stride), padding=padding, use_bias=not batch,
                         kernel_init=nnx.initializers.he_uniform(), rngs=rngs)  # fmt: skip
        self.bn = nnx.data(BatchNorm(c_out, momentum=0.9, rngs=rngs) if batch else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return nnx.relu(x if self.bn is None else self.bn(x))


class _Fire(nnx.Module):
    """Figure 2: [n, h, w, c_in] to [n, h, w, small + large]."""

    def __init__(self, c_in: int, widths: tuple[int, int, int], batch: bool, se: int, rngs: nnx.Rngs) -> None:
        squeezed, small, large = widths
        self.squeeze = _Convolution(c_in, squeezed, 1, 1, "SAME", batch, rngs)
        self.small = _Convolution(squeezed, small, 1, 1, "SAME", batch, rngs)
        self.large = _Convolution(squeezed, large, 3, 1, "SAME", batch, rngs)
        self.se = nnx.data(squeeze_excite(small + large, se, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.squeeze(x)
        x = jnp.concatenate([self.small(x), self.large(x)], -1)
        return x if self.se is None else self.se(x)


class _Network(nnx.Module):
    def __init__(self, config: SqueezeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        self.imagenet = config.layout == "imagenet"
        check_size("squeezenet", input_shape, _LEAST[config.version] if self.imagenet else 4, "shrinks its input")
        batch = (config.norm or ("none" if self.imagenet else "batch")) == "batch"
        channels, *rest = config.widths or default_widths(config)
        size, stride, padding = (_STEMS[config.version][1], 2, "VALID") if self.imagenet else (3, 1, "SAME")
        self.stem = _Convolution(input_shape[2], channels, size, stride, padding, batch, rngs)
        fires = []
        for squeezed, small, large in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            fires.append(_Fire(channels, (squeezed, small, large), batch, config.se, rngs))
            channels = small + large
        self.fires = nnx.List(fires)
        self.pools = _POOLS[config.version] if self.imagenet else (len(fires) // 3, len(fires) // 3 * 2)
        self.dropout = Dropout(config.dropout)
        self.logits: Conv | Dense
        if self.imagenet:
            self.logits = Conv(channels, num_classes, (1, 1), kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        else:
            self.logits = Dense(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for i, fire in enumerate(self.fires):
            x = fire(caffe_max_pool(x) if i in self.pools else x)
        if self.imagenet:
            return flatten(global_avg_pool(nnx.relu(self.logits(self.dropout(x, rngs=rngs)))))
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def build(config: SqueezeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Initial weights are torchvision's: He uniform, the last convolution normal of scale 0.01. As published, the ImageNet
    layout's logits pass a ReLU and are never negative.
    """
    return _Network(config, input_shape, num_classes, rngs)
