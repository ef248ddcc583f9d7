"""A network whose layers' outputs are multiplied by bitmaps: what Distill-Net removes from some positions only.

The bitmaps are numbers of the network beside its batch statistics, so it trains, is kept, restored and exported like any other.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.errors import UserError, suggest
from flaxcomp.models.outputs import Traced


class Bitmap(nnx.Variable[jax.Array]):
    """1 where a layer's output stays, 0 where it is nothing: uint8 of one image's shape, [h, w, c] or [features]."""


class Masked(nnx.Module):
    """`network` with bitmaps on the outputs of some layers; from and to what the network takes and returns.

    Args:
        network: in training mode, as it is built.
        names: of layers, as `blocks.0.conv`; their bitmaps are all 1 at first.
        input_shape: height, width, channels.

    Raises:
        UserError: there is no such layer, or its output is the network's own.
    """

    def __init__(self, network: nnx.Module, names: Sequence[str], input_shape: tuple[int, int, int]) -> None:
        self.network = network
        network.eval()
        outputs = Traced(network, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)).outputs
        network.train()
        shapes = {output.layer.replace("/", "."): output.shape for output in outputs}
        for name in names:
            if name not in shapes:
                raise UserError(f"model.masked: no layer with an output of its own is called {name!r}.{suggest(name, shapes)}")
        self.bitmaps = nnx.data({name: Bitmap(jnp.ones(shapes[name], jnp.uint8)) for name in names})

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> Any:
        traced = Traced(self.network, jax.ShapeDtypeStruct(x.shape, x.dtype), random=rngs is not None)
        state = nnx.to_pure_dict(nnx.state(self.network))
        masks = {name.replace(".", "/"): bitmap.get_value() for name, bitmap in self.bitmaps.items()}
        result, new, _ = traced(state, x, masks, *([] if rngs is None else [rngs.dropout()]))
        if rngs is not None:
            nnx.update(self.network, new)
        return result
