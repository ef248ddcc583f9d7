"""A `prune` block and a model made ready: groups, costs and the criterion, or the reason why not."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from flaxcomp.compress.cost_table import table_at
from flaxcomp.compress.costs import Cost, make_cost, prunable
from flaxcomp.compress.prune import criteria
from flaxcomp.compress.prune.coupling import Coupling, couple
from flaxcomp.compress.prune.evidence import is_scale
from flaxcomp.compress.prune.groups import IGNORED, Group, Overrides, Shape
from flaxcomp.compress.prune.surgery import Cut, plan
from flaxcomp.errors import UserError
from flaxcomp.models.counting import products
from flaxcomp.sweep.compression.prune import Prune


@dataclass(frozen=True, eq=False)
class Ready:
    """What pruning a network needs to know.

    Attributes:
        whole: the network as it is. counted: what `ratio` is a share of. divisor: what scores are divided by, if anything.
    """

    block: Prune
    criterion: criteria.Criterion
    whole: Cut
    counted: Cost
    divisor: Cost | None

    @property
    def coupling(self) -> Coupling:
        return self.whole.coupling


def prepare(block: Prune, model: dict[str, Any], shape: Shape, classes: int) -> Ready:
    """Find the groups that may be cut and what they cost.

    Raises:
        UserError: an override matches nothing, nothing may be cut, there is no batch norm for a criterion or penalty that
            needs it, or a table lacks a layer.
    """
    criterion = criteria.load(block.criterion)
    coupling = _spared(_coupled(block, model, shape, classes), block)
    if criterion.NEEDS == "scales" or block.penalty:
        coupling = _with_batch_norm(coupling, block, stays=criterion.NEEDS == "scales")
    if not prunable(coupling):
        raise UserError(f"prune: no group of channels of {model['name']} may be cut; `flaxcomp model {model['name']} --groups` "
                        "says why")  # fmt: skip
    table = table_at(block.costs)
    divisor = None if block.per_cost == "none" else make_cost(block.per_cost, coupling, table)
    return Ready(block, criterion, plan(coupling, {}), make_cost(block.of, coupling, table), divisor)


def narrowest(ready: Ready) -> float:
    """The cost of the network with one channel left in each group that may be cut."""
    cut = plan(ready.coupling, {group.name: [0] for group in prunable(ready.coupling)})
    return ready.counted.total(cut)


def check_ratio(ready: Ready) -> None:
    """Refuse a ratio that would take the last channel of a layer.

    Raises:
        UserError: with the largest ratio that is possible.
    """
    whole, least = ready.counted.total(ready.whole), narrowest(ready)
    if (1 - ready.block.ratio) * whole < least:
        most = math.floor(1e4 * (1 - least / whole)) / 1e4
        raise UserError(f"prune.ratio must be at most {most} of the {ready.counted.name} of {ready.coupling.model['name']}, "
                        f"got {ready.block.ratio}: a layer would lose its last channel")  # fmt: skip


def _coupled(block: Prune, model: dict[str, Any], shape: Shape, classes: int) -> Coupling:
    overrides = Overrides(
        ignore=block.ignore, tie=block.tie, round_to=tuple(block.round_to.items()), equal_count=block.equal_count
    )
    try:
        return couple(model, shape, classes, overrides)
    except UserError as error:
        named = str(error).startswith(("ignore:", "tie:", "round_to:", "equal_count:"))
        raise UserError(f"prune.{error}" if named else str(error)) from None


def _spared(coupling: Coupling, block: Prune) -> Coupling:
    """With the channels of strided layers left alone: of depthwise ones, and where all layers that make them are strided.

    A stage that a strided projection begins is made by its other layers too, so it may be cut.
    """
    if not block.spare_strided:
        return coupling
    layers = products(plan(coupling, {}).network, coupling.input_shape)
    strided = {layer.kernel for layer in layers if any(stride > 1 for stride in layer.strides)}

    def stays(group: Group) -> bool:
        makers = [axis.leaf in strided for axis in group.members if axis.role == "out" and len(coupling.shapes[axis.leaf]) > 1]
        return any(axis.leaf in strided for axis in group.members if axis.role == "depthwise") or (bool(makers) and all(makers))

    return _ignoring(coupling, [group for group in coupling.free if stays(group)])


def _with_batch_norm(coupling: Coupling, block: Prune, *, stays: bool) -> Coupling:
    """With the groups left alone that have no batch norm, where the criterion is its scale."""
    without = [group for group in coupling.free if not any(is_scale(axis.leaf, coupling) for axis in group.members)]
    if len(without) == len(coupling.free):
        key = f"prune.criterion {block.criterion}" if stays else "prune.penalty"
        raise UserError(f"{key} needs batch norm on channels that may go, and {coupling.model['name']} has none there: choose "
                        "another criterion, or another model")  # fmt: skip
    return _ignoring(coupling, without) if stays else coupling


def _ignoring(coupling: Coupling, groups: list[Group]) -> Coupling:
    """The coupling with these groups left alone, and not those whose number of channels follows from others."""
    names = {group.name for group in groups if group.widths}
    changed = tuple(dataclasses.replace(g, frozen=IGNORED) if g.name in names else g for g in coupling.groups)
    return dataclasses.replace(coupling, groups=changed)
