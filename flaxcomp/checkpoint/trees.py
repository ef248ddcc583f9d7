"""Pytrees as flat dictionaries of named NumPy arrays, which is what is written, and back."""

import zlib
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

Flat = dict[str, npt.NDArray[Any]]


def flatten(tree: Any) -> Flat:
    """Return {"params/logits/kernel": array, ...} in host memory; waits for the device."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(flat: Flat, template: Any) -> Any:
    """Return the arrays of `flat` in the structure of `template`.

    Args:
        flat: as `flatten` made it.
        template: a tree of arrays or shapes of the wanted structure.

    Raises:
        ValueError: names or shapes differ from the template's.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {_name(path): tuple(np.shape(leaf)) for path, leaf in paths}
    given = {name: array.shape for name, array in flat.items()}
    if expected != given:
        name = next(n for n in sorted({*expected, *given}) if expected.get(n) != given.get(n))
        raise ValueError(f"{name}: the network needs shape {expected.get(name)}, the checkpoint has {given.get(name)}")
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in expected])


def nest(flat: Flat) -> dict[Any, Any]:
    """Return nested dictionaries; parts of a name that are numbers become integers, as in `flax.nnx.to_pure_dict`."""
    tree: dict[Any, Any] = {}
    for name, array in flat.items():
        *parents, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def checksum(flat: Flat) -> int:
    """CRC-32 over names and contents."""
    value = 0
    for name in sorted(flat):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(flat[name]).data.cast("B") if flat[name].size else b"", value)
    return value


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
