"""Which trainings need which: chains such as teacher, assistant, student, as a plan shows them."""

import sys
from collections import Counter

from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.ids import flatten
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.trial import Trial

Chain = tuple[str, ...]


class Chains:
    """Counts the trials at the end of each chain; feed it a sweep's trials in the order of `expand`.

    A link is a model and its last method of compression, so there are few chains; memory is bounded by the ids.
    """

    def __init__(self) -> None:
        self.counts: Counter[Chain] = Counter()
        self.unshared = 0  # trainings, if every trial had those that it needs for itself
        self._of: dict[str, Chain] = {}  # by trial
        self._needed: dict[str, frozenset[str]] = {}  # by trial, all that is trained before it

    def add(self, trial: Trial) -> None:
        """Take note of a trial."""
        needed = frozenset(trial.needs).union(*(self._needed.get(need, ()) for need in trial.needs))
        if needed:
            self._needed[trial.id] = needed
        if trial.role == "trial":
            self.unshared += 1 + len(needed)
        own = sys.intern(label(trial.config))
        needs = trial.needs if trial.config.source is None else (trial.config.source,)  # which has the same teacher
        before = [self._of[need] for need in needs]
        if len(before) > 1:
            joined = sorted(f"({' > '.join(chain)})" if len(chain) > 1 else chain[0] for chain in before)
            before = [(" + ".join(joined),)]
        self._of[trial.id] = chain = (*before[0], own) if before else (own,)
        if before and trial.role == "trial":
            self.counts[chain] += 1


def label(config: TrialConfig) -> str:
    """A network in few words: `mobilenet_v1 blocks=15 width=100`, or `... prune`."""
    options = [f"{name}={value}" for name, value in flatten({k: v for k, v in config.model.items() if k != "name"}).items()]
    return " ".join([str(config.model["name"]), *options, method_of(config) or ""]).rstrip()
