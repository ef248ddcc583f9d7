"""Refuses methods of compression that a network makes impossible, before anything is trained. Run as a program, it checks.

That needs JAX, which this process leaves to the workers: it would take the accelerator's memory from them.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flaxcomp.errors import UserError
from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.spec import TrialConfig

if TYPE_CHECKING:
    from flaxcomp.sweep.expand import Trial

_REFUSED = 3  # exit code


class _Asked(msgspec.Struct):
    """What the program reads: configurations, and where the tables that they name lie, by their content."""

    configs: list[TrialConfig]
    tables: dict[str, str]


def check_methods(trials: "Iterable[Trial]", tables: Mapping[str, Path]) -> None:
    """Ask each method about one trial of each kind.

    Args:
        tables: where the tables of measured layers lie that they name by their content.

    Raises:
        UserError: the first refusal.
    """
    examples = {trial.signature: trial.config for trial in trials if method_of(trial.config)}
    if not examples:
        return
    question = _Asked(list(examples.values()), {content: str(path) for content, path in tables.items()})
    asked = subprocess.run(
        [sys.executable, "-m", __name__], input=msgspec.json.encode(question), capture_output=True, check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    if asked.returncode == _REFUSED:
        raise UserError(asked.stdout.decode())
    if asked.returncode:
        raise RuntimeError(f"the methods of compression could not be checked:\n{asked.stderr.decode()}")


def main() -> None:
    """Read a JSON object as `_Asked` has it; print the first refusal."""
    from flaxcomp.compress.method import with_tables
    from flaxcomp.compress.run import check
    from flaxcomp.data import catalog
    from flaxcomp.train.inputs import input_shape

    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Asked)
    for config in asked.configs:
        info = catalog.outline(config.dataset.name)
        try:
            known = with_tables(config, lambda content: Path(asked.tables[content]))
            check(known, input_shape(config.dataset, info), info.num_classes)
        except UserError as error:
            sys.stdout.write(str(error))
            raise SystemExit(_REFUSED) from None


if __name__ == "__main__":
    main()
