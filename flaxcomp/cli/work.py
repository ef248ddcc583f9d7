"""How much work each trial is, for the time left. Run as a program, it counts.

Counting traces every network, which takes a minute for a sweep of large ones. A process of its own does it, so that training
begins at once, and neither imports nor tracing meet those of a worker in this process.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING, Self

import msgspec

from flaxcomp.sweep.spec import TrialConfig

if TYPE_CHECKING:
    from flaxcomp.sweep.expand import Trial


class Work:
    """The work of trials in any unit, or None while it is not known yet; enter it to have it counted.

    Where counting fails, all trials count alike.
    """

    def __init__(self, trials: "Iterable[Trial]") -> None:
        trials = list(trials)
        self._signatures = {trial.id: trial.signature for trial in trials}
        self._examples = {trial.signature: trial.config for trial in trials}
        self._by_signature: dict[str, float] | None = None
        self._usual = 1.0
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, trial: str) -> float | None:
        if self._process is not None and self._process.poll() is not None:
            self._take(self._process)
        if self._by_signature is None:
            return None
        known = self._by_signature.get(self._signatures.get(trial, ""))
        return known if known is not None else self._usual  # what a search adds is not counted anew

    def __enter__(self) -> Self:
        if len(self._examples) < 2:
            self._by_signature = {}
            return self
        # Files, not pipes: nobody reads until all is written.
        self._given, self._result = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._given.write(msgspec.json.encode(self._examples))
        self._given.seek(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=self._given, stdout=self._result, stderr=subprocess.DEVNULL,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _take(self, process: "subprocess.Popen[bytes]") -> None:
        self._result.seek(0)
        self._by_signature = msgspec.json.decode(self._result.read(), type=dict[str, float]) if process.returncode == 0 else {}
        self._usual = fmean(self._by_signature.values()) if self._by_signature else 1.0
        self._process = None
        self._close()

    def _close(self) -> None:
        self._given.close()
        self._result.close()


def main() -> None:
    """Read a JSON object of configurations, print one of their work under the same keys."""
    os.nice(19)  # training goes first; Ray gives its workers 15
    from flaxcomp.train.cost import relative_work

    configs = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, TrialConfig])
    sys.stdout.buffer.write(msgspec.json.encode({key: relative_work(config) for key, config in configs.items()}))


if __name__ == "__main__":
    main()
