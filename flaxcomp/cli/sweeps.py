"""The sweep that a command is given: a file, or the folder of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.run_file import read_inputs, read_overrides, write_inputs

if TYPE_CHECKING:
    from flaxcomp.cli.catalog import RoomCatalog


@dataclass(frozen=True)
class GivenSweep:
    """Attributes:
    file: the sweep file.
    overrides: as for `--set`, in their order.
    run: the run whose sweep it is; None for a file.
    copies: that run's, of files that the sweep names, by the path there.
    """

    file: Path
    overrides: tuple[str, ...]
    run: RunPaths | None = None
    copies: Mapping[str, Path] = field(default_factory=dict)


def given_sweep(sweep: Path, overrides: Sequence[str]) -> GivenSweep:
    """A run folder stands for the sweep that it was last run with, its `--set` included; what is given now comes after them."""
    paths = RunPaths.at(sweep)
    if not paths.run_file.is_file():
        return GivenSweep(sweep, tuple(overrides))
    given = {_key(override) for override in overrides}
    before = [override for override in read_overrides(paths) if _key(override) not in given]
    return GivenSweep(sweep / paths.sweep_file.name, (*before, *overrides), paths, read_inputs(paths))


def keep_inputs(catalog: "RoomCatalog", paths: RunPaths) -> None:
    """Copy the files that the sweep names into the run folder, which then needs nothing from outside.

    Raises:
        UserError: one has changed since it was read.
    """
    from flaxcomp.checkpoint.weights import keep

    for content, source in catalog.sources().items():
        keep(source, content, paths.weights(content))
    write_inputs(paths, catalog.contents)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
