"""A finished trial's network, ready to be called or exported."""

from pathlib import Path

import jax
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
    network = nnx.eval_shape(lambda: registry.build(config.model, info.image_shape, info.num_classes, nnx.Rngs(params=jax.random.key(0))))
    graph, _, _ = nnx.split(network, nnx.Param, ...)
    model: nnx.Module = nnx.merge(graph, jax.tree.map(jax.numpy.asarray, arrays["params"]), jax.tree.map(jax.numpy.asarray, arrays["stats"]))
    model.eval()
    return model
