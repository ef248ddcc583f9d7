"""CondenseNet (Huang, Liu, van der Maaten, Weinberger 2018, sections 3 and 4), a DenseNet that learns its group convolutions.

A layer is a learned group convolution 1x1 of 4k channels (behind batch norm and ReLU), then a 3x3 group convolution of k
channels (likewise), joined to what the layer was given. k is `growth_rate` in the first block and doubles from block to block;
between blocks everything is average-pooled, so all layers of all blocks are connected.

Each of a learned group convolution's `groups` filter groups sees all inputs at first. In the first half of training it loses
1 / condense_factor of them in each of condense_factor - 1 stages: those of least absolute weight (`condensation_mask`).
`form: condensed` is what remains: the kept channels picked by an index, a group convolution, a shuffle (`condensed`). A
finished trial is reported and exported so.

| net, form condensed | trainable parameters | multiply-adds, 10 or 1000 classes |
|---|---|---|
| CondenseNet-50, 86, 122 | 216,506, 520,202, 945,434 | 27.2, 62.4, 110.6 M |
| CondenseNet-182, growth rate 12 | 4,221,946 | 493.9 M |
| imagenet 74, groups 4 and 8 | 4,773,944, 2,935,416 | 516.6, 261.5 M |

The paper's FLOPs (65.8 M for CondenseNet-86) count one for each element of a ReLU and each input of a pooling also.
"""

import math
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from flaxcomp.errors import UserError
from flaxcomp.models.config import Classifier, Count, Shape, Share, check_halvings, check_number_of_widths


class CondenseNet(Classifier, frozen=True, kw_only=True):
    """Options.

    Order of `widths`: the stem's, then for each layer its 1x1's and its 3x3's. What a layer is given must divide by the
    condensation factor, its own two by the groups.
    """

    num_classes: Count = 10
    input_shape: Shape = (32, 32, 3)
    layout: Literal["cifar", "imagenet"] = "cifar"
    depth: Count = 86  # layers with weights
    growth_rate: Count = 8  # of the first block
    groups: Count = 4  # of both convolutions in a layer
    condense_factor: Annotated[int, Meta(ge=0)] = 0  # a filter group ends with 1 / condense_factor of its inputs; 0: as groups
    condense_until: Annotated[float, Meta(gt=0, le=1)] = 0.5  # share of training after which connections stay
    group_lasso: Annotated[float, Meta(ge=0)] = 1e-5  # weight of the `group_lasso` penalty in the loss
    form: Literal["training", "condensed"] = "training"
    classifier_kept: Annotated[float, Meta(gt=0, le=1)] | None = (
        None  # condensed: share of features; None: 0.5 in imagenet, else 1
    )
    dropout: Share = 0.0  # share dropped before a learned group convolution
    widths: tuple[Count, ...] = ()  # () = as the other options say

    def __post_init__(self) -> None:
        wanted = default_widths(self)
        check_number_of_widths("condensenet", self.widths, wanted)
        c, *layers = self.widths or wanted
        for i, (inside, growth) in enumerate(zip(layers[::2], layers[1::2], strict=True), 1):
            for channels, what, divisor in (
                (c, "inputs", factor(self)), (inside, "1x1 channels", self.groups), (growth, "3x3 channels", self.groups)
            ):  # fmt: skip
                if channels % divisor:
                    raise UserError(f"condensenet, layer {i}: {what} must be a multiple of {divisor}, got {channels}")
            c += growth


def factor(config: CondenseNet) -> int:
    """The condensation factor C, which is the number of groups unless it is given."""
    return config.condense_factor or config.groups


