"""NASNet-A (Zoph et al. 2018, figure 4 and appendix A): mobile, 4 @ 1056, by default; large and CIFAR layouts by options.

Cells see the outputs of the two cells before them. A normal cell keeps height and width, a reduction cell halves them. Layers
are those of keras.applications.nasnet, which follows the authors' code.
"""

from typing import Annotated, Literal

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Shape, Share, check_size


class NasNetA(Classifier, frozen=True, kw_only=True):
    """Options of NASNet-A, "cells @ filters" in the paper: mobile 4 @ 1056, large 6 @ 4032, CIFAR 6 @ 768.

    `widths`: the first convolution's channels, then of each cell in order: in a normal cell its own width and those of its
    first and second sum; in a reduction cell its own and that of its second input (the very first has none); then in both the
    inner channels of its five separable convolutions.
    """

    num_classes: Count = 1000
    input_shape: Shape = (224, 224, 3)
    layout: Literal["imagenet", "cifar"] = "imagenet"  # cifar: no reduction cells before the first stage
    cells: Count = 4  # normal cells in each of the three stages
    filters: Count = 1056  # channels that the logits see; a cell of the first stage is 1/24 as wide
    # channels of the first convolution; large: 96; layout cifar has three times a cell's width instead
    stem: Annotated[Count, Only("imagenet")] = 32
    skip_reduction: bool = False  # large: the cell behind a reduction sees the input of the one before, not of the reduction
    drop_path: Share = 0.0  # share of paths dropped in the last cell at the end of training; large 0.3, CIFAR 0.4
    dropout: Share = 0.0  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"nasnet_a": NasNetA()}
SMALL = {"layout": "cifar", "cells": 1, "filters": 96, "drop_path": 0.2}


def default_widths(config: NasNetA) -> tuple[int, ...]:
    """The widths that the other options ask for.

    Raises:
        UserError: filters that are no multiple of what the stages divide them by.
    """
    part = 96 if config.layout == "imagenet" else 24
    if config.filters % part:
        raise UserError(f"nasnet_a: filters must be a multiple of {part} (layout {config.layout}), got {config.filters}")
    width = config.filters // 24
    widths = [config.stem if config.layout == "imagenet" else 3 * width]
    for i, (reduces, quarters) in enumerate(_plan(config)):
        own = width * quarters // 4
        first_reduction = i == 0 and reduces
        widths += [own] * ((1 if first_reduction else 2) if reduces else 3) + [own] * 5
    return tuple(widths)


def _plan(config: NasNetA) -> list[tuple[bool, int]]:
    """Whether each cell reduces, and its width in quarters of the first stage's."""
    plan = [(True, 1), (True, 2)] if config.layout == "imagenet" else []
    for stage in range(3):
        plan += [(True, 4 * 2**stage)] if stage else []
        plan += [(False, 4 * 2**stage)] * config.cells
    return plan


from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, Dense, Dropout, avg_pool, flatten, global_avg_pool, max_pool

_Drop = Callable[[jax.Array], jax.Array]


