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
    graph, _, own = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    stats = _parted(arrays["stats"], own)[0] if config.quantize is not None else arrays["stats"]
    params, stats = jax.tree.map(jnp.asarray, (arrays["params"], stats))
    model = registry.ship(nnx.merge(graph, params, stats), config.model, shape, classes)
    model.eval()
    return model


def load_besides(folder: Path, config: TrialConfig, info: DatasetInfo) -> dict[Any, Any]:
    """What a trial's training had besides the network of its configuration, such as ranges, as nested NumPy arrays.

    Raises:
        UserError: the file is missing or damaged.
    """
    network = abstract(config.model, input_shape(config.dataset, info), info.num_classes)
    return _parted(load_arrays(folder)["stats"], nnx.state(network))[1]


def _parted(stats: dict[Any, Any], own: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What a network has itself, and the rest."""
    names = nnx.traversals.flatten_mapping(nnx.to_pure_dict(own))
    flat = nnx.traversals.flatten_mapping(stats)
    parts = ({path: leaf for path, leaf in flat.items() if (path in names) == wanted} for wanted in (True, False))
    its, rest = (nnx.traversals.unflatten_mapping(part) for part in parts)
    return its, rest


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
