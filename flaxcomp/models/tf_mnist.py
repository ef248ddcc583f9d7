"""The MNIST network of the TensorFlow tutorials, which Distill-Net prunes (Motamedi et al., section 8.4 and table 3).

5x5 convolution, 2x2 max-pool, 5x5 convolution, 2x2 max-pool, a hidden dense layer with dropout, logits; all SAME, ReLU
after every layer but the last: `convolutional.py` of tensorflow/models (tutorials/image/mnist), 1,663,370 weights and
12,273,152 multiply-adds. The tutorials "Deep MNIST for Experts" and "A Guide to TF Layers" have 1024 hidden units:
3,274,634 weights and 13,883,904 multiply-adds (`widths: [32, 64, 1024]`, which is SimpLeNet's teacher).

Distill-Net states 18,014 KFLOPs and no convention. Neither net gives that number: not as multiply-adds, nor twice those,
nor with biases and ReLUs, nor in units of 1024, at SAME or VALID. This file keeps the published net.
"""

from typing import Annotated

from msgspec import Meta

from flaxcomp.models.config import Classifier, Count, Shape, Share


class TfMnist(Classifier, frozen=True, kw_only=True):
    """Options of the tutorial's network.

    `widths`: channels of the two convolutions, units of the hidden dense layer.
    """

    num_classes: Count = 10
    input_shape: Shape = (28, 28, 1)
    dropout: Share = 0.5  # share dropped after the hidden layer
    widths: Annotated[tuple[Count, ...], Meta(min_length=3, max_length=3)] = (32, 64, 512)


NAMES = {"tf_mnist": TfMnist()}
SMALL = {"input_shape": (28, 28, 1), "widths": (4, 8, 16)}


def default_widths(config: TfMnist) -> tuple[int, ...]:
    """The widths themselves: no other option sets them."""
    return config.widths


import jax
from flax import nnx

from flaxcomp.models.layers import Conv, Dense, Dropout, flatten, max_pool


class _Network(nnx.Module):
    def __init__(self, config: TfMnist, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> None:
        height, width, channels = input_shape
        first, second, hidden = config.widths
        init = nnx.initializers.truncated_normal(0.1)
        tenth = nnx.initializers.constant(0.1)
        self.conv1 = Conv(channels, first, (5, 5), kernel_init=init, rngs=rngs)
        self.conv2 = Conv(first, second, (5, 5), kernel_init=init, bias_init=tenth, rngs=rngs)
        pixels = -(-height // 4) * -(-width // 4)
        self.hidden = Dense(pixels * second, hidden, kernel_init=init, bias_init=tenth, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.logits = Dense(hidden, num_classes, kernel_init=init, bias_init=tenth, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = max_pool(nnx.relu(self.conv1(x)), 2, padding="SAME")
        x = max_pool(nnx.relu(self.conv2(x)), 2, padding="SAME")
        x = nnx.relu(self.hidden(flatten(x)))
        return self.logits(self.dropout(x, rngs=rngs))


def build(config: TfMnist, input_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the network; see `flaxcomp.models.registry.build`.

    Initial weights are the tutorial's: truncated normal of scale 0.1, biases 0.1, those of the first convolution 0.
    """
    return _Network(config, input_shape, num_classes, rngs)
