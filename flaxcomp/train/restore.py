"""A finished trial's network, ready to be called or exported."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.checkpoint.models import load_model as load_arrays
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.models import registry
from flaxcomp.models.abstract import abstract
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.inputs import input_shape


def load_model(folder: Path, config: TrialConfig, info: DatasetInfo) -> nnx.Module:
    """Return the network of a trial in eval mode, in the form that leaves training (`registry.ship`).

    Args:
        folder: `RunPaths.model(trial_id)`.
        config: the trial's.
        info: the data set's; gives the classes and, with `config.dataset`, the input shape.

    Returns:
        A module from resized and normalised float32 [n, h, w, c] to logits [n, classes].

    Raises:
        UserError: the file is missing, damaged, of another architecture, or of a training that is not far enough.
    """
    arrays = load_arrays(folder)
    shape, classes = input_shape(config.dataset, info), info.num_classes
    network = abstract(config.model, shape, classes)
    graph, _, _ = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params, stats = jax.tree.map(jnp.asarray, (arrays["params"], arrays["stats"]))
    model = registry.ship(nnx.merge(graph, params, stats), config.model, shape, classes)
    model.eval()
    return model


def weights_of(network: nnx.Module) -> dict[str, Any]:
    """The parameters, and everything else, of a network as nested dictionaries of NumPy arrays: {"params", "stats"}."""
    _, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    weights: dict[str, Any] = jax.device_get({"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(rest)})
    return weights


def with_weights(network: nnx.Module, weights: dict[str, Any]) -> nnx.Module:
    """The network with other weights, as `weights_of` gives them."""
    graph, _, _ = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    params, stats = jax.tree.map(jnp.asarray, (weights["params"], weights["stats"]))
    changed: nnx.Module = nnx.merge(graph, params, stats)
    return changed
