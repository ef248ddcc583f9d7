"""Which trainings need which: chains such as teacher, assistant, student, as a plan shows them."""

from collections import Counter
from typing import Any

from flaxcomp.sweep.ids import flatten
from flaxcomp.sweep.trial import Trial

Chain = tuple[str, ...]


class Chains:
    """Counts the trials at the end of each chain; feed it a sweep's trials in the order of `expand`.

    Memory is bounded by the trials that need others and by the chains, of which there are few: a link is only a model, and
    what it does there.
    """

    def __init__(self) -> None:
        self.counts: Counter[Chain] = Counter()
        self._of: dict[str, Chain] = {}  # of trials that others may need: those without a chain are not kept
        self._names: dict[str, str] = {}

    def add(self, trial: Trial) -> None:
        """Take note of a trial."""
        own = label(trial.config.model)
        self._names[trial.id] = own
        if not trial.needs:
            return
        before = [self._of.get(need, (self._names[need],)) for need in trial.needs]
        chain = (*before[0], own) if len(before) == 1 else (" + ".join(" > ".join(each) for each in before), own)
        self._of[trial.id] = chain
        if trial.role == "trial":
            self.counts[chain] += 1


def label(model: dict[str, Any]) -> str:
    """A model in few words: `mobilenet_v1 blocks=15 width=100`."""
    options = [f"{name}={value}" for name, value in flatten({key: model[key] for key in model if key != "name"}).items()]
    return " ".join([str(model["name"]), *options])
