"""Criteria of channels, one file each: the file's name is `prune.criterion`.

A criterion says what it NEEDS, how a group's scores are made comparable unless the sweep file says otherwise (NORMALIZE, see
`flaxcomp.compress.prune.select.NORMALIZATIONS`), with SCOPE = "layer" that it takes the same share of every group, and has
`score`, larger for what matters more. It is arithmetic on what was gathered of one group and knows no network, so it imports
NumPy alone. A group that has nothing of what it needs (no batch norm) is scored infinite: its channels stay.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flaxcomp.errors import UserError, suggest

Floats = NDArray[Any]  # of floating-point numbers
Needs = Literal["nothing", "filters", "scales", "activations", "gradients"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What is known of the channels of a group; only what its criterion needs is filled.

    Attributes:
        size: channels.
        random: numbers that depend on the seed and the group alone.
        filters: by layer that makes the channels (several where a sum ties them, and depthwise ones), its weights
            [channels, weights].
        scales: by batch norm on the channels, its scale [channels].
        activations: of each image the L2 norm of what is read of each channel, [images, channels].
        gradients: of each image the derivative of its cross-entropy by a gate on each channel, [images, channels]; see
            `flaxcomp.compress.prune.probe`.
    """

    size: int
    random: np.random.Generator
    filters: tuple[Floats, ...] = ()
    scales: tuple[Floats, ...] = ()
    activations: Floats | None = None
    gradients: Floats | None = None


class Criterion(Protocol):
    """What the file of a criterion holds."""

    NEEDS: Needs
    NORMALIZE: str

    def score(self, evidence: Evidence) -> Floats:
        """How much each channel matters, [channels]."""


def names() -> list[str]:
    """All criteria, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Criterion:
    """The criterion of a name.

    Raises:
        UserError: there is none.
    """
    if name not in names():
        raise UserError(f"no pruning criterion is called {name!r}.{suggest(name, names())}")
    criterion: Criterion = importlib.import_module(f"{__name__}.{name}")
    return criterion


def unknown(evidence: Evidence) -> Floats:
    """The scores of a group that has nothing of what a criterion needs."""
    return np.full(evidence.size, np.inf)