def layers_of(config: CondenseNet) -> tuple[int, ...]:
    """The number of layers in each block.

    Raises:
        UserError: there is no CondenseNet of this depth.
    """
    if config.layout == "imagenet":
        if config.depth != 74:
            raise UserError(f"condensenet.depth: layout imagenet has 74 layers, got {config.depth}")
        return (4, 6, 8, 10, 8)
    if config.depth < 8 or (config.depth - 2) % 6:
        raise UserError(f"condensenet.depth: layout cifar has 6n + 2 layers (50, 86, 122, 182), got {config.depth}")
    return ((config.depth - 2) // 6,) * 3


def default_widths(config: CondenseNet) -> tuple[int, ...]:
    """The channels of all free layers, in the order that `CondenseNet` tells."""
    widths = [2 * config.growth_rate]
    for block, count in enumerate(layers_of(config)):
        k = config.growth_rate * 2**block
        widths += [4 * k, k] * count
    return tuple(widths)


def condensation_steps(config: CondenseNet, steps: int) -> tuple[int, ...]:
    """The steps, of `steps` from 0 on, before which connections are removed: one for each of condense_factor - 1 stages.

    However short the training, the last stage begins before its last step.
    """
    last = factor(config) - 1
    exact = (stage * config.condense_until * steps / last for stage in range(1, last + 1))
    return tuple(min(steps - 1, math.ceil(round(start, 6))) for start in exact)


def shipped(config: CondenseNet) -> CondenseNet:
    """What leaves training: the condensed form. It computes the same, unless `classifier_kept` was asked for."""
    if config.form == "condensed":
        return config
    return replace(config, form="condensed", classifier_kept=config.classifier_kept or 1.0)


NAMES = {"condensenet": CondenseNet()}
SMALL = {"depth": 8, "growth_rate": 4, "groups": 2, "input_shape": (16, 16, 3), "num_classes": 10}

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import (
    HE_FAN_OUT,
    TORCH_DENSE,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    NormConv,
    avg_pool,
    channel_shuffle,
    conv_1x1,
    flatten,
    global_avg_pool,
)


class Mask(nnx.Variable[jax.Array]):
    """1 where a weight is in use, 0 where it was removed; of the kernel's shape."""


class Index(nnx.Variable[jax.Array]):
    """The channels that a condensed layer picks, int32; a channel may come more than once."""


class LearnedGroupConv(nnx.Module):
    """1x1 convolution under a mask, behind batch norm and ReLU; output o belongs to filter group o % groups."""

    def __init__(self, c_in: int, c_out: int, config: CondenseNet, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(c_in, momentum=0.9, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.kernel = nnx.Param(HE_FAN_OUT(rngs.params(), (1, 1, c_in, c_out)))
        self.mask = Mask(jnp.ones((1, 1, c_in, c_out)))
        self.groups, self.factor = config.groups, factor(config)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = self.dropout(nnx.relu(self.bn(x)), rngs=rngs)
        kernel = self.kernel.get_value()
        x, kernel = nnx.nn.dtypes.promote_dtype((x, kernel * self.mask.get_value().astype(kernel.dtype)))
        return conv_1x1(x, kernel)


class _IndexedGroupConv(nnx.Module):
    """What a learned group convolution becomes: batch norm, ReLU, index, 1x1 group convolution, shuffle."""

    def __init__(self, c_in: int, c_out: int, config: CondenseNet, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(c_in, momentum=0.9, rngs=rngs)
        kept, self.groups = c_in // factor(config), config.groups
        self.index = Index(jnp.arange(kept * config.groups, dtype=jnp.int32) % c_in)
        self.dropout = Dropout(config.dropout)
        self.conv = Conv(kept * config.groups, c_out, (1, 1), feature_group_count=config.groups, use_bias=False,
                         kernel_init=HE_FAN_OUT, rngs=rngs)  # fmt: skip

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = self.dropout(nnx.relu(self.bn(x)), rngs=rngs)
        return channel_shuffle(self.conv(_pick(x, self.index)), self.groups)


class _Layer(nnx.Module):
    def __init__(self, c_in: int, inside: int, growth: int, config: CondenseNet, rngs: nnx.Rngs) -> None:
        form = LearnedGroupConv if config.form == "training" else _IndexedGroupConv
        self.conv1: LearnedGroupConv | _IndexedGroupConv = form(c_in, inside, config, rngs)
        self.conv2 = NormConv(inside, growth, 3, groups=config.groups, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return jnp.concatenate([x, self.conv2(self.conv1(x, rngs), rngs)], -1)


class _Network(nnx.Module):
    def __init__(self, config: CondenseNet, channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        widths = iter(config.widths or default_widths(config))
        c = next(widths)
        strided: dict[str, Any] = {"strides": (2, 2), "padding": ((1, 1), (1, 1))} if config.layout == "imagenet" else {}
        self.stem = Conv(channels, c, (3, 3), use_bias=False, kernel_init=HE_FAN_OUT, rngs=rngs, **strided)
        blocks = []
        for count in layers_of(config):
            layers = []
            for _ in range(count):
                inside, growth = next(widths), next(widths)
                layers.append(_Layer(c, inside, growth, config, rngs))
                c += growth
            blocks.append(nnx.List(layers))
        self.blocks = nnx.List(blocks)
        self.bn = BatchNorm(c, momentum=0.9, rngs=rngs)
        kept = _kept_features(config, c)
        self.index = nnx.data(Index(jnp.arange(kept, dtype=jnp.int32)) if kept < c else None)
        self.logits = Dense(kept, num_classes, kernel_init=TORCH_DENSE, rngs=rngs)
        self.config = config

    def before_step(self, step: jax.Array, steps: int) -> None:
        """Remove connections where a stage begins; see `flaxcomp.models.protocol`."""
        starts = jnp.asarray(condensation_steps(self.config, steps), jnp.int32)
        layers = _learned(self)
        if not layers or not starts.size:
            return
        old = [layer.mask.get_value() for layer in layers]
        new = jax.lax.cond((starts == step).any(), lambda: _masks(layers, (starts <= step).sum()), lambda: old)
        for layer, mask in zip(layers, new, strict=True):
            layer.mask.set_value(mask)

    def penalty(self, step: jax.Array, steps: int) -> jax.Array:
        """The weighted `group_lasso` until the last stage begins, as in the authors' code."""
        starts = condensation_steps(self.config, steps)
        if not starts or not self.config.group_lasso:
            return jnp.zeros(())
        return jnp.where(step < starts[-1], self.config.group_lasso * group_lasso(self), 0.0)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = avg_pool(x, 2) if i else x
            for layer in block:
                x = layer(x, rngs)
        x = flatten(global_avg_pool(nnx.relu(self.bn(x))))
        return self.logits(x if self.index is None else _pick(x, self.index))


def _pick(x: jax.Array, index: Index) -> jax.Array:
    return jnp.take(x, index.get_value(), -1, mode="clip")


def _kept_features(config: CondenseNet, features: int) -> int:
    if config.form == "training":
        return features
    share = (0.5 if config.layout == "imagenet" else 1.0) if config.classifier_kept is None else config.classifier_kept
    return max(1, int(features * share))


def condensation_mask(kernel: jax.Array, mask: jax.Array, stage: int | jax.Array, groups: int, factor: int) -> jax.Array:
    """Remove each filter group's inputs of least absolute weight, until stage / factor of them are gone.

    Args:
        kernel: [1, 1, c_in, c_out] of a learned group convolution.
        mask: its mask so far; what is removed stays removed.
        stage: 0 to factor - 1, may be traced.
        groups: output o belongs to group o % groups.
        factor: the condensation factor, divides c_in.

    Returns:
        The new mask, [1, 1, c_in, c_out].
    """
    _, _, c_in, c_out = kernel.shape
    by_group = (c_in, c_out // groups, groups)
    alive = mask.reshape(by_group)[:, 0] > 0  # [c_in, groups]
    importance = jnp.where(alive, jnp.abs(kernel).reshape(by_group).sum(1), -1)
    rank = jnp.argsort(jnp.argsort(importance, 0), 0)
    kept = alive & (rank >= stage * (c_in // factor))
    return jnp.broadcast_to(kept[:, None], by_group).reshape(kernel.shape).astype(mask.dtype)


def condense(network: nnx.Module, stage: int | jax.Array) -> None:
    """Bring all masks of a network of form training to this stage, 0 to condense_factor - 1."""
    layers = _learned(network)
    for layer, mask in zip(layers, _masks(layers, stage), strict=True):
        layer.mask.set_value(mask)


def _masks(layers: list[LearnedGroupConv], stage: int | jax.Array) -> list[jax.Array]:
    return [condensation_mask(it.kernel.get_value(), it.mask.get_value(), stage, it.groups, it.factor) for it in layers]


def group_lasso(network: nnx.Module) -> jax.Array:
    """Sum over learned group convolutions, their groups and inputs of the L2 norm of the weights there (section 3.2)."""
    total = jnp.zeros(())
    for layer in _learned(network):
        kernel = layer.kernel.get_value() * layer.mask.get_value()
        squares = jnp.square(kernel).reshape(kernel.shape[2], -1, layer.groups).sum(1)
        total += jnp.sqrt(jnp.maximum(squares, 1e-6)).sum()  # the bound keeps the gradient finite at 0
    return total


def _learned(network: nnx.Module) -> list[LearnedGroupConv]:
    return [module for _, module in nnx.iter_modules(network) if isinstance(module, LearnedGroupConv)]


def condensed(network: Any, config: CondenseNet, input_shape: Shape, num_classes: int) -> nnx.Module:
    """Return the network in form condensed, computing the same where `classifier_kept` is 1.

    Args:
        network: of form training, in the last condensation stage.
        config: its configuration.
        input_shape, num_classes: what it was built with.

    Raises:
        UserError: a filter group still has more inputs than 1 / condense_factor, or fewer.
    """
    config = replace(config, form="condensed")
    new: Any = build(config, input_shape, num_classes, nnx.Rngs(params=jax.random.key(0)))
    for old_layers, new_layers in zip(network.blocks, new.blocks, strict=True):
        for old, fresh in zip(old_layers, new_layers, strict=True):
            _condense_layer(old.conv1, fresh.conv1)
            nnx.update(fresh.conv2, nnx.state(old.conv2))
    nnx.update(new.stem, nnx.state(network.stem))
    nnx.update(new.bn, nnx.state(network.bn))
    kernel = network.logits.kernel.get_value()
    if new.index is not None:
        picked = jnp.sort(jnp.argsort(-jnp.abs(kernel).sum(1))[: new.index.get_value().size])
        new.index.set_value(picked.astype(jnp.int32))
        kernel = kernel[picked]
    new.logits.kernel.set_value(kernel)
    new.logits.bias.set_value(network.logits.bias.get_value())
    result: nnx.Module = new
    return result


def ship(network: nnx.Module, config: CondenseNet, input_shape: Shape, num_classes: int) -> nnx.Module:
    """Return a trained network in the form that `shipped` says, or as it is if it has that form."""
    return network if config.form == "condensed" else condensed(network, shipped(config), input_shape, num_classes)


def _condense_layer(old: LearnedGroupConv, new: _IndexedGroupConv) -> None:
    groups, kernel = old.groups, old.kernel.get_value()
    c_in, c_out = kernel.shape[2:]
    by_group = kernel.reshape(c_in, c_out // groups, groups)
    alive = old.mask.get_value().reshape(by_group.shape)[:, 0] > 0
    indices = [jnp.flatnonzero(alive[:, g]) for g in range(groups)]
    kept = c_in // old.factor
    if any(index.size != kept for index in indices):
        raise UserError(f"condensenet: before conversion each filter group must have {kept} of its {c_in} inputs, got "
                        f"{[index.size for index in indices]}: train to the last condensation stage")  # fmt: skip
    nnx.update(new.bn, nnx.state(old.bn))
    new.index.set_value(jnp.concatenate(indices).astype(jnp.int32))
    parts = [by_group[index, :, g] for g, index in enumerate(indices)]  # each [kept, c_out / groups]
    new.conv.kernel.set_value(jnp.concatenate(parts, 1)[None, None])


def build(config: CondenseNet, input_shape: Shape, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`."""
    height, width, channels = input_shape
    if config.layout == "imagenet":
        height, width = (height + 1) // 2, (width + 1) // 2
    blocks = [f"block {block}" for block in range(2, len(layers_of(config)) + 1)]
    check_halvings("condensenet", input_shape, (height, width), blocks, up=False)
    return _Network(config, channels, num_classes, rngs)
