"""Runs the command-line clients of package registries; they know where the registries are."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from flaxcomp.errors import UserError

_LIMIT_S = 1800.0  # 139 MB at 80 kB/s


def run(command: Sequence[str], folder: Path) -> None:
    """Run `command` in `folder`.

    Raises:
        UserError: it is not installed, failed, or took more than half an hour.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_LIMIT_S, check=False)
    except FileNotFoundError as error:
        raise UserError(f"the program {command[0]!r} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{' '.join(command[:2])} was stopped after {_LIMIT_S:.0f} s.") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith(("E:", "npm ERR!", "npm error"))]
        raise UserError(
            f"{' '.join(command[:2])} failed with exit code {done.returncode}: {'; '.join(errors[:3]) or lines[-1]}"
        )
