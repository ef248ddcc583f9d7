"""Finds CramNet's sub-problems in a network's program (Hoffman 2018, section 3.1.1).

A sub-problem is a layer with the sets of parameters before and behind it: re-sizing the layer changes these two. Around it the
network is cut: what comes before gives the sub-problem its input, what comes behind turns its output into logits. Both must be
possible, so the layer's channels may be made in one place only and be seen in one place only; a skip connection that adds them
to others, or hands them to many layers, breaks the sub-problem's bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcomp.compress.cramnet.cutting import Line
from flaxcomp.compress.prune.coupling import Coupling, couple, evaluated
from flaxcomp.compress.prune.follow import flat
from flaxcomp.compress.prune.groups import Group
from flaxcomp.errors import UserError, suggest
from flaxcomp.models import layers, registry
from flaxcomp.models.config import check_number_of_widths

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class SubProblem:
    """A layer to re-size or to replace.

    Attributes:
        layer: its name in the original network.
        entry: which of the model's `widths` counts its channels.
        width, target: channels or units before and after.
        kind: what replaces the layer, None where it stays what it is.
    """

    layer: str
    entry: int
    width: int
    target: int
    kind: str | None = None

    def solved(self, model: dict[str, Any]) -> dict[str, Any]:
        """A model with this layer as it is to be."""
        widths = list(registry.default_widths(model) or ())
        widths[self.entry] = self.target
        changed = {**model, "widths": widths}
        if self.kind is not None:
            kinds = list(registry.config_of(model).kinds)  # type: ignore[attr-defined]  # `find` has checked that it is there
            kinds[self.entry] = self.kind
            changed["kinds"] = kinds
        return registry.canonical(changed)


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in the program: the number of the first use, and the parts (`Line.parts`) that use it."""

    number: int
    parts: frozenset[int]


def find(
    model: dict[str, Any],
    shape: Shape,
    classes: int,
    widths: Sequence[int] | None = None,
    ratio: float | None = None,
    replace: Mapping[str, str] | None = None,
) -> list[SubProblem]:
    """The sub-problems of a model in the order of its layers, from the input to the output.

    Args:
        model: name and options of the original network.
        shape, classes: of the data.
        widths: those of the smaller network, in the order of the model's; a layer that keeps its width has no sub-problem.
        ratio: instead, the share of each width that goes, in [0, 1); at least one channel stays.
        replace: by the name of a layer, what stands in its place.

    Raises:
        UserError: there are not so many widths, one would grow, a layer does not exist or cannot be replaced, or a
            sub-problem cannot be cut.
    """
    coupling = couple(model, shape, classes)
    old = tuple(entry.width for entry in coupling.entries)
    if not old:
        raise UserError(f"cramnet must have a model with the option `widths`, which {model['name']} lacks")
    new = _targets(model, old, widths, ratio)
    kinds = _replaced(model, coupling, replace or {})
    final = coupling
    if kinds:
        every = list(registry.config_of(model).kinds)  # type: ignore[attr-defined]
        final = couple({**model, "kinds": [kinds.get(i, kind) for i, kind in enumerate(every)]}, shape, classes)
    places = [places_of(c.model, shape, classes) for c in (coupling, final)]
    names = _layer_names(coupling)
    found = []
    for entry, (width, target) in enumerate(zip(old, new, strict=True)):
        if width == target and entry not in kinds:
            continue
        for at, c in zip(places, (coupling, final), strict=True):
            _refuse_uncut(entry, width, _groups(c, entry), at)
        made = [axis.leaf for group in _groups(coupling, entry) for axis in group.members if axis.role == "out"]
        first = min(places[0][leaf].number for leaf in made)
        found.append((first, SubProblem(names[entry], entry, width, target, kinds.get(entry))))
    return [problem for _, problem in sorted(found, key=lambda pair: pair[0])]


def places_of(model: dict[str, Any], shape: Shape, classes: int) -> dict[str, Place]:
    """Where the parameters of a network stand, by path; what is used in training only is not among them."""
    shape = tuple(model.get("input_shape", shape))
    network = evaluated(model, shape, classes)
    graph, params, rest = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    arrays = (nnx.to_pure_dict(params), nnx.to_pure_dict(rest))
    with layers.plain_forms():
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        program = jax.make_jaxpr(lambda p, r, x: nnx.merge(graph, p, r)(x))(*arrays, image)
    line = Line.of(program, [name for tree in arrays for name, _ in flat(tree)])
    first: dict[str, int] = {}
    for i, names in enumerate(line.used):
        for leaf in names:
            first.setdefault(leaf, i)
    return {leaf: Place(first[leaf], frozenset(parts)) for leaf, parts in line.parts().items()}


