"""Which trainings need which: chains such as teacher, assistant, student, as a plan shows them."""

from collections import Counter
from typing import NamedTuple

import msgspec

from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.ids import flatten
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.trial import Trial

Chain = tuple[str, ...]


class _Link(NamedTuple):
    """What is trained before a trial, and it; trials with the same needs and the same label share one.

    Attributes:
        chain: the labels.
        before: the ids of all that is trained before it.
        rounds: how many of these must be trained one after the other.
    """

    chain: Chain
    before: frozenset[str]
    rounds: int


class Chains:
    """Counts the trials at the end of each chain; feed it a sweep's trials in the order of `expand`.

    A link is a model and its last method of compression, so there are few chains; memory is bounded by the ids.
    """

    def __init__(self) -> None:
        self.counts: Counter[Chain] = Counter()
        self.unshared = 0  # trainings, if every trial had those that it needs for itself
        self._of: dict[str, _Link] = {}  # by trial
        self._links: dict[tuple[tuple[str, ...], str | None, str], _Link] = {}  # by needs, source and label
        self._labels: dict[tuple[bytes, str | None], str] = {}  # by model and method

    def add(self, trial: Trial) -> int:
        """Take note of a trial; return how many trainings must be done one after the other before it."""
        config = trial.config
        model = (msgspec.json.encode(config.model), None if config.source is None else method_of(config))
        own = self._labels.get(model)
        if own is None:
            own = self._labels[model] = label(config)
        key = (trial.needs, config.source, own)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = self._link(*key)
        self._of[trial.id] = link
        if trial.role == "trial":
            self.unshared += 1 + len(link.before)
            if link.before:
                self.counts[link.chain] += 1
        return link.rounds

    def _link(self, needs: tuple[str, ...], source: str | None, own: str) -> _Link:
        links = [self._of[need] for need in needs]
        before = frozenset(needs).union(*(link.before for link in links))
        rounds = max((1 + link.rounds for link in links), default=0)
        chains = [link.chain for link in links] if source is None else [self._of[source].chain]  # which has the same teacher
        if len(chains) > 1:
            joined = sorted(f"({' > '.join(chain)})" if len(chain) > 1 else chain[0] for chain in chains)
            chains = [(" + ".join(joined),)]
        return _Link((*chains[0], own) if chains else (own,), before, rounds)


def label(config: TrialConfig) -> str:
    """A network in few words: `mobilenet_v1 blocks=15 width=100`, or `... prune`."""
    options = [f"{name}={value}" for name, value in flatten({k: v for k, v in config.model.items() if k != "name"}).items()]
    return " ".join([str(config.model["name"]), *options, method_of(config) or ""]).rstrip()
