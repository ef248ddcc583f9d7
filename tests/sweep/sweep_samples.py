"""A catalog without other rooms, and small sweeps, for the tests of this folder."""

from typing import Any

import msgspec

from flaxcomp.errors import UserError, suggest
from flaxcomp.sweep import ids
from flaxcomp.sweep.expand import Tally, Trial, expand
from flaxcomp.sweep.load import LoadedSweep, load_text
from flaxcomp.sweep.spec import Dataset, TrialConfig
from flaxcomp.sweep.trial import Images

FINGERPRINTS = {"mnist": "a" * 64, "fashion_mnist": "b" * 64}
DEFAULTS = {"wide": {"width": 4, "depth": 2}, "slim": {"width": 1}, "big": {"dropout": 0.4}}

HEAD = """\
version: 1
name: sample
base:
  dataset: {name: mnist}
  model: {name: wide}
"""


WEIGHTS = {"a.npz": "1" * 64, "b.npz": "2" * 64, "same_as_a.npz": "1" * 64}
NAMES = {"names.yaml": {"logits": "fc"}}


class FakeCatalog:
    """Two data sets, three architectures and three weight files."""

    def fingerprint(self, dataset: str) -> str:
        if dataset not in FINGERPRINTS:
            raise UserError(f"no data set is called {dataset!r}.{suggest(dataset, FINGERPRINTS)}")
        return FINGERPRINTS[dataset]

    def images(self, dataset: Dataset) -> Images:
        usable = min(1000, dataset.train_limit or 1000)
        return Images(1000, usable - usable // 10, 28, 20, 10)

    def labels(self, dataset: str) -> tuple[str, ...]:
        return tuple("0123456789")

    def canonical_model(self, model: dict[str, Any]) -> dict[str, Any]:
        name = model["name"]
        if name not in DEFAULTS:
            raise UserError(f"model.name: no architecture is called {name!r}.{suggest(name, DEFAULTS)}")
        defaults = DEFAULTS[name]
        for option in model:
            if option != "name" and option not in defaults:
                raise UserError(f"model.{option}: {name} has no such option.{suggest(option, defaults)}")
        return {"name": name} | {key: value for key, value in model.items() if key != "name" and value != defaults[key]}

    def weights(self, path: str) -> str:
        if path not in WEIGHTS:
            raise UserError(f"{path}: initial weights must be there, but there is nothing")
        return WEIGHTS[path]

    def table(self, path: str) -> str:
        return self.weights(path)

    def weight_names(self, path: str) -> dict[str, str]:
        return NAMES[path]


def load(body: str, *overrides: str, head: str = HEAD) -> LoadedSweep:
    """A sweep whose first five lines are `HEAD`."""
    return load_text(head + body, "s.yaml", overrides)


def trials_of(loaded: LoadedSweep, tally: Tally | None = None) -> list[Trial]:
    return list(expand(loaded, FakeCatalog(), tally))


def checked(trials: list[Trial]) -> list[Trial]:
    """Dependencies come first; every id and signature is that of the configuration, also after a trip through the store."""
    seen: set[str] = set()
    for trial in trials:
        assert set(trial.needs) <= seen
        assert trial.id == ids.trial_id(trial.config, FINGERPRINTS[trial.config.dataset.name])
        assert trial.signature == ids.signature(trial.config)
        assert msgspec.json.decode(ids.canonical(trial.config), type=TrialConfig) == trial.config
        seen.add(trial.id)
    return trials