def layer_of(leaf: str) -> str:
    """The layer that a parameter or statistic belongs to, both by path."""
    return leaf.rpartition("/")[0]


def layers_around(coupling: Coupling, entry: int) -> set[str]:
    """The layers of the sub-problem of a width: those that make and see its channels, and what normalises their outputs."""
    around = {layer_of(axis.leaf) for group in _groups(coupling, entry) for axis in group.members}
    for group in coupling.groups:
        if around & {layer_of(axis.leaf) for axis in group.members if axis.role == "out"}:
            around |= {layer_of(axis.leaf) for axis in group.members if axis.role == "vector"}
    return around


def _groups(coupling: Coupling, entry: int) -> list[Group]:
    return [group for group in coupling.groups if entry in group.widths]


def _layer_names(coupling: Coupling) -> dict[int, str]:
    """The layers whose channels the model's `widths` count, as they are called where nothing has replaced them."""
    model = {option: value for option, value in coupling.model.items() if option != "kinds"}
    if model != coupling.model:
        coupling = couple(model, coupling.input_shape, coupling.num_classes)
    return {entry: group.name for group in reversed(coupling.groups) for entry in group.widths}


def _targets(model: dict[str, Any], old: tuple[int, ...], widths: Sequence[int] | None, ratio: float | None) -> tuple[int, ...]:
    if ratio is not None:
        return tuple(max(1, round(width * (1 - ratio))) for width in old)
    if widths is None:
        return old
    check_number_of_widths(model["name"], tuple(widths), old)
    for i, (width, target) in enumerate(zip(old, widths, strict=True)):
        if target > width:
            raise UserError(f"cramnet.widths must not be larger than the network's: entry {i} of {model['name']} is {width}, "
                            f"got {target}")  # fmt: skip
    return tuple(widths)


def _replaced(model: dict[str, Any], coupling: Coupling, replace: Mapping[str, str]) -> dict[int, str]:
    """What replaces a layer, by the entry of `widths` that counts its channels."""
    if not replace:
        return {}
    known = getattr(registry.config_of(model), "kinds", None)
    if known is None:
        raise UserError(f"cramnet.replace must have a model whose layers can be replaced (with the option `kinds`, such as "
                        f"keras_cifar and vgg16), got {model['name']}")  # fmt: skip
    entries = {name: entry for entry, name in _layer_names(coupling).items() if entry < len(known)}
    for layer in replace:
        if layer not in entries:
            raise UserError(f"cramnet.replace must name convolutions of {model['name']}, got {layer!r}."
                            f"{suggest(layer, entries)}")  # fmt: skip
    kinds = {entries[layer]: kind for layer, kind in replace.items()}
    return {entry: kind for entry, kind in kinds.items() if known[entry] != kind}


def _refuse_uncut(entry: int, width: int, groups: list[Group], places: Mapping[str, Place]) -> None:
    """Refuse a width whose channels have more than one place in the program."""
    if not groups:
        raise UserError(f"cramnet.widths must keep {width} at entry {entry}: no layer's channels alone follow it, so no "
                        "sub-problem has it")  # fmt: skip
    for group in groups:
        what = f"cramnet.widths must keep {width} at entry {entry}: no sub-problem can be cut around layer {group.name}"
        if group.frozen is not None:
            raise UserError(f"{what}, its channels must stay ({group.frozen})")
        for role, verb in (("out", "made"), ("in", "seen")):
            found = sorted({axis.leaf for axis in group.members if axis.role == role})
            if absent := [leaf for leaf in found if leaf not in places]:
                raise UserError(f"{what}: {layer_of(absent[0])}, which has its channels, runs in training only")
            if len(frozenset[int]().union(*(places[leaf].parts for leaf in found))) > 1:
                far = next((layer for layer in map(layer_of, found) if layer != group.name), group.name)
                raise UserError(f"{what}: its channels are {verb} in several places, also by {far} (a skip connection, "
                                "or many readers)")  # fmt: skip
