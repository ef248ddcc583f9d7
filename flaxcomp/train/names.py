"""Names of parameters and batch statistics, such as `blocks.3.conv.kernel`, and patterns for them.

In a pattern `*` stands for anything within one part of a name and `**` also across parts. A pattern for a layer stands for
all that is in it: `blocks.3` and `blocks.*` both match `blocks.3.conv.kernel`.
"""

import re
from collections.abc import Iterable
from typing import Any

import jax

from flaxcomp.errors import UserError, suggest

_WILDCARD = re.compile(r"\*\*?")
_TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
MOST_NAMED = 5  # in a message


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a leaf by its path as `jax.tree_util` gives it."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def matching(pattern: str, names: Iterable[str], key: str) -> set[str]:
    """The names that a pattern matches.

    Args:
        pattern: see above.
        names: all that there are.
        key: what gives the pattern, for the message.

    Raises:
        UserError: there is none; nearby ones are named.
    """
    names = list(names)
    expression = _compile(pattern)
    found = {name for name in names if expression.fullmatch(name)}
    if not found:
        layers = {name.rpartition(".")[0] for name in names}
        raise UserError(f"{key}: {pattern!r} matches no parameter.{_near(pattern, names, layers)}")
    return found


def rename(names: Iterable[str], rules: dict[str, str], layout: str) -> dict[str, str]:
    """What a weight file calls our parameters and statistics: {our name: its name}.

    The first rule that matches a name replaces what it matches, the wildcards of its value standing for what those of its
    key stood for; a name without a rule stays. With `torch`, what is left of a name ends as PyTorch has it (`weight`,
    `running_mean`).

    >>> rename(["blocks.3.conv.kernel", "logits.bias"], {"blocks.*.conv": "features.*.0", "logits": "fc"}, "torch")
    {'blocks.3.conv.kernel': 'features.3.0.weight', 'logits.bias': 'fc.bias'}

    Raises:
        UserError: a rule matches nothing, or two names become one.
    """
    names = list(names)
    for pattern in rules:
        matching(pattern, names, "train.init_from.names")
    compiled = [(_compile(pattern), value) for pattern, value in rules.items()]
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        theirs = renamed[name] = _renamed(name, compiled, layout)
        if theirs in taken:
            raise UserError(f"train.init_from.names: {taken[theirs]} and {name} would both be {theirs!r} of the file")
        taken[theirs] = name
    return renamed


def few(names: Iterable[str]) -> str:
    """Some names, for a message."""
    names = sorted(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]], layout: str) -> str:
    for expression, value in rules:
        match = expression.fullmatch(name)
        if match:
            *stood_for, rest = match.groups()
            return _fill(value, stood_for) + _leaf_of(rest, layout)
    return _leaf_of(name, layout)


def _fill(value: str, stood_for: list[str]) -> str:
    texts = iter(stood_for)
    return _WILDCARD.sub(lambda _: next(texts), value)


def _leaf_of(name: str, layout: str) -> str:
    parent, dot, leaf = name.rpartition(".")
    return name if layout != "torch" else parent + dot + _TORCH_LEAVES.get(leaf, leaf)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = [re.escape(text) for text in _WILDCARD.split(pattern)]
    stars = [r"(.*)" if star == "**" else r"([^.]*)" for star in _WILDCARD.findall(pattern)]
    expression = parts[0] + "".join(star + part for star, part in zip(stars, parts[1:], strict=True))
    return re.compile(expression + r"((?:\..*)?)", re.DOTALL)


def _near(pattern: str, names: Iterable[str], layers: Iterable[str]) -> str:
    near = suggest(pattern[:80], {*names, *layers}, "`flaxcomp model NAME` shows the layers")
    return near if near.startswith(" Did") else f" There are {few(names)}."
