"""The method `morphnet` (Gordon et al. 2018; Greffe 2019, section 4.7).

1. Train the network, from where the source left it or from random weights, with `strength` times the penalty of `penalty`.
2. Drop the channels whose largest |gamma| is not above `threshold`; a layer all of whose channels are below it keeps the best.
3. Multiply all widths by the largest factor with which the network costs no more than (1 - ratio) of the source.

What the third step makes has other widths than any weights, so it is trained from scratch; without it weights are left.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from msgspec.structs import replace
from numpy.typing import NDArray

from flaxcomp.compress.cost_table import Table, table_at
from flaxcomp.compress.method import Found, Network, Shape, Workshop, with_hints_beside
from flaxcomp.compress.morphnet.multiplier import NARROWEST, Widths, scaled, widened
from flaxcomp.compress.morphnet.penalty import Resource, Scales, magnitudes, scales_of
from flaxcomp.compress.morphnet.prices import layer_costs, network_cost
from flaxcomp.compress.prune import training
from flaxcomp.compress.prune.coupling import Coupling, couple, evaluated
from flaxcomp.compress.prune.surgery import Cut, plan, sliced
from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.sweep.compression.morphnet import Morphnet
from flaxcomp.sweep.compression.retraining import Retraining, retrained
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.fit import Fit
from flaxcomp.train.job import Event
from flaxcomp.train.program import Model, State
from flaxcomp.train.restore import weights_of, with_weights
from flaxcomp.train.variant import Variant

Gammas = dict[str, NDArray[np.float32]]


def check(config: TrialConfig, shape: Shape, classes: int) -> None:
    """See `flaxcomp.compress.method.Method`."""
    subject = _Subject.of(_block(config), couple(registry.shipped(config.model), shape, classes))
    name, block = config.model["name"], subject.block
    if block.strength and not subject.scales:
        raise UserError(f"morphnet must have a network with batch norm, whose scales it penalises, but {name} with these "
                        "options has none on channels that may go. Use `prune` or `netadapt` instead")  # fmt: skip
    if block.strength and not (block.search_epochs or config.train.total_epochs):
        raise UserError("morphnet.search_epochs must be given where a phase of train.phases is counted in steps")
    whole = subject.whole  # refuses a table without a layer
    if block.ratio is not None:
        narrowest = subject.cost(scaled(subject.widths, subject.steps, NARROWEST))
        if narrowest > (1 - block.ratio) * whole:
            raise UserError(f"morphnet.ratio must be at most {1 - narrowest / whole:.4f}: with all widths as small as can be, "
                            f"{name} costs {narrowest:.6g} of {whole:.6g} {block.of}, got {block.ratio:g}")  # fmt: skip


def search(workshop: Workshop) -> Generator[Event, None, Found]:
    """See `flaxcomp.compress.method.Method`."""
    source, block = workshop.source, _block(workshop.config)
    subject = _Subject.of(block, couple(source.model, workshop.shape, workshop.classes))
    cut, figures, weights, groups = plan(subject.coupling, {}), {}, None, []
    if block.strength:
        shrunk = yield from _trained(workshop, subject)
        cut = plan(subject.coupling, _alive(shrunk.gammas, block.threshold), shrunk.gammas)
        groups = _groups(subject, shrunk.gammas, cut)
        figures = {
            "threshold": block.threshold, "val_accuracy": shrunk.accuracy, "channels": sum(g["channels"] for g in groups),
            "alive": sum(g["alive"] for g in groups), "kept": sum(g["kept"] for g in groups),
        }  # fmt: skip
        weights = _weights(subject, shrunk.model, cut) if block.then == "fine_tune" else None
    found = _widths(cut.model, subject.coupling)
    figures |= {"found_cost": subject.cost(found), "source_cost": subject.whole}
    model, final = cut.model, found
    if block.ratio is not None:
        wider = widened(found, subject.steps, subject.cost, (1 - block.ratio) * subject.whole)
        model, final, weights = {**source.model, "widths": list(wider.widths)}, wider.widths, None
        figures |= {"multiplier": wider.multiplier}
    figures |= {"cost": subject.cost(final)}
    yield workshop.note(_told(figures, block))
    details = {"groups": groups, "source_widths": subject.widths, "found_widths": found, "widths": final}
    return Found(model, weights, {f"morphnet_{name}": value for name, value in figures.items()}, details)


@dataclass(frozen=True, eq=False)
class _Subject:
    """The network that is made smaller, shapes alone, with what it costs.

    Attributes:
        block: what is asked for.
        coupling: of its channels.
        network: in eval mode.
        table: of latencies, if they are the cost.
    """

    block: Morphnet
    coupling: Coupling
    network: nnx.Module
    table: Table | None

    @classmethod
    def of(cls, block: Morphnet, coupling: Coupling) -> "_Subject":
        network = evaluated(coupling.model, coupling.input_shape, coupling.num_classes)
        return cls(block, coupling, network, table_at(block.costs))

    @property
    def scales(self) -> Scales:
        return scales_of(self.coupling)

    @property
    def widths(self) -> Widths:
        return tuple(entry.width for entry in self.coupling.entries)

    @property
    def steps(self) -> Widths:
        return tuple(entry.step for entry in self.coupling.entries)

    @property
    def whole(self) -> float:
        return network_cost(self.network, self.coupling.input_shape, self.block.of, self.table)

    def cost(self, widths: Widths) -> float:
        """Of the network with other widths."""
        model = {**self.coupling.model, "widths": list(widths)}
        network = evaluated(model, self.coupling.input_shape, self.coupling.num_classes)
        return network_cost(network, self.coupling.input_shape, self.block.of, self.table)

    def penalty(self) -> Variant:
        """The training with the penalty."""
        costs = layer_costs(self.network, self.coupling.input_shape, self.block.of, self.table)
        resource, scales = Resource.of(self.coupling, costs), self.scales
        strength, threshold = self.block.strength, self.block.threshold
        key = f"morphnet {strength!r} {threshold!r} {self.block.of} {self.block.costs}"
        return Variant(key, lambda params, _: strength * resource.penalty(magnitudes(scales, params), threshold))


@dataclass(frozen=True, eq=False)
class _Shrunk:
    """What the penalised training ends with.

    Attributes:
        model: the weights.
        gammas: the largest |gamma| of each channel.
        accuracy: on the held-out images.
    """

    model: Model
    gammas: Gammas
    accuracy: float


def _trained(workshop: Workshop, subject: _Subject) -> Generator[Event, None, _Shrunk]:
    """Train with the penalty; what is reached outlives a kill."""
    block, train = subject.block, workshop.plain.train
    epochs = block.search_epochs or train.total_epochs
    train = retrained(train, Retraining(epochs=epochs, learning_rate=block.search_learning_rate))
    distill = with_hints_beside(workshop.plain.distill)
    config = replace(workshop.plain, model=workshop.source.model, train=train, distill=distill)
    fit = workshop.fit(config, subject.penalty())
    state = _begun(fit, config, workshop.source if block.start == "trained" else None)
    state = yield from training.train(workshop, fit, state, fit.program.steps, name="penalty")
    (model,) = fit.models(state)
    gammas = _gammas(subject.scales, model["params"])
    if not all(np.isfinite(each).all() for each in gammas.values()):
        raise UserError("morphnet: the training with the penalty has diverged; lower morphnet.search_learning_rate or strength")
    return _Shrunk(model, gammas, float(fit.accuracy(state)[0]))


def _begun(fit: Fit, config: TrialConfig, source: Network | None) -> State:
    """The state of step 0: of the source's weights, or of random ones."""
    if source is None:
        return fit.program.init(fit.program.hyper([config], [0]))
    return fit.state([source.weights])


