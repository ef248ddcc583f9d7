"""Small NNX networks for the export tests, with seeded weights, and one that was trained for a moment."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from flaxcomp.data.arrays import Arrays, load
from flaxcomp.models import registry
from flaxcomp.models.layers import fast_forms
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.train.inputs import normalise_array

CONFIG = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v1", "widths": [8, 16]})


class ConvPoolDense(nnx.Module):
    """5x5 convolution, ReLU, max-pool, dense: SimpLeNet's parts; wide enough that weights dominate the file."""

    shape = (28, 28, 1)

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 8, (5, 5), rngs=rngs)
        self.hidden = nnx.Linear(8 * 14 * 14, 64, rngs=rngs)
        self.logits = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
        return self.logits(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


class Tiny(nnx.Module):
    """SimpLeNet-v5's parts: no weight reaches 1,024 elements."""

    shape = (28, 28, 1)

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 2, (5, 5), rngs=rngs)
        self.halving = nnx.Conv(2, 2, (4, 4), strides=(4, 4), rngs=rngs)
        self.logits = nnx.Linear(2 * 7 * 7, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.halving(nnx.relu(self.conv(x))))
        return self.logits(x.reshape(x.shape[0], -1))


class DepthwiseResidual(nnx.Module):
    """Convolutions with batch norm and ReLU6, a depthwise one, a residual, global average pooling."""

    shape = (32, 32, 3)

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.convs = nnx.List(
            [
                nnx.Conv(3, 16, (3, 3), strides=(2, 2), use_bias=False, rngs=rngs),
                nnx.Conv(16, 32, (1, 1), use_bias=False, rngs=rngs),
                nnx.Conv(32, 32, (3, 3), feature_group_count=32, use_bias=False, rngs=rngs),
                nnx.Conv(32, 16, (1, 1), use_bias=False, rngs=rngs),
            ]
        )
        self.norms = nnx.List([nnx.BatchNorm(c, rngs=rngs) for c in (16, 32, 32, 16)])
        self.logits = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        first = jax.nn.relu6(self.norms[0](self.convs[0](x)))
        y = jax.nn.relu6(self.norms[1](self.convs[1](first)))
        y = jax.nn.relu6(self.norms[2](self.convs[2](y)))
        y = first + self.norms[3](self.convs[3](y))
        return self.logits(nnx.avg_pool(y, y.shape[1:3], strides=(1, 1)).reshape(y.shape[0], -1))


class Shuffle(nnx.Module):
    """Channel split, shuffle and concatenation: reshapes that hold the batch."""

    shape = (16, 16, 3)

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.branch = nnx.Conv(8, 8, (1, 1), rngs=rngs)
        self.logits = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        left, right = jnp.split(nnx.relu(self.stem(x)), 2, -1)
        x = jnp.concatenate([left, nnx.relu(self.branch(right))], -1)
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)
        return self.logits(nnx.avg_pool(x, (h, w), strides=(1, 1)).reshape(n, -1))


NETS = {net.__name__: net for net in (ConvPoolDense, Tiny, DepthwiseResidual, Shuffle)}
Forward = Callable[[jax.Array], jax.Array]


@functools.cache
def net(name: str) -> tuple[Forward, np.ndarray, np.ndarray]:
    """A network's forward function, 256 inputs [0, 1) and its logits on them."""
    network = NETS[name](nnx.Rngs(params=jax.random.key(3)))
    x = np.random.default_rng(5).random((256, *network.shape), np.float32)
    network.train()
    for _ in range(20):  # moves the batch statistics away from 0 and 1
        network(x[:64])
    network.eval()
    graph, state = nnx.split(network)

    def forward(inputs: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(inputs)

    return forward, x, np.asarray(jax.jit(forward)(x))


@functools.cache
def sample() -> Arrays:
    return load("mnist_sample")


@functools.cache
def trained() -> nnx.Module:
    """CONFIG's network after two quick epochs: about 0.97 on the test images."""
    arrays = sample()
    model = registry.build(CONFIG.model, (28, 28, 1), 10, nnx.Rngs(params=jax.random.key(0)))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    x = normalise_array(arrays.train_images, CONFIG.dataset, arrays.info).reshape(-1, 120, 28, 28, 1)
    y = arrays.train_labels.reshape(-1, 120)

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
        def loss(model: nnx.Module) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    with fast_forms():
        for i in range(2 * len(x)):
            step(model, optimizer, x[i % len(x)], y[i % len(x)])
    model.eval()
    return model
