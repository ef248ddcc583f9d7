"""The blocks of a trial that make its trained network smaller, one file each; none of it needs JAX."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxcomp.sweep.spec import TrialConfig

METHODS = ("prune", "morphnet", "netadapt", "cramnet", "subset", "quantize")  # in the order in which they apply


def method_of(config: "TrialConfig") -> str | None:
    """The method of compression that a trial performs: the last of its blocks."""
    return next((name for name in reversed(METHODS) if getattr(config, name) is not None), None)


def figures_of(method: str) -> tuple[str, ...]:
    """The names of what a method records of a trial."""
    figures: tuple[str, ...] = getattr(importlib.import_module(f"{__name__}.{method}"), "FIGURES", ())
    return figures
