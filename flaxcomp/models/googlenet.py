"""GoogLeNet, Inception v1 (Szegedy et al. 2015, table 1), and its form for small images.

An inception module puts four branches side by side: 1x1, 1x1 then 3x3, 1x1 then 5x5, max-pool then 1x1; ReLU after every
convolution. Two auxiliary heads on modules 4a and 4d can help training; they run in training mode only. The default is the
network whose size torchvision publishes, here that without heads (with them `{auxiliary: true}` has 13,004,888 parameters).

Defaults are those of the weights that Google released (TF-Slim's inception_v1, torchvision's googlenet): batch norm, and 3x3
kernels where the paper has 5x5. The paper's own: `{norm: none, large_kernel: 5}`. Its local response normalisation is left out:
batch norm does its work (see `tf_cifar.local_response_norm` for a form that int8 accepts).

Distill-Net's 1107 MFLOPs are the multiply-adds of the nine modules alone, as the paper's table 1 rounds them.

The cifar layout, common for 32x32 images, has one 3x3 convolution of stride 1 and no max-pool before the first module.
"""

from typing import Annotated, Literal

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, check_size, scaled

_STEM = {"imagenet": (64, 64, 192), "cifar": (192,)}
_MODULES = {  # 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
_AUXILIARY = (128, 1024)  # channels of a head's 1x1 convolution, units of its hidden dense layer


class GoogLeNet(Classifier, frozen=True, kw_only=True):
    """Options of GoogLeNet.

    `widths`: channels of the first convolutions (three, or one in the cifar layout); then for each of the nine modules 1x1,
    3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; then for each auxiliary head its convolution's and its hidden layer's.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar"] = "imagenet"
    norm: Literal["batch", "none"] = "batch"
    large_kernel: Literal[3, 5] = 3  # of the third branch
    auxiliary: bool = False  # heads on modules 4a and 4d, in training mode only
    auxiliary_weight: Annotated[Share, Only(True, option="auxiliary")] = 0.3  # of each head's loss beside the main one's 1
    auxiliary_dropout: Annotated[Share, Only(True, option="auxiliary")] = 0.7  # share dropped before an auxiliary head's logits
    width_multiplier: Positive = 1.0  # of all channels and hidden units; rounded to multiples of 8
    dropout: Share = 0.4  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"googlenet": GoogLeNet()}
SMALL = {"layout": "cifar", "width_multiplier": 0.0625}


def default_widths(config: GoogLeNet) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    modules = [width for module in _MODULES.values() for width in module]
    heads = _AUXILIARY * 2 if config.auxiliary else ()
    return tuple(scaled(width, config.width_multiplier) for width in (*_STEM[config.layout], *modules, *heads))


import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, Dense, Dropout, avg_pool, flatten, global_avg_pool, max_pool

_CONVOLUTION_INIT = nnx.initializers.he_normal()


class _Convolution(nnx.Module):
    """Convolution with bias, or without it and with batch norm; ReLU."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int, batch: bool, rngs: nnx.Rngs) -> None:
        self.conv = Conv(c_in, c_out, (size, size), strides=(stride, stride), use_bias=not batch,
                         kernel_init=_CONVOLUTION_INIT, rngs=rngs)  # fmt: skip
        self.bn = nnx.data(BatchNorm(c_out, momentum=0.9, epsilon=1e-3, rngs=rngs) if batch else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(x)
        return nnx.relu(x if self.bn is None else self.bn(x))


class _Inception(nnx.Module):
    """Figure 2 (b): [n, h, w, c_in] to [n, h, w, widths 0 + 2 + 4 + 5]."""

    def __init__(self, c_in: int, widths: tuple[int, ...], large: int, batch: bool, rngs: nnx.Rngs) -> None:
        only, reduce3, out3, reduce5, out5, pooled = widths
        self.branch1 = _Convolution(c_in, only, 1, 1, batch, rngs)
        self.reduce3 = _Convolution(c_in, reduce3, 1, 1, batch, rngs)
        self.branch3 = _Convolution(reduce3, out3, 3, 1, batch, rngs)
        self.reduce5 = _Convolution(c_in, reduce5, 1, 1, batch, rngs)
        self.branch5 = _Convolution(reduce5, out5, large, 1, batch, rngs)
        self.branch_pool = _Convolution(c_in, pooled, 1, 1, batch, rngs)
        self.c_out = only + out3 + out5 + pooled

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = self.branch_pool(max_pool(x, 3, 1, "SAME"))
        return jnp.concatenate([self.branch1(x), self.branch3(self.reduce3(x)), self.branch5(self.reduce5(x)), pooled], -1)


class _Auxiliary(nnx.Module):
    """Section 5's head: [n, h, w, c_in] to logits [n, classes]; runs in training mode only."""

    def __init__(
        self, size: tuple[int, int], c_in: int, widths: tuple[int, int], config: GoogLeNet, classes: int, rngs: nnx.Rngs
    ) -> None:
        if min(size) < 5:
            raise UserError(f"googlenet's auxiliary heads average 5x5 pixels behind module 4a: the image must be larger, or "
                            f"auxiliary false; got {size[0]}x{size[1]} pixels there")  # fmt: skip
        channels, hidden = widths
        pixels = ((size[0] - 5) // 3 + 1) * ((size[1] - 5) // 3 + 1)
        self.conv = _Convolution(c_in, channels, 1, 1, config.norm == "batch", rngs)
        self.hidden = Dense(pixels * channels, hidden, kernel_init=_CONVOLUTION_INIT, rngs=rngs)
        self.dropout = Dropout(config.auxiliary_dropout)
        self.logits = Dense(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = nnx.relu(self.hidden(flatten(self.conv(avg_pool(x, 5, 3)))))
        return self.logits(self.dropout(x, rngs=rngs))


class _Network(nnx.Module):
    def __init__(self, config: GoogLeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        self.imagenet = config.layout == "imagenet"
        batch = config.norm == "batch"
        check_size("googlenet", input_shape, 15 if self.imagenet else 4, f"shrinks its input (layout {config.layout})")
        widths = iter(config.widths or default_widths(config))
        stem = []
        for size, stride in ((7, 2), (1, 1), (3, 1)) if self.imagenet else ((3, 1),):
            stem.append(_Convolution(channels, next(widths), size, stride, batch, rngs))
            channels = stem[-1].conv.out_features
        self.stem = nnx.List(stem)
        modules = []
        for _ in _MODULES:
            modules.append(_Inception(channels, tuple(next(widths) for _ in range(6)), config.large_kernel, batch, rngs))
            channels = modules[-1].c_out
        self.inceptions = nnx.Dict(dict(zip(_MODULES, modules, strict=True)))
        step = 16 if self.imagenet else 2
        self.heads = nnx.Dict({
            name: _Auxiliary((-(-height // step), -(-width // step)), self.inceptions[name].c_out,
                             (next(widths), next(widths)), config, num_classes, rngs)
            for name in (("4a", "4d") if config.auxiliary else ())
        })  # fmt: skip
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        for i, convolution in enumerate(self.stem):
            x = convolution(x)
            if self.imagenet and i != 1:
                x = max_pool(x, 3, 2, "SAME")
        auxiliary = []
        for name in _MODULES:
            if name in ("4a", "5a"):
                x = max_pool(x, 3, 2, "SAME")
            x = self.inceptions[name](x)
            if name in self.heads and not self.dropout.deterministic:
                auxiliary.append(self.heads[name](x, rngs))
        logits = self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))
        return (logits, auxiliary) if auxiliary else logits


def build(config: GoogLeNet, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Initial weights are He's: the paper names none. Momentum and epsilon are torchvision's (0.1 there, 1e-3). Padding is SAME.
    """
    return _Network(config, input_shape, num_classes, rngs)