def _gammas(scales: Scales, params: Any) -> Gammas:
    return {name: np.asarray(each) for name, each in magnitudes(scales, params).items()}


def _alive(gammas: Gammas, threshold: float) -> dict[str, NDArray[np.int32]]:
    """By group, the channels above the threshold, or the best one."""
    alive = {name: np.flatnonzero(each > threshold) for name, each in gammas.items()}
    return {name: (found if found.size else np.argmax(gammas[name], keepdims=True)).astype(np.int32)
            for name, found in alive.items()}  # fmt: skip


def _groups(subject: _Subject, gammas: Gammas, cut: Cut) -> list[dict[str, Any]]:
    """For the record: what became of each group, and its |gamma| from the largest on, by which a threshold can be judged."""
    threshold = subject.block.threshold
    return [
        {"group": name, "channels": each.size, "alive": int((each > threshold).sum()), "kept": cut.kept[name].size,
         "gammas": [float(f"{gamma:.4g}") for gamma in np.sort(each)[::-1]]}
        for name, each in gammas.items()
    ]  # fmt: skip


def _weights(subject: _Subject, model: Model, cut: Cut) -> Model:
    weights: Model = weights_of(sliced(with_weights(subject.network, model), cut))
    return weights


def _widths(model: dict[str, Any], coupling: Coupling) -> Widths:
    return tuple(model.get("widths") or (entry.width for entry in coupling.entries))


def _block(config: TrialConfig) -> Morphnet:
    assert config.morphnet is not None
    return config.morphnet


def _told(figures: dict[str, Any], block: Morphnet) -> str:
    shrunk = f"{figures['kept']} of {figures['channels']} channels are left; " if block.strength else ""
    wider = f"; widths times {figures['multiplier']:g}: {figures['cost']:.4g}" if block.ratio is not None else ""
    return f"morphnet: {shrunk}{figures['found_cost']:.4g} of {figures['source_cost']:.4g} {block.of}{wider}"
