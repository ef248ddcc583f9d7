"""Stores for tests, and trials and packs to fill them with."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Dataset, Metric, Sweep, Train, TrialConfig

SWEEP = Sweep(version=1, name="study", base={}, metrics=(Metric(name="val_accuracy", goal="maximize"),))
SWEEP_JSON = msgspec.json.encode(SWEEP)


@dataclass(frozen=True)
class Trial:
    """What the store reads of a `flaxcomp.sweep` trial."""

    id: str
    config: TrialConfig
    needs: tuple[str, ...] = ()
    role: str = "trial"
    signature: str = "same"


@dataclass(frozen=True)
class Pack:
    id: str
    trial_ids: tuple[str, ...]
    signature: str = "same"


def trial(id_: str, *needs: str, role: str = "trial", seed: int = 0, epochs: int = 3) -> Trial:
    config = TrialConfig(
        dataset=Dataset(name="mnist"), model={"name": "net", "width": 2}, train=Train(epochs=epochs), seed=seed
    )
    return Trial(id_, config, needs, role)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Runs:
    """Makes and opens the store of one run folder, and closes what it opened."""

    def __init__(self, root: Path, url: str | None) -> None:
        self.paths, self.url, self.clock = RunPaths.at(root), url, Clock()
        self._opened: list[Store] = []

    def create(self, url: str | None = None) -> Store:
        store = Store.create(
            self.paths, name="study", sweep_text="name: study\n", sweep_json=SWEEP_JSON, url=url or self.url, clock=self.clock
        )
        self._opened.append(store)
        return store

    def open(self) -> Store:
        store = Store.open(self.paths, clock=self.clock)
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()
