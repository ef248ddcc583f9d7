"""What an architecture may ask of whoever trains and ships it. All of it is optional and found by its presence.

A network (what `build` returns) may have

- a keyword `progress` of `__call__`: in training mode it is the share of training done, step / steps, float32 in [0, 1];
- `before_step(step, steps)`: called before each training step, traced; it may change the network's variables, not its
  parameters. They are part of the training's state, so what it does depends on nothing but them, the parameters and the step;
- `penalty(step, steps)`: a scalar float32 that is added to each training step's loss, of the float32 parameters.

`step` is int32 from 0 on, traced; `steps` is how many the whole training has, an int.

The module of an architecture that leaves training in another form than it trains in has

- before its first import of JAX, `shipped(config) -> config`: what leaves. Trials report its parameters and multiply-adds;
- `ship(network, config, input_shape, num_classes) -> network`: a trained network in that form.

CondenseNet has all of it but `progress`, which NASNet-A has.
"""

import inspect
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx


@runtime_checkable
class Changes(Protocol):
    """A network that changes between training steps."""

    def before_step(self, step: jax.Array, steps: int) -> None: ...


@runtime_checkable
class Penalised(Protocol):
    """A network that adds to the loss."""

    def penalty(self, step: jax.Array, steps: int) -> jax.Array: ...


def takes_progress(network: nnx.Module) -> bool:
    """Whether the network is to be called with `progress` in training."""
    call: Any = type(network).__call__
    return "progress" in inspect.signature(call).parameters
