"""YAML text to plain values that remember their lines.

Scalars follow YAML 1.2's core schema, so that files mean what they look like: `1e-3` is a number; `true` and `false` are
the only booleans (`yes`, `no`, `on`, `off` are text); `012` is twelve, dates are text. Beyond it, duplicate keys, keys that
are no text, tags, infinities and NaN are refused, and `<<` merges a mapping as in YAML 1.1.

The text is read as a stream of events rather than through PyYAML's composer, which overflows the C stack on deep nesting and
builds what aliases multiply.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from flaxcomp.errors import SweepFileError

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_VALUES = 1_000_000  # with aliases written out

Route = tuple[str | int, ...]  # keys and positions that lead to a value

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for name, value in (("null", None), ("true", True), ("false", False))
    for spelling in (name, name.capitalize(), name.upper())
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and where its parts do. Values under an alias share their parts' places."""

    file: str
    line: int | None = None
    parts: Mapping[str | int, "Place"] = field(default_factory=dict)

    def at(self, route: Route) -> "Place":
        """The place of the part at `route`, or of the nearest part around it that is known."""
        place = self
        for step in route:
            if step not in place.parts:
                break
            place = place.parts[step]
        return place

    def error(self, message: str) -> SweepFileError:
        return SweepFileError(message, file=self.file, line=self.line)


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place.

    Attributes:
        value: None, bool, int, float, str, or a list or dict of those; shared between aliases, so never changed in place.
        size: how many values it holds, aliases written out.
    """

    value: Any
    place: Place
    size: int = 1

    def with_part(self, route: Sequence[str], part: "Node") -> "Node":
        """A copy in which `part` stands at `route`; mappings on the way are made where there is none.

        Raises:
            SweepFileError: something on the way is neither a mapping nor null.
        """
        if not route:
            return part
        here = {} if self.value is None else self.value
        if not isinstance(here, dict):
            raise part.place.error(f"cannot set {'.'.join(route)!r} inside {show(here)}, which is no mapping")
        step = route[0]
        inner = Node(here.get(step), self.place.parts.get(step, Place(part.place.file, part.place.line)))
        inner = inner.with_part(route[1:], part)
        place = replace(self.place, parts={**self.place.parts, step: inner.place})
        return Node({**here, step: inner.value}, place)


def read_text(path: Path, file: str) -> str:
    """Read a sweep file of at most `MAX_BYTES`.

    Raises:
        SweepFileError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SweepFileError(f"cannot read the sweep file: {error.strerror or error}", file=file) from None
    if len(data) > MAX_BYTES:
        raise SweepFileError("a sweep file may have 1 MiB at most; this one is larger", file=file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SweepFileError("a sweep file must be UTF-8 text", file=file, line=line) from None


def parse(text: str, file: str) -> Node:
    """Parse one YAML document.

    Raises:
        SweepFileError: what YAML or this module refuses, with the line.
    """
    if len(text) > MAX_BYTES:
        raise SweepFileError("a sweep file may have 1 MiB at most; this one is larger", file=file)
    try:
        return _Builder(file, yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context
        raise SweepFileError(f"not valid YAML: {problem}", file=file, line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise SweepFileError(f"not valid YAML: {' '.join(str(error).split())}", file=file) from None


def show(value: object, limit: int = 60) -> str:
    """A value as an error message quotes it: short, in the file's own words for null and the booleans."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class _Builder:
    """Makes nodes out of PyYAML's events."""

    def __init__(self, file: str, events: Iterator[yaml.Event]) -> None:
        self._file, self._events = file, events
        self._values = 0  # so far, aliases written out
        self._anchors: dict[str, Node] = {}
        self._open: dict[str, Route] = {}  # anchors of what is being built, and where it stands

    def document(self) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(None, Place(self._file, 1))
        node = self._node(next(self._events), ())
        next(self._events)  # the document's end
        extra = next(self._events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise self._place(extra).error("a sweep file holds one YAML document; here a second one starts")
        return node

    def _count(self, values: int, place: Place) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise place.error(f"a sweep file may hold {MAX_VALUES:,} values at most, aliases written out; here it has more")

    def _place(self, event: yaml.Event) -> Place:
        return Place(self._file, event.start_mark.line + 1)  # type: ignore[union-attr]  # parsed events have marks

    def _node(self, event: yaml.Event, route: Route) -> Node:
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place, route)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if len(route) > MAX_DEPTH:
            raise place.error(f"values may be nested {MAX_DEPTH} deep at most")
        self._count(1, place)
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise place.error(f"tags such as {show(event.tag)} are not allowed")
        if event.anchor:
            self._open[event.anchor] = route
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.tag is None
            node = Node(_scalar(event.value, place) if plain else event.value, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(place, route)
        else:
            node = self._mapping(place, route)
        if event.anchor:
            self._open.pop(event.anchor, None)
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str, place: Place, route: Route) -> Node:
        if anchor in self._open:
            around = [dotted(route[:end]) for end in range(len(self._open[anchor]), len(route) + 1)]
            raise place.error(f"the alias *{anchor} contains itself: {' -> '.join([*around, around[0]])}")
        if anchor not in self._anchors:
            raise place.error(f"the alias *{anchor} names no anchor above it")
        node = self._anchors[anchor]
        self._count(node.size, place)
        return replace(node, place=replace(node.place, line=place.line))

    def _sequence(self, place: Place, route: Route) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*route, len(items))))
        parts: dict[str | int, Place] = {index: item.place for index, item in enumerate(items)}
        return Node([item.value for item in items], replace(place, parts=parts), 1 + sum(item.size for item in items))

    def _mapping(self, place: Place, route: Route) -> Node:
        items: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        merged_size = 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_place = self._place(event)
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                source = self._node(next(self._events), (*route, "<<"))
                merged, merged_size = self._merge(source) | merged, merged_size + source.size
                continue
            key = self._node(event, (*route, "?")).value
            if not isinstance(key, str):
                raise key_place.error(f"a key must be text, got {show(key)}; put it in quotes")
            if key in items:
                raise key_place.error(f"the key {show(key)} stands here twice, first in line {items[key].place.line}")
            node = self._node(next(self._events), (*route, key))
            items[key] = replace(node, place=replace(node.place, line=key_place.line))
        size = 1 + merged_size + sum(item.size for item in items.values())
        items = merged | items
        parts: dict[str | int, Place] = {key: item.place for key, item in items.items()}
        values = {key: item.value for key, item in items.items()}
        return Node(values, replace(place, parts=parts), size)

    def _merge(self, node: Node) -> dict[str, Node]:
        """What `<<` brings: of a list of mappings, the first that has a key gives it."""
        if isinstance(node.value, list):
            brought: dict[str, Node] = {}
            for index, item in enumerate(node.value):
                brought = self._merge(Node(item, node.place.at((index,)))) | brought
            return brought
        if not isinstance(node.value, dict):
            raise node.place.error(f"<< merges a mapping or a list of mappings, got {show(node.value)}")
        return {key: Node(item, node.place.parts[key]) for key, item in node.value.items()}


def dotted(route: Route) -> str:
    """`("metrics", 0, "name")` as users write it: `metrics[0].name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in route)
    return text.removeprefix(".") or "the file"


def _scalar(text: str, place: Place) -> bool | int | float | str | None:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        integer = int(text, 0) if text[:2] in ("0o", "0x") else int(text[:32])  # 32 digits are too many already
        if abs(integer) >= 1 << 63:
            raise place.error(f"integers must fit in 64 bits, got {show(text)}")
        return integer
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and math.isinf(float(text))):
        raise place.error(f"numbers must be finite, got {show(text)}")
    if _FLOAT.fullmatch(text):
        return float(text) + 0.0  # -0.0 becomes 0.0: they are one number, and shall be one id
    return text
