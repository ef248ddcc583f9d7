"""`--set PATH=VALUE[,VALUE...]` on the command line changes a sweep file before it is read further.

The path of a trial's part (`train.epochs`, also `base.train.epochs`) with one value sets it in `base` and drops what the file
varied at that path or inside it; with several values it makes or replaces a parameter, in every block. The path of one of
the sweep's own keys (`resources.pack`, `name`, `teachers.big.train.epochs`) takes one value. Values are YAML:
`[int8, float32]` is one value, a list; `int8,float32` are two.
"""

import functools
from collections.abc import Sequence

from flaxcomp.errors import SweepFileError, suggest
from flaxcomp.sweep.check import ALL_KEYS, fields, kind_at
from flaxcomp.sweep.document import Node, Place, Route, parse, show
from flaxcomp.sweep.parameters import Path, read_forms
from flaxcomp.sweep.spec import Sweep, TrialForm


def apply_overrides(document: Node, overrides: Sequence[str]) -> Node:
    """Return the document as changed by the overrides, in their order.

    Raises:
        SweepFileError: an override is no `PATH=VALUE`, names an unknown path or gives several values to what takes one.
    """
    for text in overrides:
        path, values = _split(text)
        place = values.place
        if path[0] == "base" and len(path) > 1:
            path = path[1:]
        if path[0] in fields(TrialForm):
            kind_at(TrialForm, path, functools.partial(_same, place))
            document = _set_trial(document, path, values)
        elif path[0] in fields(Sweep):
            if path[0] == "parameters":
                raise place.error("name what is varied itself, such as seed=1,2")
            if len(values.value) > 1:
                raise place.error(f"{'.'.join(path)} takes one value, got {len(values.value)}; write [a, b] for a list")
            document = document.with_part(path, Node(values.value[0], values.place))
        else:
            known = [*map(str, fields(TrialForm)), *map(str, fields(Sweep))]
            raise place.error(f"unknown key {show(path[0])}.{suggest(path[0][:80], known, ALL_KEYS)}")
    return document


def _same(place: Place, _: Route) -> Place:
    return place


def _split(text: str) -> tuple[Path, Node]:
    """The path, and the values as a list whose places name the override in the stead of a file."""
    name, sign, values = text.partition("=")
    place = Place(f"--set {text}")
    path = tuple(name.strip().split("."))
    if not sign or not all(path) or not values.strip():
        raise place.error("an override is PATH=VALUE or PATH=VALUE,VALUE, such as train.epochs=1")
    try:
        return path, Node(parse(f"[{values}]", place.file).value, place)
    except SweepFileError as error:  # its line would be one of the argument
        raise place.error(error.problem) from None


def _set_trial(document: Node, path: Path, values: Node) -> Node:
    single = len(values.value) == 1
    if single:
        document = document.with_part(("base", *path), Node(values.value[0], values.place))
    parameters = Node(document.value.get("parameters", {}), document.place.at(("parameters",)))
    blocks = []
    for forms in read_forms(parameters):
        kept = {other: form for other, form in forms.items() if other[: len(path)] != path}
        # What a parameter sets as a whole would hide a change of the base inside it.
        if not single or any(other == path[: len(other)] for other in kept):
            kept[path] = Node({"values": values.value}, values.place)
        blocks.append(kept)
    value = [{".".join(other): form.value for other, form in forms.items()} for forms in blocks]
    file, line = parameters.place.file, parameters.place.line
    places = [Place(file, line, {".".join(other): form.place for other, form in forms.items()}) for forms in blocks]
    if not isinstance(parameters.value, list):
        return document.with_part(("parameters",), Node(value[0], places[0]))
    return document.with_part(("parameters",), Node(value, Place(file, line, dict(enumerate(places)))))
