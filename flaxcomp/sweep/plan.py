"""Packs, the trials that compile to the same program and train together in it; and the plan of a whole sweep."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from flaxcomp.sweep import ids
from flaxcomp.sweep.chains import Chain, Chains
from flaxcomp.sweep.columns import differing
from flaxcomp.sweep.compression import method_of
from flaxcomp.sweep.expand import Tally, count_points, expand
from flaxcomp.sweep.load import LoadedSweep
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.stopping.cohorts import Cohorts, Ending
from flaxcomp.sweep.trial import Catalog, Trial

# What a plan assumes for `auto`, which is decided when a run starts and the machine is known.
AUTO_PACK = 32
AUTO_WORKERS = 1


@dataclass(frozen=True, slots=True)
class Pack:
    """Trials of one compile signature; `id` is the hash of their ids and the signature."""

    id: str
    trial_ids: tuple[str, ...]
    signature: str


@dataclass
class Group:
    """The trials of one compile signature.

    Attributes:
        example: the first of them.
        trials, dependencies: how many.
        packs: how many packs they make.
        differs: the columns that tell this signature from the plan's others; None where it lacks one.
    """

    example: Trial
    trials: int = 0
    dependencies: int = 0
    packs: int = 0
    differs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    `points` = trials + `tally`'s excluded and repeated ones; `groups` by signature, in order; `chains`: trials that need
    others, counted by the models that are trained for them one after the other; `unshared`: how many trainings there would be
    if every trial had those that it needs for itself; `ending`: what `early_stop` may save, where the sweep has it.
    """

    points: int
    tally: Tally
    groups: dict[str, Group]
    pack_size: int
    workers: int
    chains: dict[Chain, int]
    unshared: int
    ending: Ending | None = None

    @property
    def trials(self) -> int:
        return sum(group.trials for group in self.groups.values())

    @property
    def dependencies(self) -> int:
        return sum(group.dependencies for group in self.groups.values())

    @property
    def packs(self) -> int:
        return sum(group.packs for group in self.groups.values())


def make_plan(loaded: LoadedSweep, catalog: Catalog) -> Plan:
    """Expand a sweep and count what it makes, without keeping the trials.

    Raises:
        SweepFileError: as `expand`.
    """
    resources = loaded.sweep.resources
    pack_size = AUTO_PACK if resources.pack == "auto" else resources.pack
    workers = AUTO_WORKERS if resources.workers == "auto" else resources.workers
    tally = Tally()
    groups: dict[str, Group] = {}
    # How many trials of each signature can start together, by how many must be trained one after the other before.
    sizes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    chains = Chains()
    cohorts = Cohorts(loaded.sweep.early_stop) if loaded.sweep.early_stop else None
    for trial in expand(loaded, catalog, tally):
        before = chains.add(trial)
        if cohorts is not None:
            cohorts.add(trial)
        group = groups.get(trial.signature)
        if group is None:
            group = groups[trial.signature] = Group(trial)
        if trial.role == "trial":
            group.trials += 1
        else:
            group.dependencies += 1
        sizes[before][trial.signature] += 1
    for wave in sizes.values():
        largest = {signature: max_pack(groups[signature].example.config, pack_size) for signature in wave}
        for signature, count in _shares(wave, largest, workers).items():
            groups[signature].packs += count
    _tell_apart(groups)
    ending = cohorts.ending() if cohorts is not None else None
    return Plan(count_points(loaded.sweep), tally, groups, pack_size, workers, dict(chains.counts), chains.unshared, ending)


def form_packs(trials: Iterable[Trial], max_size: Callable[[Trial], int], workers: int) -> list[Pack]:
    """Put trials that are ready to run into packs.

    Every signature's trials are shared out evenly, in their order. Packs are as few as `max_size` allows, but no pack holds
    more than a worker's share of all trials, so that all workers have something to do: 32 trials of one signature and 2
    workers make 16 + 16. Where a signature needs several rounds of all workers, the rounds are full ones.

    Args:
        trials: the trials; what they need is finished.
        max_size: the largest pack for a signature, asked with its first trial; at least 1.
        workers: how many packs train at a time.

    Returns:
        The packs, signatures in the order in which they first appear.
    """
    groups: dict[str, list[str]] = {}
    largest: dict[str, int] = {}
    for trial in trials:
        if trial.signature not in groups:
            largest[trial.signature] = max_size(trial)
        groups.setdefault(trial.signature, []).append(trial.id)
    packs = []
    for signature, count in _shares({name: len(group) for name, group in groups.items()}, largest, workers).items():
        group = groups[signature]
        for index in range(count):
            members = tuple(group[index * len(group) // count : (index + 1) * len(group) // count])
            packs.append(Pack(ids.pack_id(signature, members), members, signature))
    return packs


def max_pack(config: TrialConfig, wanted: int) -> int:
    """How many trials like this one may train together: where a network is made smaller, each ends in a program of its own."""
    return 1 if method_of(config) else wanted


def _shares(sizes: Mapping[str, int], largest: Mapping[str, int], workers: int) -> dict[str, int]:
    """How many packs each signature's trials make, see `form_packs`."""
    share = -(-sum(sizes.values()) // workers)
    counts = {}
    for signature, size in sizes.items():
        count = -(-size // min(largest[signature], share))
        if count > workers:
            count = min(-(-count // workers) * workers, size)
        counts[signature] = count
    while sum(counts.values()) < min(workers, sum(sizes.values())):  # an idle worker takes a part of the largest pack
        counts[max(counts, key=lambda signature: -(-sizes[signature] // counts[signature]))] += 1
    return counts


def _tell_apart(groups: dict[str, Group]) -> None:
    rows = {signature: _program_columns(group.example) for signature, group in groups.items()}
    names = differing(list(rows.values()), dict.fromkeys(name for row in rows.values() for name in row))
    for signature, group in groups.items():
        group.differs = {name: rows[signature].get(name) for name in names}


def _program_columns(trial: Trial) -> dict[str, Any]:
    """The columns of a configuration that its compile signature depends on."""
    config = trial.config
    inputs = {"seed", *ids.DISTILL_INPUT_COLUMNS, *(f"train.optimizer.{name}" for name in ids.OPTIMIZER_INPUTS)}
    if config.distill and not (config.train.augment.is_random or config.distill.asks_network):
        inputs.add("distill.teacher")
    columns = ids.columns_of(replace(config, train=ids.program_of(config.train)))
    return {name: value for name, value in columns.items() if name not in inputs}
