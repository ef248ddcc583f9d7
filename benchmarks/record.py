"""What a benchmark has measured, and where, when and with what: the JSON files under `benchmarks/results/`."""

import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("flaxcomp", "jax", "jaxlib", "flax", "optax", "numpy", "ray", "tensorflow-cpu", "keras")


@dataclass(frozen=True)
class Pair:
    """One comparison. `ratio`: the peer's seconds a trial over ours, so above 1 we are the faster ones."""

    first: str
    seconds: dict[str, float]
    trials_per_hour: dict[str, float]
    mean_test_accuracy: dict[str, float]
    ratio: float
    train_only_ratio: float | None = None


@dataclass(frozen=True)
class Spread:
    """Of the ratios of several pairs."""

    pairs: int
    median: float
    lowest: float
    highest: float
    deviation: float | None  # of the sample; None of a single pair

    def __str__(self) -> str:
        about = "1 pair" if self.pairs == 1 else f"from {self.lowest:.2f} to {self.highest:.2f} over {self.pairs} pairs"
        return f"{self.median:.2f} times ({about})"


def spread(ratios: Sequence[float]) -> Spread:
    deviation = statistics.stdev(ratios) if len(ratios) > 1 else None
    return Spread(len(ratios), statistics.median(ratios), min(ratios), max(ratios), deviation)


@dataclass
class Record:
    """A file under `benchmarks/results/`, written anew whenever there is more to tell, so that what is done is kept.

    Args:
        name: of the benchmark and of its file.
        settings: what was measured: trials, epochs, images, ...
        folder: where it goes.
        comparisons: pairs by what is compared; figures: what else there is to tell.
        made: see `machine`.
    """

    name: str
    settings: dict[str, Any]
    folder: Path = RESULTS
    comparisons: dict[str, list[Pair]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=lambda: machine())

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def add(self, comparison: str, pair: Pair) -> Spread:
        self.comparisons.setdefault(comparison, []).append(pair)
        self.write()
        return spread([each.ratio for each in self.comparisons[comparison]])

    def tell(self, name: str, figure: Any) -> None:
        self.figures[name] = figure
        self.write()

    def write(self) -> None:
        ratios = {name: {"ratio": asdict(spread([pair.ratio for pair in pairs])), "pairs": [asdict(pair) for pair in pairs]}
                  for name, pairs in self.comparisons.items()}  # fmt: skip
        content = {"benchmark": self.name, **self.made, "settings": self.settings, "ratios": ratios, **self.figures}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".tmp")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.file)


def machine() -> dict[str, Any]:
    """Where, when and with what a benchmark begins; `busy` is the load of the minute before, near 0 on a quiet machine."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"command": command(), "date": time.strftime("%Y-%m-%d"), "chip": chip(), "machine": platform.machine(),
            "cores": cores(), "busy": busy, "python": platform.python_version(), "versions": versions()}  # fmt: skip


def command() -> str:
    """What the user typed, as it can be typed again."""
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None)
    program = ["python", "-m", module] if module else ["python", Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def chip() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
