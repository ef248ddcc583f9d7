"""The network that is left once thresholds are known: narrower, and with bitmaps where positions went."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from flaxcomp.compress.prune.surgery import Cut, plan, positions_kept, sliced
from flaxcomp.compress.subset.bitmaps import Removed, channels
from flaxcomp.compress.subset.channels import alive_channels
from flaxcomp.compress.subset.search import Reduction, Step
from flaxcomp.errors import UserError
from flaxcomp.models.counting import Counts
from flaxcomp.train.restore import weights_of


@dataclass(frozen=True, eq=False)
class Smaller:
    """A narrower network.

    Attributes:
        cut: what was taken out of the whole one.
        network: with the weights that are left.
        masks: by layer of which some positions go, 1 where they stay: uint8 of one image's shape.
        removed: by layer.
        held: channels of which no position is needed and that stay, because they are tied to others that are needed, because
            coupling freezes them, or because their number must be a multiple of another.
    """

    cut: Cut
    network: nnx.Module
    masks: dict[str, NDArray[np.uint8]]
    removed: dict[str, Removed]
    held: int

    @classmethod
    def of(cls, reduction: Reduction) -> "Smaller":
        """Take out what the thresholds say."""
        bitmaps = reduction.bitmaps(reduction.thresholds)
        kept = reduction.kept(bitmaps)
        coupling = reduction.channels.coupling
        hottest = {layer: channels(heat) for layer, heat in reduction.heat.items()}
        scores = {group.name: reduction.channels.scores(group, hottest) for group in coupling.free}
        cut = plan(coupling, kept, scores)
        stays = reduction.channels.of_layers(cut.kept)
        held = sum(int((stays[layer] & ~alive_channels(needed)).sum()) for layer, needed in bitmaps.items())
        if not reduction.partial:  # what stays, stays at all positions
            bitmaps = {layer: np.ones_like(needed) for layer, needed in bitmaps.items()}
        left = {output.layer: bitmaps[output.layer][..., positions_kept(cut, output.kernel)]
                for output in reduction.subject.traced.outputs}  # fmt: skip
        masks = {layer: needed.astype(np.uint8) for layer, needed in left.items() if not needed.all()}
        removed = {layer: Removed.of(heat, bitmaps[layer], stays[layer]) for layer, heat in reduction.heat.items()}
        return cls(cut, sliced(reduction.network, cut), masks, removed, held)

    @property
    def model(self) -> dict[str, Any]:
        """Name and options, those of a network that carries the bitmaps if there are any."""
        if not self.masks:
            return self.cut.model
        return {**self.cut.model, "masked": [layer.replace("/", ".") for layer in self.masks]}

    @property
    def weights(self) -> dict[str, Any]:
        """The weights of that model's network: {"params", "stats"}."""
        weights = weights_of(self.network)
        if not self.masks:
            return weights
        bitmaps = {layer.replace("/", "."): mask for layer, mask in self.masks.items()}
        inner = {"network": weights["stats"]} if weights["stats"] else {}
        return {"params": {"network": weights["params"]}, "stats": {"bitmaps": bitmaps, **inner}}

    def without_outputs(self, kernel: str, unwanted: NDArray[np.bool_], value: float) -> "Smaller":
        """The same with outputs that are `value` whatever they are given; their number stays, files and labels fit as before.

        Args:
            kernel: of the last layer, see `last_layer`. unwanted: which outputs, [classes].
        """
        graph, state = nnx.split(self.network)
        pure = nnx.to_pure_dict(state)
        *above, last = [int(part) if part.isdigit() else part for part in kernel.split("/")]
        node: Any = pure
        for part in above:
            node = node[part]
        node[last] = jnp.where(unwanted, 0, node[last])
        node["bias"] = jnp.where(unwanted, value, node["bias"])
        return replace(self, network=nnx.merge(graph, pure))

    def figures(self, before: Counts, after: Counts) -> dict[str, int | float]:
        """What went, in numbers.

        Args:
            before, after: of the whole and of the narrower network, without bitmaps.
        """
        gone = before.trainable_params - after.trainable_params
        whole, part = before.macs - after.macs, sum(self._skipped(after).values())
        return {
            "subset_parameters_removed": gone,
            "subset_parameters_removed_share": gone / before.trainable_params,
            "subset_removed_channels": sum(removed.whole for removed in self.removed.values()),
            "subset_removed_positions": sum(removed.part for removed in self.removed.values()),
            "subset_held_channels": self.held,
            "subset_macs_skipped": whole + part,
            "subset_macs_skipped_whole": whole,
            "subset_macs_skipped_partial": part,
        }

    def layers(self, steps: Sequence[Step], before: Counts, after: Counts) -> list[dict[str, Any]]:
        """What went of each layer, as its search found it."""
        macs = {layer.name: layer.macs for layer in before.layers}
        left, skipped = {layer.name: layer.macs for layer in after.layers}, self._skipped(after)
        rows = []
        for step in steps:
            removed, name = self.removed[step.layer], step.layer.partition("#")[0]
            ratio = removed.compression_ratio
            rows.append({
                "layer": step.layer, "threshold": step.threshold, "candidates": step.candidates, "positions": removed.positions,
                "channels": removed.channels, "removed_channels": removed.whole, "removed_positions": removed.part,
                "silent_positions": removed.silent, "dormant_density": removed.dormant_density,
                "compression_ratio": ratio if math.isfinite(ratio) else None,
                "macs": macs[name], "macs_skipped_whole": macs[name] - left[name],
                "macs_skipped_partial": skipped.get(step.layer, 0),
            })  # fmt: skip
        return rows

    def _skipped(self, after: Counts) -> dict[str, int]:
        """Multiply-adds that need not be done because a position is not needed, by layer: all that make it (section 7.1.2)."""
        macs = {layer.name: layer.macs for layer in after.layers}
        return {
            layer: macs[layer.partition("#")[0]] // mask.size * int((mask == 0).sum()) for layer, mask in self.masks.items()
        }


def last_layer(last: tuple[str, ...], leaves: Any) -> str:
    """The kernel of the one layer whose outputs, a bias added, are the network's.

    Raises:
        UserError: there is none such.
    """
    if len(last) != 1 or last[0].rpartition("/")[0] + "/bias" not in leaves:
        raise UserError("subset.outputs must be all for this network: the outputs of other classes can be switched off only "
                        "where they come straight from one layer with a bias")  # fmt: skip
    return last[0]
