"""Inception v3 (Szegedy et al. 2016, table 1), with its auxiliary classifier.

Eleven mixed blocks, each a concatenation of branches of batch-normalised convolutions, on 35x35, 17x17 and 8x8 positions of
a 299x299 image. Layers and their order are those of keras.applications and torchvision, which agree. The default is the
network whose size torchvision publishes, here that with the auxiliary classifier: 27,161,264 parameters, 23,834,568 without
(`auxiliary: false`, which images below 299x299 need).
"""

from typing import Annotated, Literal, NamedTuple

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Only, Positive, Shape, Share, check_size


class InceptionV3(Classifier, frozen=True, kw_only=True):
    """Options of Inception v3.

    `widths`: the channels of every convolution: five of the stem, then block by block (a, a, a, b, c, c, c, c, d, e, e) and in
    a block branch by branch as `_blocks` lists them, the pool's last; then two of the auxiliary classifier, if there is one.
    """

    num_classes: Count = 1000
    input_shape: Shape = (299, 299, 3)
    width_multiplier: Positive = 1.0  # of every convolution
    auxiliary: bool = True  # a second classifier on the last 17x17 block, in training mode only
    auxiliary_weight: Annotated[Share, Only(True, option="auxiliary")] = 0.4  # of its loss beside the main one's 1
    scale: bool = True  # whether batch norm has a trainable scale, as in torchvision; keras has none
    dropout: Share = 0.5  # share dropped before the logits
    widths: tuple[Count, ...] = ()


NAMES = {"inception_v3": InceptionV3()}
SMALL = {"input_shape": (75, 75, 3), "width_multiplier": 0.125, "auxiliary": False}


class _Layer(NamedTuple):
    """A convolution: [height, width] of its kernel, or `ends` (1x3 and 3x1 side by side), channels, stride, padding."""

    kernel: tuple[int, int] | Literal["ends"]
    channels: int
    stride: int = 1
    padding: str = "SAME"


_ONE, _THREE, _FIVE, _ROW, _COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _chain(*layers: tuple[tuple[int, int] | Literal["ends"], int]) -> list[_Layer]:
    return [_Layer(kernel, channels) for kernel, channels in layers]


def _halving(*layers: tuple[tuple[int, int] | Literal["ends"], int]) -> list[_Layer]:
    """The last convolution takes every second position, without padding."""
    return [*_chain(*layers[:-1]), _Layer(*layers[-1], stride=2, padding="VALID")]


def _a(pool: int) -> list[list[_Layer]]:
    return [_chain((_ONE, 64)), _chain((_ONE, 48), (_FIVE, 64)), _chain((_ONE, 64), (_THREE, 96), (_THREE, 96)),
            _chain((_ONE, pool))]  # fmt: skip


def _c(inner: int) -> list[list[_Layer]]:
    long = _chain((_ONE, inner), (_COLUMN, inner), (_ROW, inner), (_COLUMN, inner), (_ROW, 192))
    return [_chain((_ONE, 192)), _chain((_ONE, inner), (_ROW, inner), (_COLUMN, 192)), long, _chain((_ONE, 192))]


_B = [_halving((_THREE, 384)), _halving((_ONE, 64), (_THREE, 96), (_THREE, 96))]
_D = [_halving((_ONE, 192), (_THREE, 320)), _halving((_ONE, 192), (_ROW, 192), (_COLUMN, 192), (_THREE, 192))]
_E = [_chain((_ONE, 320)), _chain((_ONE, 384), ("ends", 384)), _chain((_ONE, 448), (_THREE, 384), ("ends", 384)),
      _chain((_ONE, 192))]  # fmt: skip
# Figures 5, 10 (halving), 6 with n = 7, 10 (halving) and 7. The last branch of a, c and e stands behind an average pool;
# b and d have a maximum pool beside their branches.
_BLOCKS = [_a(32), _a(64), _a(64), _B, _c(128), _c(160), _c(160), _c(192), _D, _E, _E]
_AUXILIARY_AFTER = 7  # the last block on 17x17 positions
_STEM = [_Layer(_THREE, 32, 2, "VALID"), _Layer(_THREE, 32, 1, "VALID"), _Layer(_THREE, 64), _Layer(_ONE, 80, 1, "VALID"),
         _Layer(_THREE, 192, 1, "VALID")]  # fmt: skip


def default_widths(config: InceptionV3) -> tuple[int, ...]:
    """The widths that the other options ask for."""
    layers = [*_STEM, *(layer for block in _BLOCKS for branch in block for layer in branch)]
    widths = [w for layer in layers for w in [layer.channels] * (2 if layer.kernel == "ends" else 1)]
    widths += [128, 768] if config.auxiliary else []
    return tuple(max(1, round(width * config.width_multiplier)) for width in widths)


from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import BatchNorm, Conv, Dense, Dropout, avg_pool, flatten, global_avg_pool, max_pool


