"""Refuses methods of compression that a network makes impossible, before anything is trained. Run as a program, it checks.

That needs JAX, which this process leaves to the workers: it would take the accelerator's memory from them.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.spec import TrialConfig

if TYPE_CHECKING:
    from flaxcomp.sweep.expand import Trial

_REFUSED = 3  # exit code


def check_methods(trials: "Iterable[Trial]", paths: RunPaths) -> None:
    """Ask each method about one trial of each kind.

    Args:
        paths: of the run, which has the tables that they name.

    Raises:
        UserError: the first refusal.
    """
    examples = {trial.signature: trial.config for trial in trials if method_of(trial.config)}
    if not examples:
        return
    asked = subprocess.run(
        [sys.executable, "-m", __name__, str(paths.root)], input=msgspec.json.encode(list(examples.values())),
        capture_output=True, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    if asked.returncode == _REFUSED:
        raise UserError(asked.stdout.decode())
    if asked.returncode:
        raise RuntimeError(f"the methods of compression could not be checked:\n{asked.stderr.decode()}")


def main() -> None:
    """Read a JSON list of configurations of the run that is named; print the first refusal."""
    from flaxcomp.compress.method import with_tables
    from flaxcomp.compress.run import check
    from flaxcomp.data import catalog
    from flaxcomp.train.inputs import input_shape

    for config in msgspec.json.decode(sys.stdin.buffer.read(), type=list[TrialConfig]):
        info = catalog.outline(config.dataset.name)
        try:
            check(with_tables(config, RunPaths.at(sys.argv[1])), input_shape(config.dataset, info), info.num_classes)
        except UserError as error:
            sys.stdout.write(str(error))
            raise SystemExit(_REFUSED) from None


if __name__ == "__main__":
    main()
