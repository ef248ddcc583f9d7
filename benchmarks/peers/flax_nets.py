"""The networks of the Flax peers, written with `flax.nnx` as its documentation does; the layers' plain forms."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
TORCH_DENSE = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class SimpLeNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 3, (5, 5), rngs=rngs)
        self.conv2 = nnx.Conv(3, 6, (5, 5), rngs=rngs)
        self.dense = nnx.Linear(294, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


class ConvBN(nnx.Module):
    def __init__(self, c_in: int, c_out: int, size: int, stride: int = 1, *, rngs: nnx.Rngs, **options: Any) -> None:
        bn = {name: options.pop(name) for name in ("momentum", "epsilon")}
        self.conv = nnx.Conv(c_in, c_out, (size, size), strides=(stride, stride), use_bias=False, rngs=rngs, **options)
        self.bn = nnx.BatchNorm(c_out, rngs=rngs, **bn)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


class MobileNetV1(nnx.Module):
    """Width 0.25 (Howard et al. 2017, table 1), the first convolution without stride."""

    CHANNELS = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, rngs: nnx.Rngs, momentum: float) -> None:
        options: dict[str, Any] = {"momentum": momentum, "epsilon": 1e-3, "kernel_init": nnx.initializers.he_normal()}
        self.stem = ConvBN(3, 8, 3, rngs=rngs, **options)
        layers, c = [], 8
        for c_out, stride in zip(self.CHANNELS, self.STRIDES, strict=True):
            layers.append(ConvBN(c, c, 3, stride, feature_group_count=c, rngs=rngs, **options))
            layers.append(ConvBN(c, c_out, 1, rngs=rngs, **options))
            c = c_out
        self.blocks = nnx.List(layers)
        self.dense = nnx.Linear(c, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for layer in self.blocks:
            x = nnx.relu(layer(x))
        return self.dense(x.mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, rngs: nnx.Rngs, options: dict[str, Any]) -> None:
        self.conv1 = ConvBN(c_in, c_out, 3, stride, padding=((1, 1), (1, 1)), rngs=rngs, **options)
        self.conv2 = ConvBN(c_out, c_out, 3, padding=((1, 1), (1, 1)), rngs=rngs, **options)
        self.stride, self.added = stride, c_out - c_in

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv2(nnx.relu(self.conv1(x)))
        if self.stride > 1:
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, self.added)))
        return nnx.relu(x + y)


class ResNet20(nnx.Module):
    """He et al. 2016, section 4.2: three stages of three blocks, shortcuts of type A."""

    def __init__(self, rngs: nnx.Rngs, momentum: float) -> None:
        options: dict[str, Any] = {"momentum": momentum, "epsilon": 1e-5, "kernel_init": HE_FAN_OUT}
        self.stem = ConvBN(3, 16, 3, rngs=rngs, **options)
        blocks, c = [], 16
        for stage, width in enumerate((16, 32, 64)):
            for block in range(3):
                blocks.append(Block(c, width, 2 if stage and not block else 1, rngs, options))
                c = width
        self.blocks = nnx.List(blocks)
        self.dense = nnx.Linear(64, 10, kernel_init=TORCH_DENSE, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((1, 2)))


def build(name: str, seed: int, batch_norm_momentum: float = 0.9) -> nnx.Module:
    rngs = nnx.Rngs(seed)
    if name == "simplenet_v1":
        return SimpLeNet(rngs)
    networks = {"mobilenet_v1": MobileNetV1, "resnet20": ResNet20}
    if name not in networks:
        raise SystemExit(f"the Flax peers have simplenet_v1, {', '.join(networks)}; not {name}")
    return networks[name](rngs, batch_norm_momentum)


def count(model: nnx.Module) -> int:
    """Trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