class _ReluConvBN(nnx.Module):
    """ReLU, convolution without bias, batch norm."""

    def __init__(self, c_in: int, c_out: int, rngs: nnx.Rngs) -> None:
        self.conv = Conv(c_in, c_out, (1, 1), use_bias=False, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
        self.bn = _norm(c_out, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out: jax.Array = self.bn(self.conv(nnx.relu(x)))
        return out


class _Halve(nnx.Module):
    """ReLU, every second pixel and, moved by one, every second of the others, each through a 1x1 convolution; batch norm."""

    def __init__(self, c_in: int, c_out: int, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.he_normal()
        self.even = Conv(c_in, c_out // 2, (1, 1), strides=(2, 2), use_bias=False, kernel_init=init, rngs=rngs)
        self.odd = Conv(c_in, c_out - c_out // 2, (1, 1), strides=(2, 2), use_bias=False, kernel_init=init, rngs=rngs)
        self.bn = _norm(c_out, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(x)
        moved = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        out: jax.Array = self.bn(jnp.concatenate([self.even(x), self.odd(moved)], -1))
        return out


class _Separable(nnx.Module):
    """Twice ReLU, depthwise, 1x1 convolution and batch norm; the first depthwise one has the stride."""

    def __init__(self, c_in: int, inner: int, c_out: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.he_normal()
        self.depthwise_1 = Conv(c_in, c_in, (size, size), strides=(stride, stride), feature_group_count=c_in, use_bias=False,
                                kernel_init=init, rngs=rngs)  # fmt: skip
        self.pointwise_1 = Conv(c_in, inner, (1, 1), use_bias=False, kernel_init=init, rngs=rngs)
        self.bn_1 = _norm(inner, rngs)
        self.depthwise_2 = Conv(inner, inner, (size, size), feature_group_count=inner, use_bias=False, kernel_init=init,
                                rngs=rngs)  # fmt: skip
        self.pointwise_2 = Conv(inner, c_out, (1, 1), use_bias=False, kernel_init=init, rngs=rngs)
        self.bn_2 = _norm(c_out, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.bn_1(self.pointwise_1(self.depthwise_1(nnx.relu(x))))
        out: jax.Array = self.bn_2(self.pointwise_2(self.depthwise_2(nnx.relu(x))))
        return out


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.Module:
    return BatchNorm(channels, momentum=0.9997, epsilon=1e-3, rngs=rngs)


class _Normal(nnx.Module):
    """Figure 4, left: x of this cell's input and p of the one before, to [n, h, w, 4 * own + two sums]."""

    def __init__(self, c_x: int, c_p: int, halve_p: bool, widths: Iterator[int], rngs: nnx.Rngs) -> None:
        own, first, second = next(widths), next(widths), next(widths)
        self.adjust = (_Halve if halve_p else _ReluConvBN)(c_p, own, rngs)
        self.enter = _ReluConvBN(c_x, own, rngs)
        self.left1 = _Separable(own, next(widths), first, 5, 1, rngs)
        self.right1 = _Separable(own, next(widths), first, 3, 1, rngs)
        self.left2 = _Separable(own, next(widths), second, 5, 1, rngs)
        self.right2 = _Separable(own, next(widths), second, 3, 1, rngs)
        self.left5 = _Separable(own, next(widths), own, 3, 1, rngs)
        self.channels = 4 * own + first + second

    def __call__(self, x: jax.Array, p: jax.Array, drop: _Drop) -> jax.Array:
        p, h = self.adjust(p), self.enter(x)
        pooled = avg_pool(p, 3, 1, "SAME")
        sums = [
            drop(self.left1(h)) + drop(self.right1(p)),
            drop(self.left2(p)) + drop(self.right2(p)),
            drop(avg_pool(h, 3, 1, "SAME")) + p,
            drop(pooled) + drop(pooled),
            drop(self.left5(h)) + h,
        ]
        return jnp.concatenate([p, *sums], -1)


class _Reduction(nnx.Module):
    """Figure 4, right: x and p to [n, h / 2, w / 2, 4 * own]."""

    def __init__(self, c_x: int, c_p: int | None, halve_p: bool, widths: Iterator[int], rngs: nnx.Rngs) -> None:
        own = next(widths)
        other = c_x if c_p is None else next(widths)
        self.adjust = nnx.data(None if c_p is None else (_Halve if halve_p else _ReluConvBN)(c_p, other, rngs))
        self.enter = _ReluConvBN(c_x, own, rngs)
        self.left1 = _Separable(own, next(widths), own, 5, 2, rngs)
        self.right1 = _Separable(other, next(widths), own, 7, 2, rngs)
        self.right2 = _Separable(other, next(widths), own, 7, 2, rngs)
        self.right3 = _Separable(other, next(widths), own, 5, 2, rngs)
        self.left4 = _Separable(own, next(widths), own, 3, 1, rngs)
        self.channels = 4 * own

    def __call__(self, x: jax.Array, p: jax.Array, drop: _Drop) -> jax.Array:
        p, h = p if self.adjust is None else self.adjust(p), self.enter(x)
        low = [size % 2 for size in h.shape[1:3]]  # zeros that take part in both pools, as in keras
        padded = jnp.pad(h, ((0, 0), (low[0], 1), (low[1], 1), (0, 0)))
        largest = max_pool(padded, 3, 2)
        one = drop(self.left1(h)) + drop(self.right1(p))
        two = drop(largest) + drop(self.right2(p))
        three = drop(avg_pool(padded, 3, 2)) + drop(self.right3(p))
        four = drop(avg_pool(one, 3, 1, "SAME")) + two
        five = drop(self.left4(one)) + drop(largest)
        return jnp.concatenate([two, three, four, five], -1)


class _Network(nnx.Module):
    def __init__(self, config: NasNetA, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        imagenet = config.layout == "imagenet"
        check_size("nasnet_a", input_shape, 32 if imagenet else 4, f"halves height and width {5 if imagenet else 2} times")
        widths = iter(config.widths or default_widths(config))
        c_x, c_p, halve_p = next(widths), None, False
        self.stem = Conv(input_shape[2], c_x, (3, 3), strides=2 if imagenet else 1, padding="VALID" if imagenet else "SAME",
                         use_bias=False, kernel_init=nnx.initializers.he_normal(), rngs=rngs)  # fmt: skip
        self.bn = _norm(c_x, rngs)
        cells: list[_Normal | _Reduction] = []
        keeps = []  # whether the next cell sees the same p as this one, instead of this one's input
        for reduces, _ in _plan(config):
            cell: _Normal | _Reduction
            if reduces:
                cell = _Reduction(c_x, c_p, halve_p, widths, rngs)
            else:
                cell = _Normal(c_x, c_x if c_p is None else c_p, halve_p, widths, rngs)
            # What the next cell sees as p: this cell's input, twice as high and wide behind a reduction.
            keeps.append(config.skip_reduction and reduces and not (imagenet and len(cells) < 2))
            c_x, c_p, halve_p = cell.channels, (c_p if keeps[-1] else c_x), reduces
            cells.append(cell)
        self.cells = nnx.List(cells)
        self.keeps, self.drop_path = tuple(keeps), config.drop_path
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(c_x, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None, progress: float | jax.Array = 1.0) -> jax.Array:
        """Logits of images; `progress` in training mode: the share of training done, from 0 to 1, that scales drop-path."""
        x = self.bn(self.stem(x))
        p = x
        for i, cell in enumerate(self.cells):
            share = self.drop_path * (i + 1) / len(self.cells)
            out = cell(x, p, self._dropper(share, progress, rngs))
            p, x = (p if self.keeps[i] else x), out
        return self.logits(self.dropout(flatten(global_avg_pool(nnx.relu(x))), rngs=rngs))

    def _dropper(self, share: float, progress: float | jax.Array, rngs: nnx.Rngs | None) -> _Drop:
        """Scheduled drop-path: the rate grows with depth and during training (appendix A.3)."""
        if self.dropout.deterministic or share == 0:
            return lambda x: x
        if rngs is None:
            raise ValueError("drop-path in training mode needs rngs with a stream `dropout`")
        rate = share * progress

        def drop(x: jax.Array) -> jax.Array:
            kept = jax.random.bernoulli(rngs.dropout(), 1 - rate, (x.shape[0], 1, 1, 1))
            return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)

        return drop


def build(config: NasNetA, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Convolutions start with He's weights, batch norm has momentum 0.9997 and epsilon 1e-3, as in the authors' code.
    """
    return _Network(config, input_shape, num_classes, rngs)
