"""A finished trial's network, ready to be called or exported."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.checkpoint.models import load_model as load_arrays
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.models import registry
from flaxcomp.sweep.spec import TrialConfig


def load_model(folder: Path, config: TrialConfig, info: DatasetInfo) -> nnx.Module:
    """Return the network of a trial in eval mode.

    Args:
        folder: `RunPaths.model(trial_id)`.
        config: the trial's.
        info: the data set's; gives the input shape and the classes.

    Returns:
        A module from normalised float32 [n, h, w, c] to logits [n, classes].

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    arrays = load_arrays(folder)
    shape, classes = info.image_shape, info.num_classes
    network = nnx.eval_shape(lambda: registry.build(config.model, shape, classes, nnx.Rngs(params=jax.random.key(0))))
    graph, _, _ = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params, stats = jax.tree.map(jnp.asarray, (arrays["params"], arrays["stats"]))
    model: nnx.Module = nnx.merge(graph, params, stats)
    model.eval()
    return model
