"""The method `netadapt` (Yang et al. 2018, algorithm 1; Greffe 2019, algorithm 4 and section 4.6.2).

Each step is to save a share of the source's cost, `reduction` at first and `decay` times the last one's then. For each group of
channels there is a candidate without the fewest channels, those of smallest score, that save it. All candidates are trained for
`tune_steps`, side by side: networks of the source's widths of which all but their own channels are masked, so that one compiled
program serves the whole search. The one that loses the least accuracy on the held-out images for what it saves is the next
network (`choice`). That goes on until `ratio` of the cost is gone.

Groups that cannot save a step's share have no candidate; with `allow_small_prunings` they have one that saves what they can.
Where no group can save it, it is halved until one can. The last step is to save no more than is missing.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from flaxcomp.compress.cost_table import table_at
from flaxcomp.compress.costs import Cost, make_cost, prunable
from flaxcomp.compress.method import Found, Shape, Workshop
from flaxcomp.compress.netadapt.candidates import Candidate, Proposals
from flaxcomp.compress.netadapt.choice import best
from flaxcomp.compress.prune.coupling import Coupling, couple, evaluated
from flaxcomp.compress.prune.criteria import load
from flaxcomp.compress.prune.evidence import Scorer, Scores
from flaxcomp.compress.prune.surgery import Cut, mask_of, plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.sweep.compression.netadapt import Netadapt
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.fit import Fit
from flaxcomp.train.inputs import normalise
from flaxcomp.train.job import Event
from flaxcomp.train.program import Model
from flaxcomp.train.restore import weights_of, with_weights

AT_ONCE = 8  # candidates that train side by side; what more of them need is memory
_PROGRESS = "netadapt"
_CLOSE = 1e-9  # of the source's cost: sums of latencies are no exact numbers


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """See `flaxcomp.compress.method.Method`."""
    block, coupling = _block(config), couple(registry.shipped(config.model), shape, classes)
    cost = _cost(block, coupling)
    whole = cost.total(plan(coupling, {}))
    narrowest = cost.total(plan(coupling, {group.name: [0] for group in prunable(coupling)}))
    if narrowest > (1 - block.ratio) * whole:
        raise UserError(f"netadapt.ratio must be at most {1 - narrowest / whole:.4f}: with every layer as narrow as can be "
                        f"{config.model['name']} costs {narrowest:.6g} of {whole:.6g} {block.of}, "
                        f"got {block.ratio:g}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Progress:
    """What the search has reached.

    Attributes:
        step: how many it has done.
        kept: by group, the channels that are left.
        model: weights of the source's widths, with zeros for the channels that are gone.
        accuracy: on the held-out images.
        cost: of the network that is left.
        history: for each step, what was to be saved, what was tried and what was taken.
    """

    step: int
    kept: dict[str, NDArray[np.int32]]
    model: Model
    accuracy: float
    cost: float
    history: list[dict[str, Any]] = field(default_factory=list)


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """See `flaxcomp.compress.method.Method`."""
    run = _Search(workshop)
    progress = run.restored() or run.begun()
    while progress.cost > run.target + _CLOSE * run.whole:
        candidates, wanted = run.candidates(progress)
        if not candidates:
            yield workshop.note(f"netadapt: no layer can be narrower; {progress.cost / run.whole:.1%} of the cost is left")
            break
        progress = run.step(progress, candidates, wanted)
        run.keep(progress)
        yield workshop.note(_told(progress, run))
    cut = plan(run.coupling, progress.kept)
    figures = {
        "cost": progress.cost, "source_cost": run.whole, "steps": progress.step, "val_accuracy": progress.accuracy,
        "candidates": sum(len(step["candidates"]) for step in progress.history),
    }  # fmt: skip
    weights = run.sliced(progress.model, cut) if run.block.then == "fine_tune" else None
    return Found(cut.model, weights, {f"netadapt_{key}": value for key, value in figures.items()}, {"steps": progress.history})


class _Search:
    """The parts of a search that stay as they are."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop, self.block = workshop, _block(workshop.config)
        self.coupling = couple(workshop.source.model, workshop.shape, workshop.classes)
        self.cost = _cost(self.block, self.coupling)
        self.whole = self.cost.total(plan(self.coupling, {}))
        self.target = (1 - self.block.ratio) * self.whole
        self.fit = _tuning(workshop)
        self._members = self._at_once()
        self._network = evaluated(self.coupling.model, self.coupling.input_shape, self.coupling.num_classes)

    def _at_once(self) -> int:
        """How many candidates a dispatch trains; one where they would be computed one after the other anyway."""
        if self.fit.program.execution == "map":
            return 1
        return min(AT_ONCE, len(prunable(self.coupling)), self.block.sampled_layers or AT_ONCE)

    def begun(self) -> _Progress:
        """The source."""
        model = self.workshop.source.weights
        accuracy = self.fit.accuracy(self.fit.state([model] * self._members))[0]
        return _Progress(0, plan(self.coupling, {}).kept, model, float(accuracy), self.whole)

    def keep(self, progress: _Progress) -> None:
        kept = {name: channels.tolist() for name, channels in progress.kept.items()}
        meta = {"step": progress.step, "kept": kept, "accuracy": progress.accuracy, "cost": progress.cost,
                "history": progress.history}  # fmt: skip
        self.workshop.keep_model(_PROGRESS, progress.model, meta)

    def restored(self) -> _Progress | None:
        """What an earlier attempt has reached."""
        found = self.workshop.kept_model(_PROGRESS)
        if found is None:
            return None
        model, meta = found
        kept = {name: np.array(channels, np.int32) for name, channels in meta["kept"].items()}
        return _Progress(meta["step"], kept, model, meta["accuracy"], meta["cost"], meta["history"])

    def candidates(self, progress: _Progress) -> tuple[list[Candidate], float]:
        """The candidates of the next step, and what they were to save."""
        block, scores = self.block, self.scores(progress)
        proposals = Proposals(self.coupling, self.cost, progress.kept, scores)
        missing = progress.cost - self.target
        wanted = min(block.reduction * block.decay**progress.step * self.whole, missing)
        while wanted > _CLOSE * self.whole:
            found = self._candidates(proposals, wanted, progress.step)
            if found:
                return found, wanted
            wanted /= 2
        return [], wanted

    def _candidates(self, proposals: Proposals, wanted: float, step: int) -> list[Candidate]:
        """Of all groups or, in an order drawn for the step, of the first so many that have one."""
        groups, most = prunable(self.coupling), self.block.sampled_layers
        order = range(len(groups))
        if most is not None:
            order = np.random.default_rng((self.block.seed, step)).permutation(len(groups)).tolist()
        found: dict[int, Candidate] = {}
        for i in order:
            candidate = proposals.of(groups[i], wanted, small=self.block.allow_small_prunings)
            if candidate is not None:
                found[i] = candidate
            if len(found) == most:
                break
        return [found[i] for i in sorted(found)]

    def step(self, progress: _Progress, candidates: Sequence[Candidate], wanted: float) -> _Progress:
        """Train the candidates and take the best one."""
        network = with_weights(self._network, progress.model)
        accuracies: list[float] = []
        models: list[Model] = []
        for first in range(0, len(candidates), self._members):
            some = candidates[first : first + self._members]
            padded = [*some, *[some[-1]] * (self._members - len(some))]  # so that one program serves all
            state = self.fit.state([progress.model] * len(padded), [mask_of(network, each.cut) for each in padded])
            state = self.fit.train(state, self.block.tune_steps, progress.step * self.block.tune_steps)
            accuracies += self.fit.accuracy(state)[: len(some)].tolist()
            models += self.fit.models(state)[: len(some)]
        taken = best(progress.accuracy, accuracies, [each.saved for each in candidates])
        chosen = candidates[taken]
        told = [{"group": each.group, "removed": each.removed, "cost": each.cost, "accuracy": accuracy}
                for each, accuracy in zip(candidates, accuracies, strict=True)]  # fmt: skip
        entry = {"wanted": wanted, "group": chosen.group, "removed": chosen.removed, "cost": chosen.cost,
                 "accuracy_before": progress.accuracy, "accuracy": accuracies[taken], "candidates": told}  # fmt: skip
        return _Progress(progress.step + 1, chosen.cut.kept, models[taken], accuracies[taken], chosen.cost,
                         [*progress.history, entry])  # fmt: skip

    def scores(self, progress: _Progress) -> Scores:
        """By group, a number for each channel of the source: larger for what matters more."""
        return self._scorer.scores(progress.model["params"], progress.model["stats"])

    @cached_property
    def _scorer(self) -> Scorer:
        """On training images without augmentation."""
        workshop, data = self.workshop, self.workshop.data
        drawn = np.random.default_rng(self.block.seed).permutation(np.asarray(workshop.split.train))
        index = np.sort(drawn[: self.block.images])
        inputs = partial(normalise, spec=workshop.config.dataset, info=workshop.info, xp=jnp)
        images, labels = np.asarray(data.train_images[index]), np.asarray(data.train_labels[index])
        return Scorer(load(self.block.criterion), self.coupling, self._network, images, labels, inputs=inputs)

    def sliced(self, model: Model, cut: Cut) -> Model:
        """The weights of the narrower network."""
        weights: Model = weights_of(sliced(with_weights(self._network, model), cut))
        return weights


def _tuning(workshop: Workshop) -> Fit:
    """The short trainings."""
    return workshop.fit(workshop.tuning(workshop.source.model, _block(workshop.config).tune_learning_rate))


def _cost(block: Netadapt, coupling: Coupling) -> Cost:
    return make_cost(block.of, coupling, table_at(block.costs))


def _block(config: TrialConfig) -> Netadapt:
    assert config.netadapt is not None
    return config.netadapt


def _told(progress: _Progress, run: _Search) -> str:
    last, most = progress.history[-1], run.block.most_steps
    tried, gone = len(last["candidates"]), f"{last['removed']} channels fewer in {last['group']}"
    left = f"{progress.cost / run.whole:.1%} of the cost and {progress.accuracy:.2%} accuracy on the held-out images are left"
    return f"netadapt: step {progress.step} of {most} at most, {gone}, the best of {tried}; {left}"
