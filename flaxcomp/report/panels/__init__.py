"""Panels, one file each: the file's name is the panel's name, and nothing else has to be edited for a new one.

A panel defines `TITLE`, `ORDER` (its place on the page), `info(frame)`, which gathers a frozen dataclass or None where there
is nothing to show, and `draw(info)`, which makes a Vega-Lite specification or a `Table` of it.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol

from flaxcomp.report.charts import Spec
from flaxcomp.report.tables import Table
from flaxcomp.store.frame import RunFrame


class Info(Protocol):
    """What every panel's dataclass has: `caption`, one to three sentences that say what is seen and what is not."""

    @property
    def caption(self) -> str: ...


class Panel(Protocol):
    """The module of a panel."""

    TITLE: str
    ORDER: int

    def info(self, frame: RunFrame) -> Info | None: ...

    def draw(self, info: Any) -> Spec | Table: ...


@dataclass(frozen=True)
class Drawn:
    """A panel that has something to show. `name` is fit for file names and anchors."""

    name: str
    title: str
    caption: str
    content: Spec | Table


def names() -> list[str]:
    """The panels of this folder, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Panel:
    module: Any = importlib.import_module(f"{__name__}.{name}")
    panel: Panel = module
    return panel


def draw_all(frame: RunFrame) -> list[Drawn]:
    """Draw the panels that have something to show, in the order of the page."""
    drawn = []
    for name, panel in sorted(((name, load(name)) for name in names()), key=lambda pair: (pair[1].ORDER, pair[0])):
        info = panel.info(frame)
        if info is not None:
            drawn.append(Drawn(name, panel.TITLE, info.caption, panel.draw(info)))
    return drawn