class _Conv(nnx.Module):
    """Convolution without bias, batch norm (momentum 0.9 of PyTorch's port, the paper's epsilon 1e-3), ReLU."""

    def __init__(self, c_in: int, c_out: int, layer: _Layer, kernel: tuple[int, int], scale: bool, stddev: float,
                 rngs: nnx.Rngs) -> None:  # fmt: skip
        init = nnx.initializers.truncated_normal(stddev)
        self.conv = Conv(c_in, c_out, kernel, strides=(layer.stride, layer.stride), padding=layer.padding, use_bias=False,
                         kernel_init=init, rngs=rngs)  # fmt: skip
        self.bn = BatchNorm(c_out, momentum=0.9, epsilon=1e-3, use_scale=scale, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class _Maker:
    """Makes convolutions, taking their channels from the list of widths."""

    def __init__(self, widths: tuple[int, ...], scale: bool, rngs: nnx.Rngs) -> None:
        self.widths, self.scale, self.rngs = iter(widths), scale, rngs

    def conv(self, c_in: int, layer: _Layer, stddev: float = 0.1) -> tuple[nnx.Module, int]:
        if layer.kernel == "ends":
            row, a = self.conv(c_in, layer._replace(kernel=(1, 3)))
            column, b = self.conv(c_in, layer._replace(kernel=(3, 1)))
            return _Ends(row, column), a + b
        width = next(self.widths)
        return _Conv(c_in, width, layer, layer.kernel, self.scale, stddev, self.rngs), width

    def chain(self, channels: int, layers: list[_Layer]) -> tuple[nnx.List[nnx.Module], int]:
        made: list[nnx.Module] = []
        for layer in layers:
            module, channels = self.conv(channels, layer)
            made.append(module)
        return nnx.List(made), channels


class _Ends(nnx.Module):
    """A row and a column of the same input side by side."""

    def __init__(self, row: nnx.Module, column: nnx.Module) -> None:
        self.row, self.column = row, column

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.row(x), self.column(x)], -1)


class _Block(nnx.Module):
    """Branches side by side: [n, h, w, c_in] to [n, h, w, channels], or half as high and wide."""

    def __init__(self, maker: _Maker, c_in: int, branches: list[list[_Layer]]) -> None:
        self.halving = branches[0][-1].stride == 2
        made = [maker.chain(c_in, branch) for branch in branches]
        self.branches = nnx.List([branch for branch, _ in made])
        self.channels = sum(channels for _, channels in made) + (c_in if self.halving else 0)

    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = [x] * len(self.branches)
        if not self.halving:
            inputs[-1] = avg_pool(x, 3, 1, "SAME")
        outputs = [_through(branch, y) for branch, y in zip(self.branches, inputs, strict=True)]
        return jnp.concatenate([*outputs, max_pool(x, 3, 2)] if self.halving else outputs, -1)


class _Auxiliary(nnx.Module):
    """Figure 8: 5x5 average pool of stride 3, 1x1 and 5x5 convolutions, logits."""

    def __init__(self, maker: _Maker, c_in: int, num_classes: int) -> None:
        self.squeeze, channels = maker.conv(c_in, _Layer(_ONE, 128))
        self.whole, channels = maker.conv(channels, _Layer(_FIVE, 768, 1, "VALID"), stddev=0.01)
        init = nnx.initializers.truncated_normal(0.001)
        self.logits = Dense(channels, num_classes, kernel_init=init, rngs=maker.rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.logits(flatten(global_avg_pool(self.whole(self.squeeze(avg_pool(x, 5, 3))))))


class _Network(nnx.Module):
    def __init__(self, config: InceptionV3, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        _check_size(config, input_shape)
        maker = _Maker(config.widths or default_widths(config), config.scale, rngs)
        self.stem, channels = maker.chain(input_shape[2], _STEM)
        blocks = []
        for i, branches in enumerate(_BLOCKS):
            blocks.append(_Block(maker, channels, branches))
            channels = blocks[-1].channels
            if i == _AUXILIARY_AFTER:
                seen = channels
        self.blocks = nnx.List(blocks)
        self.auxiliary = nnx.data(_Auxiliary(maker, seen, num_classes) if config.auxiliary else None)
        self.dropout = Dropout(config.dropout)
        init = nnx.initializers.truncated_normal(0.1)
        self.logits = Dense(channels, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        x = max_pool(_through(self.stem[:3], x), 3, 2)
        x = max_pool(_through(self.stem[3:], x), 3, 2)
        auxiliary = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == _AUXILIARY_AFTER and self.auxiliary is not None and not self.dropout.deterministic:
                auxiliary.append(self.auxiliary(x))
        logits = self.logits(self.dropout(flatten(global_avg_pool(x)), rngs=rngs))
        return (logits, auxiliary) if auxiliary else logits


def _through(layers: Iterable[nnx.Module], x: jax.Array) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x


def _check_size(config: InceptionV3, input_shape: tuple[int, int, int]) -> None:
    check_size("inception_v3", input_shape, 75, "leaves nothing of a smaller image by its strides")
    height, width, _ = input_shape
    # The auxiliary classifier's unpadded 5x5 convolution sees positions that a 5x5 pool of stride 3 left of the 17x17 block.
    if config.auxiliary and min(height, width) < 299:
        raise UserError("inception_v3's auxiliary classifier needs 17x17 positions: height and width must be at least 299 "
                        f"with `auxiliary: true`, got {height}x{width}; set `auxiliary: false`")  # fmt: skip


def build(config: InceptionV3, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`. In training mode with `auxiliary` it gives (logits, [logits]).

    Weights start truncated-normal with the deviations of Google's and torchvision's code: 0.1, and in the auxiliary
    classifier 0.01 for the 5x5 convolution and 0.001 for the logits.
    """
    return _Network(config, input_shape, num_classes, rngs)
