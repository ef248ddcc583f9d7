"""SqueezeNext 1.0-SqNxt-23 and its versions (Gholami et al. 2018), and its layout for 32x32 images (Greffe 2019, table 3.3).

A unit squeezes its channels twice by 1x1 convolutions, passes a 3x1 and a 1x3 convolution (their order alternates) and
expands again; its input is added, through a 1x1 convolution where the shape changes. Layers are those of the authors'
Caffe files.
"""

from typing import Annotated, Literal

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, a_third, check_size

_UNITS = {1: (6, 6, 8, 1), 2: (6, 6, 8, 1), 3: (4, 8, 8, 1), 4: (2, 10, 8, 1), 5: (2, 4, 14, 1)}
_STAGES = (32, 64, 128, 256)


class SqueezeNext(Classifier, frozen=True, kw_only=True):
    """Options of SqueezeNext.

    `widths`: the first convolution's channels; then for each stage its output channels (shared by all its units) and of each
    unit the two squeezed widths, that between the 3x1 and the 1x3 convolution, and that behind them; in the ImageNet layout
    at last the channels of the last convolution.
    """

    num_classes: Count = 1000
    input_shape: Shape = (227, 227, 3)
    layout: Literal["imagenet", "embedded"] = "imagenet"
    # how many units each stage has; from 2 on the first convolution is 5x5, not 7x7
    version: Annotated[Literal[1, 2, 3, 4, 5], Only("imagenet")] = 1
    width_multiplier: Annotated[Positive, Only("imagenet")] = 1.0  # 1, 1.5 and 2 are published
    width: Annotated[Count, Only("embedded")] = 48  # output channels of the first of three stages; then doubled
    blocks: Annotated[Count, Only("embedded")] = 9  # units of all three stages together
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"squeezenext": SqueezeNext()}
SMALL = {"layout": "embedded", "width": 16, "blocks": 6}


def default_widths(config: SqueezeNext) -> tuple[int, ...]:
    """The widths that the other options ask for.

    Raises:
        UserError: blocks that three stages cannot share equally, or stages of fewer than 4 channels.
    """
    last: tuple[int, ...] = ()
    if config.layout == "imagenet":
        stem, *stages, head = (int(channels * config.width_multiplier) for channels in (64, *_STAGES, 128))
        last = (head,)
    else:
        stem, *stages = 16, config.width, 2 * config.width, 4 * config.width
    if stages[0] < 4:
        raise UserError(f"squeezenext squeezes the channels of stage 1 to a quarter: it must have at least 4, got {stages[0]}; "
                        "raise width or width_multiplier")  # fmt: skip
    widths = [stem]
    for out, units in zip(stages, _units(config), strict=True):
        widths += [out, *[out // 2, out // 4, out // 2, out // 2] * units]
    return (*widths, *last)


def _units(config: SqueezeNext) -> tuple[int, ...]:
    if config.layout == "imagenet":
        return _UNITS[config.version]
    return (a_third("squeezenext", config.blocks),) * 3


import jax
from flax import nnx

from flaxcomp.models.layers import ConvBN, Dense, Dropout, caffe_max_pool, flatten, global_avg_pool


class _Unit(nnx.Module):
    """Figure 1: [n, h, w, c_in] to [n, h / stride, w / stride, c_out].

    Args:
        inner: channels behind each of the four inner convolutions.
        upright_first: whether the 3x1 convolution (3 high) goes before the 1x3 one.
        first: of its stage; its input passes a convolution, also where the channels happen to agree.
    """

    def __init__(
        self,
        c_in: int,
        inner: tuple[int, int, int, int],
        c_out: int,
        stride: int,
        upright_first: bool,
        first: bool,
        rngs: nnx.Rngs,
    ) -> None:
        kernels = ((3, 1), (1, 3)) if upright_first else ((1, 3), (3, 1))
        a, b, c, d = inner
        init = nnx.initializers.xavier_uniform()
        self.branch = nnx.List([
            ConvBN(c_in, a, 1, stride, kernel_init=init, rngs=rngs),
            ConvBN(a, b, 1, kernel_init=init, rngs=rngs),
            ConvBN(b, c, kernels[0], kernel_init=init, rngs=rngs),
            ConvBN(c, d, kernels[1], kernel_init=init, rngs=rngs),
            ConvBN(d, c_out, 1, kernel_init=init, rngs=rngs),
        ])  # fmt: skip
        self.shortcut = nnx.data(ConvBN(c_in, c_out, 1, stride, kernel_init=init, rngs=rngs) if first else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.branch:
            y = layer(y)
        return y + (x if self.shortcut is None else self.shortcut(x))  # both behind a ReLU: another would change nothing


class _Network(nnx.Module):
    def __init__(self, config: SqueezeNext, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        self.imagenet = config.layout == "imagenet"
        # 35: (35 - 7) / 2 + 1 = 15 behind the first convolution, 7 behind the pool, then 4, 2, 1
        least, times = (35, 5) if self.imagenet else (4, 2)
        check_size("squeezenext", input_shape, least, f"halves height and width {times} times")
        widths = iter(config.widths or default_widths(config))
        channels, init = next(widths), nnx.initializers.xavier_uniform()
        size, stride, padding = (7 if config.version == 1 else 5, 2, "VALID") if self.imagenet else (3, 1, "SAME")
        self.stem = ConvBN(input_shape[2], channels, size, stride, padding=padding, kernel_init=init, rngs=rngs)
        units: list[nnx.Module] = []
        for stage, count in enumerate(_units(config)):
            out = next(widths)
            for i in range(count):
                inner = (next(widths), next(widths), next(widths), next(widths))
                units.append(_Unit(channels, inner, out, 2 if stage and not i else 1, len(units) % 2 == 0, i == 0, rngs))
                channels = out
        self.units = nnx.List(units)
        self.last = nnx.data(None)
        if self.imagenet:
            last = next(widths)
            self.last = nnx.data(ConvBN(channels, last, 1, kernel_init=init, rngs=rngs))
            channels = last
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(channels, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        if self.imagenet:
            x = caffe_max_pool(x)
        for unit in self.units:
            x = unit(x)
        if self.last is not None:
            x = self.last(x)
        return self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))


def build(config: SqueezeNext, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Weights start as in the authors' files (Xavier, batch norm at 1 and 0); momentum and epsilon of batch norm are PyTorch's.
    """
    return _Network(config, input_shape, num_classes, rngs)
