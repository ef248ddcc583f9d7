"""What the tests of Distill-Net share: a small data set whose classes can be told apart, and networks on it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.subset.channels import Channels
from flaxcomp.compress.subset.search import Reduction
from flaxcomp.compress.subset.subject import Subject, state_of
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.models import registry
from flaxcomp.sweep.spec import Dataset

SHAPE, CLASSES = (8, 8, 1), 4
SPEC = Dataset(name="corners")
INFO = DatasetInfo(
    name="corners", num_classes=CLASSES, image_shape=SHAPE, labels=("nw", "ne", "sw", "se"), train_size=400, test_size=200,
    mean=(0.2,), std=(0.2,), fingerprint="corners", licence="none",
)  # fmt: skip
MODEL: dict[str, Any] = {"name": "tf_mnist", "widths": [6, 8, 12], "dropout": 0.0}


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright corner that is the class: uint8 [n, 8, 8, 1], int32 [n]."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    pictures = rng.integers(0, 120, (n, *SHAPE))
    for picture, label in zip(pictures, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        picture[row : row + 4, column : column + 4] += rng.integers(60, 120)
    return np.clip(pictures, 0, 255).astype(np.uint8), labels


def trained(steps: int = 60) -> nnx.Module:
    """The model, fitted to 400 of the images by plain gradient descent with momentum, in eval mode."""
    network = registry.build(MODEL, SHAPE, CLASSES, nnx.Rngs(0))
    network.eval()
    pictures, labels = images(400, 0)
    x = jnp.asarray(pictures, jnp.float32) / 255
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]

    def loss(params: Any) -> jax.Array:
        logits: jax.Array = nnx.merge(graph, params, rest)(x)  # type: ignore[operator]
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    @jax.jit
    def step(params: Any, speed: Any) -> tuple[Any, Any]:
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, jax.grad(loss)(params))
        return jax.tree.map(lambda p, v: p - 0.02 * v, params, speed), speed

    speed = jax.tree.map(jnp.zeros_like, params)
    for _ in range(steps):
        params, speed = step(params, speed)
    network = nnx.merge(graph, params, rest)
    network.eval()
    return network


def reduction(network: nnx.Module, model: dict[str, Any], heat: dict[str, Any], *, partial: bool) -> Reduction:
    subject = Subject(network, SPEC, INFO)
    return Reduction(network, subject, Channels(couple(model, SHAPE, CLASSES), subject.traced.outputs), heat, partial)


def heat_of(network: nnx.Module, classes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The fused heat maps over the training images."""
    subject, (pictures, labels) = Subject(network, SPEC, INFO), images(400, 0)
    maps = [subject.mean_activity(state_of(network), jnp.asarray(pictures), np.flatnonzero(labels == c)) for c in classes]
    return {layer: np.max([m[layer] for m in maps], 0) for layer in maps[0]}
