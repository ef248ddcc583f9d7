"""The CIFAR-10 network of the TensorFlow tutorials, which Distill-Net prunes (Motamedi et al., section 8.4 and table 3).

5x5 convolution, 3x3 max-pool of stride 2, normalisation, 5x5 convolution, normalisation, the same max-pool, two hidden dense
layers, logits; all SAME, ReLU after every layer but the last: `cifar10.py` of tensorflow/models (tutorials/image/cifar10),
which crops the images to 24x24: 1,068,298 weights. Normalisation is local response normalisation over 9 channels (Krizhevsky
et al. 2012, section 3.3), and an option, because it ties neighbouring channels and costs time on devices.

Distill-Net states 25,112 KFLOPs and no convention. Multiply-adds of all layers but the logits at 28x28 pixels are
25,111,552, the only usual convention that gives the figure; with the logits they are 25,113,472. At the tutorial's 24x24
pixels the network has 18,470,784, at 32x32 pixels 32,778,112.
"""

from typing import Annotated, Literal

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Shape, Share


class TfCifar(Classifier, frozen=True, kw_only=True):
    """Options of the tutorial's network.

    `widths`: channels of the two convolutions, units of the two hidden dense layers.
    """

    num_classes: Count = 10
    input_shape: Shape = (24, 24, 3)
    norm: Literal["lrn", "none"] = "lrn"  # local response normalisation, or nothing in its place
    dropout: Share = 0.0  # share dropped after the last hidden layer; the tutorial drops none
    widths: Annotated[tuple[Count, ...], Meta(min_length=4, max_length=4)] = (64, 64, 384, 192)


NAMES = {"tf_cifar": TfCifar()}
SMALL = {"widths": (8, 12, 24, 16)}


def default_widths(config: TfCifar) -> tuple[int, ...]:
    """The widths themselves: no other option sets them."""
    return config.widths


import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.models.layers import Conv, Dense, Dropout, flatten, max_pool


def local_response_norm(x: jax.Array, radius: int = 4, alpha: float = 0.001 / 9, beta: float = 0.75) -> jax.Array:
    """Divide by (1 + alpha * s) ** beta, s the sum of squares over the channel and `radius` channels on either side.

    Written as an average pool over channels and reciprocal square roots, all of which TFLite has in int8; a power and a
    windowed sum it has not.

    Args:
        x: [n, h, w, c].
        radius: in channels.
        alpha: factor of the sum, not of the mean, as in TensorFlow.
        beta: 0.75 or 0.5.

    Raises:
        ValueError: another beta.
    """
    if beta not in (0.5, 0.75):
        raise ValueError(f"beta must be 0.5 or 0.75, got {beta}")
    n, h, w, c = x.shape
    window = 2 * radius + 1
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (radius, radius))).reshape(n, h * w, c + 2 * radius, 1)
    mean = nnx.avg_pool(squares, (1, window), (1, 1)).reshape(n, h, w, c)
    divisor = 1 + (alpha * window) * mean
    root = jax.lax.rsqrt(divisor)
    return x * root if beta == 0.5 else x * root * jax.lax.rsqrt(divisor * root)


class _Network(nnx.Module):
    def __init__(self, config: TfCifar, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        first, second, third, fourth = config.widths
        normal, bias = nnx.initializers.truncated_normal, nnx.initializers.constant(0.1)
        self.conv1 = Conv(channels, first, (5, 5), kernel_init=normal(0.05), rngs=rngs)
        self.conv2 = Conv(first, second, (5, 5), kernel_init=normal(0.05), bias_init=bias, rngs=rngs)
        pixels = -(-height // 4) * -(-width // 4)
        self.local3 = Dense(pixels * second, third, kernel_init=normal(0.04), bias_init=bias, rngs=rngs)
        self.local4 = Dense(third, fourth, kernel_init=normal(0.04), bias_init=bias, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(fourth, num_classes, kernel_init=normal(1 / 192), rngs=rngs)
        self.normalised = config.norm == "lrn"

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self._norm(max_pool(nnx.relu(self.conv1(x)), 3, 2, "SAME"))
        x = max_pool(self._norm(nnx.relu(self.conv2(x))), 3, 2, "SAME")
        x = nnx.relu(self.local4(nnx.relu(self.local3(flatten(x)))))
        return self.logits(self.dropout(x, rngs=rngs))

    def _norm(self, x: jax.Array) -> jax.Array:
        return local_response_norm(x) if self.normalised else x


def build(config: TfCifar, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Initial weights are the tutorial's: truncated normals of scale 0.05 (convolutions), 0.04 and 1/192 (logits), biases 0.1
    but for the first convolution and the logits.
    """
    return _Network(config, input_shape, num_classes, rngs)
