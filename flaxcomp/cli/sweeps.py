"""The sweep that a command is given: a file, or the folder of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.run_file import read_overrides


@dataclass(frozen=True)
class GivenSweep:
    """Attributes:
    file: the sweep file.
    overrides: as for `--set`, in their order.
    run: the run whose sweep it is; None for a file.
    """

    file: Path
    overrides: tuple[str, ...]
    run: RunPaths | None


def given_sweep(sweep: Path, overrides: Sequence[str]) -> GivenSweep:
    """A run folder stands for the sweep that it was last run with, its `--set` included; what is given now comes after them."""
    paths = RunPaths.at(sweep)
    if not paths.run_file.is_file():
        return GivenSweep(sweep, tuple(overrides), None)
    given = {_key(override) for override in overrides}
    before = [override for override in read_overrides(paths) if _key(override) not in given]
    return GivenSweep(sweep / paths.sweep_file.name, (*before, *overrides), paths)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
