"""What CondenseNet's training removed, in the form of a pruning's report: it prunes inputs of filter groups as it trains."""

import json
from typing import Any

import numpy as np

from flaxcomp import durable
from flaxcomp.checkpoint.models import load_model
from flaxcomp.compress.method import as_plain
from flaxcomp.compress.prune.follow import flat
from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.inputs import input_shape

Shape = tuple[int, int, int]


def report(model: dict[str, Any], weights: dict[str, Any], shape: Shape, classes: int) -> dict[str, Any]:
    """Which inputs are left, and what the network costs as it trained and as it ships.

    Args:
        model: a CondenseNet of form `training`. weights: {"params", "stats"}, nested mappings, as it was trained.
        shape, classes: of the data.

    Returns:
        `groups`: of each learned group convolution its name, inputs (`channels`), how many of them each of its filter groups
        has `kept`, and its `density`, the share of its weights in use. `density`: over all of them. `costs`: see
        `flaxcomp.compress.prune.method.report`.

    Raises:
        UserError: the model has no learned group convolution.
    """
    masks = {path.removesuffix("/mask"): np.asarray(leaf) for path, leaf in flat(weights["stats"]) if path.endswith("/mask")}
    if not masks:
        raise UserError(f"a condensation is reported of a condensenet of form `training`; {model['name']} has no learned group "
                        "convolution")  # fmt: skip
    groups = [_layer(name, mask, registry.config_of(model).groups) for name, mask in masks.items()]  # type: ignore[attr-defined]
    weights_left, weights_all = (sum(sizes) for sizes in zip(*((m.sum(), m.size) for m in masks.values()), strict=True))
    before, after = count(model, shape, classes), count(registry.shipped(model), shape, classes)
    costs = {name: {"before": getattr(before, of), "after": getattr(after, of)}
             for name, of in (("params", "trainable_params"), ("macs", "macs"))}  # fmt: skip
    return {"groups": groups, "density": float(weights_left / weights_all), "costs": costs}


def write(paths: RunPaths, trial: str, config: TrialConfig, info: DatasetInfo) -> None:
    """Write the report of a finished trial beside its network; nothing where its training has not condensed anything."""
    if registry.shipped(config.model) == config.model:
        return
    details = report(config.model, load_model(paths.model(trial)), input_shape(config.dataset, info), info.num_classes)
    durable.write_text(paths.compression_file(trial), json.dumps({"figures": {}, "details": as_plain(details)}))


def _layer(name: str, mask: Any, groups: int) -> dict[str, Any]:
    """`mask` is [1, 1, inputs, outputs]; output o belongs to filter group o % groups."""
    used = mask[0, 0].reshape(mask.shape[2], -1, groups).any(1)  # [inputs, groups]
    return {"name": name, "channels": mask.shape[2], "kept": used.sum(0).tolist(), "density": float(mask.mean())}
