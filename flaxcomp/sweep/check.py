"""Checks plain values against the structs of `spec`, and says what is wrong in the words of the file."""

import functools
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from flaxcomp.errors import suggest
from flaxcomp.sweep.document import Place, Route, dotted, show

Where = Callable[[Route], Place]

ALL_KEYS = "`flaxcomp schema` prints all"

_PLAIN = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
_YAML_1_1_BOOLEANS = {"yes", "no", "on", "off", "y", "n"}


def check(value: Any, kind: Any, where: Where, route: Route = (), *, partial: bool = False) -> None:
    """Raise for the first fault of `value`, in the order of the file.

    Args:
        value: what the file holds.
        kind: what it must be: a struct of `spec`, or the type of one of its fields.
        where: tells the place of a route.
        route: how the whole is called in messages.
        partial: required keys may be absent, because something else gives them.

    Raises:
        SweepFileError: unknown key, missing key, wrong type or impossible value.
    """
    struct = struct_of(kind)
    if struct is not None and isinstance(value, dict):
        _check_struct(value, struct, where, route, partial)
    elif (item := _item_of(kind)) is not None and isinstance(value, list) and value:
        for index, element in enumerate(value):
            check(element, item, where, (*route, index), partial=partial)
    elif (item := _value_of(kind)) is not None and isinstance(value, dict):
        for key, element in value.items():
            check(element, item, where, (*route, key), partial=partial)
    else:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            message = f"{dotted(route)} must be {describe(kind)}, got {show(value)}{_hint(value, kind)}"
            raise where(route).error(message) from None


def kind_at(kind: Any, route: Route, where: Where) -> Any:
    """The type of the field that `route` leads to inside `kind`; `Any` inside a model, whose options the catalog knows.

    Raises:
        SweepFileError: there is no such field; the nearest name is suggested.
    """
    for depth, step in enumerate(route):
        struct = struct_of(kind)
        if struct is None:
            if has_keys(kind):
                return Any
            inside = dotted(route[:depth])
            raise where(route[: depth + 1]).error(f"unknown key {show(step)}: {inside} is {describe(kind)} and has no keys")
        known = fields(struct)
        if step not in known:
            raise where(route[: depth + 1]).error(_unknown(str(step), route[:depth], known))
        kind = known[step].type
    return kind


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct among the alternatives of a type, if there is one."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def has_keys(kind: Any) -> bool:
    """Whether values of a type can be mappings."""
    return struct_of(kind) is not None or kind is Any or get_origin(kind) is dict


@functools.cache
def fields(struct: type[msgspec.Struct]) -> dict[str | int, msgspec.structs.FieldInfo]:
    """The fields of a struct by their keys in the file."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def describe(kind: Any) -> str:
    """What a type allows, in words: "an integer >= 1 or 'auto'"."""
    return " or ".join(dict.fromkeys(_describe_option(option) for option in _options(kind)))


def _check_struct(value: dict[str, Any], struct: type[msgspec.Struct], where: Where, route: Route, partial: bool) -> None:
    known = fields(struct)
    for key, item in value.items():
        if key not in known:
            raise where((*route, key)).error(_unknown(key, route, known))
        check(item, known[key].type, where, (*route, key), partial=partial)
    missing = [str(key) for key, field in known.items() if field.required and key not in value]
    if missing and not partial:
        raise where(route).error(f"{dotted(route)} needs the key {missing[0]!r}")
    if hasattr(struct, "__post_init__"):  # sees several fields at once
        try:
            msgspec.convert(value, struct)
        except msgspec.ValidationError as error:
            raise where(route).error(f"{dotted(route)}: {error}") from None


def _unknown(key: str, route: Route, known: dict[str | int, Any]) -> str:
    inside = f" in {dotted(route)}" if route else ""
    return f"unknown key {show(key)}{inside}.{suggest(key[:80], map(str, known), ALL_KEYS)}"


def _options(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, each with its constraints."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(option for part in get_args(kind) for option in _options(part))
    return (kind,)


def _item_of(kind: Any) -> Any:
    """The element type of `tuple[X, ...]`, else None."""
    for option in _options(kind):
        bare = get_args(option)[0] if get_origin(option) is Annotated else option
        if get_origin(bare) is tuple and get_args(bare)[-1] is Ellipsis:
            return get_args(bare)[0]
    return None


def _value_of(kind: Any) -> Any:
    """The value type of `dict[str, X]`, else None."""
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _describe_option(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        bare, *metas = get_args(kind)
        return " ".join(filter(None, [_describe_option(bare), *(_describe_meta(meta) for meta in metas)]))
    if get_origin(kind) is Literal:
        names = [show(name) for name in get_args(kind)]
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if get_origin(kind) is tuple:
        items = get_args(kind)
        return "a list" if items[-1] is Ellipsis else f"a list of {len(items)} values, each {describe(items[0])}"
    return "a list" if get_origin(kind) is list else _PLAIN.get(kind, "a mapping")


def _describe_meta(meta: msgspec.Meta) -> str:
    bounds = {">=": meta.ge, ">": meta.gt, "<=": meta.le, "<": meta.lt}
    words = [f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None]
    if meta.pattern:
        words.append(f"that matches {meta.pattern}")
    if meta.min_length:
        words.append(f"of {meta.min_length} or more")
    return " and ".join(words)


def _hint(value: Any, kind: Any) -> str:
    if isinstance(value, str):
        literals = [str(name) for option in _options(kind) if get_origin(option) is Literal for name in get_args(option)]
        near = suggest(value[:80], literals)
        if near.startswith(" Did"):  # all known ones stand in the message already
            return f".{near}"
        if bool in _options(kind) and value.lower() in _YAML_1_1_BOOLEANS:
            return "; write true or false"
    return ""
