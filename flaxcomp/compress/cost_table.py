"""Tables of measured layers: what a layer takes in milliseconds.

A table is a YAML or JSON file. Its mapping `layers` goes from what a layer is to its latency in ms (`layer_key` writes it, and
`flaxcomp.models.counting.products` lists a network's); whatever stands beside it, such as the device, is left alone:

    layers:
      conv 3x3/1 32x32x16 -> 32x32x32: 0.81
      conv 1x1/1 8x8x32 -> 8x8x64 groups 4: 0.04
      depthwise 3x3/2 32x32x16 -> 16x16x16: 0.09
      dense 64 -> 10: 0.01

A layer that was not measured costs what the cheapest measured one of the same kind that is at least as wide does: latency is
a staircase in the channels, and to interpolate errs by more than to round up to the next stair.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flaxcomp.errors import UserError
from flaxcomp.models.counting import Product


def is_depthwise(layer: Product) -> bool:
    """Whether every channel has a filter of its own."""
    return layer.groups > 1 and layer.groups == layer.input_shape[-1]


def layer_key(layer: Product) -> str:
    """What a layer is, as tables name it: kind, window/stride, input -> output (height x width x channels), groups."""
    ends = " -> ".join("x".join(map(str, shape)) for shape in (layer.input_shape, layer.output_shape))
    if not layer.window:
        return f"dense {ends}"
    window, stride = ("x".join(map(str, sizes)) for sizes in (layer.window, sorted(set(layer.strides))))
    kind = "depthwise" if is_depthwise(layer) else "conv"
    return f"{kind} {window}/{stride} {ends}" + (f" groups {layer.groups}" if kind == "conv" and layer.groups > 1 else "")


_KEY = re.compile(r"(?P<kind>dense|(?:conv|depthwise) \d+x\d+/\d+(?:x\d+)?) (?P<input>(?:\d+x\d+x)?)(?P<c_in>\d+) -> "
                  r"(?P<output>(?:\d+x\d+x)?)(?P<c_out>\d+)(?P<groups>(?: groups \d+)?)")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Latencies of measured layers.

    Attributes:
        source: the file, for errors.
        layers: in ms, by `layer_key`.
    """

    source: str
    layers: Mapping[str, float]

    @functools.cached_property
    def _alike(self) -> dict[tuple[str, ...], list[tuple[int, int, float]]]:
        """By all of a layer but its channels, the measured ones as inputs, outputs, ms."""
        alike: dict[tuple[str, ...], list[tuple[int, int, float]]] = {}
        for key, latency in self.layers.items():
            family, c_in, c_out = _parsed(key)
            alike.setdefault(family, []).append((c_in, c_out, latency))
        return alike

    def latency_ms(self, layer: Product) -> float:
        """Of a layer, or of the cheapest one of its kind that is at least as wide.

        Raises:
            UserError: there is none.
        """
        key = layer_key(layer)
        if key in self.layers:
            return self.layers[key]
        family, c_in, c_out = _parsed(key)
        families = [family]
        if family[0].startswith("conv") and (c_in, c_out) == (1, 1):  # which of both it is, a single channel does not show
            families.append((family[0].replace("conv", "depthwise"), *family[1:]))
        measured = [entry for each in families for entry in self._alike.get(each, [])]
        wider = [latency for inputs, outputs, latency in measured if inputs >= c_in and outputs >= c_out]
        if not wider:
            lacking = f"its {len(measured)} of that kind have fewer channels" if measured else "it has none of that kind"
            name = (layer.kernel or "").rpartition("/")[0]
            raise UserError(f"cost table {self.source} has no entry for layer {name}, `{key}`, nor for a wider one "
                            f"({lacking}): measure it, or let another cost decide")  # fmt: skip
        return min(wider)


def _parsed(key: str) -> tuple[tuple[str, ...], int, int]:
    found = _KEY.fullmatch(key)
    assert found is not None, "load_table and layer_key let no other pass"
    return found.group("kind", "input", "output", "groups"), int(found["c_in"]), int(found["c_out"])


def load_table(path: Path) -> Table:
    """Read a table of measured layers.

    Raises:
        UserError: the file is missing or not of the form above; the entry is named.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"cost table {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cost table {path} cannot be read: {error}") from None
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, dict) or not layers:
        raise UserError(f"cost table {path} must have a mapping `layers` from layers to milliseconds")
    for key, latency in layers.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UserError(f"cost table {path}: an entry must read like `conv 3x3/1 32x32x16 -> 32x32x32`, got {key!r}")
        if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0 <= latency < math.inf:
            raise UserError(f"cost table {path}, `{key}`: a latency is a number of ms, 0 at least, got {latency!r}")
    return Table(str(path), {key: float(latency) for key, latency in layers.items()})


def table_at(costs: str | None) -> Table | None:
    """The table that a block names by its `costs`; None where it names none."""
    return None if costs is None else load_table(Path(costs))
