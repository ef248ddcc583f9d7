"""Solves the sub-problems of one trial in their order, keeping what it has after every epoch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from msgspec.structs import replace

from flaxcomp.checkpoint import trees
from flaxcomp.compress.cramnet.inputs import Inputs
from flaxcomp.compress.cramnet.problems import SubProblem, layer_of, layers_around
from flaxcomp.compress.cramnet.start import starting
from flaxcomp.compress.cramnet.training import Lessons, State, Training
from flaxcomp.compress.method import Found, Shape, Workshop
from flaxcomp.compress.prune.coupling import couple, evaluated
from flaxcomp.compress.prune.follow import flat
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.sweep.compression.cramnet import Cramnet
from flaxcomp.sweep.spec import Optimizer
from flaxcomp.train.fit import Stop
from flaxcomp.train.inputs import normalise
from flaxcomp.train.job import Event
from flaxcomp.train.restore import weights_of, with_weights

_STREAM = 4  # of a trial's randomness, beside those of `flaxcomp.train.one`
_INITIAL, _ORDER = 0, 1  # of a sub-problem's
_SOLVED, _TRAINING = "solved", "training"  # what is kept: the network so far, and a sub-problem's state after an epoch


@dataclass
class Progress:
    """How far it is.

    Attributes:
        model, network: so far.
        rows: of each sub-problem that was solved, or tried last.
        ended: why no more are solved: `done`, `target_params`, `max_accuracy_loss` or `diverged`.
    """

    model: dict[str, Any]
    network: nnx.Module
    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""


class Solving:
    """The sub-problems of one trial.

    Args:
        model: the original network's.
    """

    def __init__(self, workshop: Workshop, block: Cramnet, model: dict[str, Any]) -> None:
        self._workshop, self._block = workshop, block
        self._original = self._accuracy(model, workshop.source.module)
        self._progress = self._restored() or Progress(model, workshop.source.module)
        self._lessons = self._made_lessons()

    def run(self, problems: list[SubProblem]) -> Iterator[Event]:
        """Solve what is left of them; keep what is found."""
        w, progress = self._workshop, self._progress
        for problem in problems[len(progress.rows) :]:
            if not progress.ended and is_small(progress.model, w.shape, w.classes, self._block.target_params):
                progress.ended = "target_params"
            if progress.ended:
                break
            yield from self._solve(problem, f"{len(progress.rows) + 1} of {len(problems)}")
        progress.ended = progress.ended or "done"

    def found(self) -> Found:
        """What they led to."""
        progress = self._progress
        rows = [row for row in progress.rows if row["stays"]]
        figures = {
            "cramnet_sub_problems": len(rows), "cramnet_ended": progress.ended,
            "cramnet_source_val_accuracy": self._original,
            "cramnet_val_accuracy": rows[-1]["val_accuracy"] if rows else self._original,
            "cramnet_steps": sum(row["steps"] for row in progress.rows),
        }  # fmt: skip
        weights = None if self._block.then == "scratch" else weights_of(progress.network)
        return Found(with_dropout(progress.model, self._block.dropout), weights, figures, {"sub_problems": progress.rows})

    def _solve(self, problem: SubProblem, which: str) -> Iterator[Event]:
        """One sub-problem: its network stays unless it lost too much."""
        w, progress = self._workshop, self._progress
        model = problem.solved(progress.model)
        start = starting(progress.network, progress.model, problem, w.shape, w.classes, self._key(problem, _INITIAL),
                         self._block.initialisation == "largest")  # fmt: skip
        around = layers_around(couple(model, w.shape, w.classes), problem.entry)
        around |= self._new_layers(progress.network, start)
        training = Training(evaluated(model, w.shape, w.classes), around, self._lessons, self._block.sub_problems.batch_size,
                            self._optimizer())  # fmt: skip
        weights = weights_of(start)
        params, rest = jax.tree.map(jnp.asarray, (weights["params"], weights["stats"]))
        inputs = training.inputs(params, rest)
        losses, state = self._train(training, problem, params, rest, inputs)
        solved = with_weights(start, dict(zip(("params", "stats"), training.result(state, params), strict=True)))
        accuracy = self._accuracy(model, solved)
        finite = bool(np.isfinite(losses[-1]))
        limit = self._block.max_accuracy_loss
        stays = finite and (limit is None or accuracy >= self._original - limit)
        row = {
            **asdict(problem), "stays": stays, "val_accuracy": accuracy, "losses": _as_json(losses),
            "steps": self._steps(training), "params": count(model, w.shape, w.classes).params, "trained": sorted(around),
            "inputs": inputs.stored_as, "input_bytes": inputs.bytes,
        }  # fmt: skip
        progress.rows.append(row)
        if stays:
            progress.model, progress.network = model, solved
        else:
            progress.ended = "max_accuracy_loss" if finite else "diverged"
        meta = {"model": progress.model, "rows": progress.rows, "ended": progress.ended}
        w.keep_model(_SOLVED, weights_of(progress.network), meta)
        yield w.note(_told(row, which))

    def _train(
        self, training: Training, problem: SubProblem, params: Any, rest: Any, inputs: Inputs
    ) -> tuple[list[float], State]:
        """Mean losses of the epochs, and the state after the last; keeps each epoch's."""
        state = training.begin(params, rest)
        losses: list[float] = []
        kept = self._workshop.kept(_TRAINING)
        if kept is not None and kept[1]["layer"] == problem.layer:
            state = jax.tree.map(jnp.asarray, trees.unflatten(kept[0], state))
            losses = [np.nan if loss is None else loss for loss in kept[1]["losses"]]
        steps, key = self._steps(training), self._key(problem, _ORDER)
        for epoch in range(len(losses), -(-steps // training.steps_per_epoch)):
            last = min(training.steps_per_epoch, steps - epoch * training.steps_per_epoch)
            order = training.order(jax.random.fold_in(key, epoch))
            after = training.run(state, params, inputs, order, last, self._workshop.should_stop)
            if after is None:
                raise Stop
            losses.append(float(after["loss_sum"]) / last)
            state = {**after, "loss_sum": jnp.zeros((), jnp.float32)}
            self._workshop.keep(_TRAINING, trees.flatten(state), {"layer": problem.layer, "losses": _as_json(losses)})
        return losses, state

    def _steps(self, training: Training) -> int:
        of = self._block.sub_problems
        return of.steps or of.epochs * training.steps_per_epoch

    def _optimizer(self) -> Optimizer:
        of = self._block.sub_problems
        return Optimizer(name="rmsprop", learning_rate=of.learning_rate, decay=of.decay)

    def _key(self, problem: SubProblem, stream: int) -> jax.Array:
        key = jax.random.key(self._workshop.config.seed)
        for number in (_STREAM, problem.entry, stream):
            key = jax.random.fold_in(key, number)
        return key

    def _made_lessons(self) -> Lessons:
        w = self._workshop
        index = w.split.train
        logits = w.program().all_logits(jax.tree.map(jnp.asarray, w.source.weights))

        def seen(images: jax.Array) -> jax.Array:
            x: jax.Array = normalise(images, w.config.dataset, w.info, jnp)
            return x

        return Lessons(w.data.train_images, index, w.data.train_labels[index], logits[index], seen)

    def _accuracy(self, model: dict[str, Any], network: nnx.Module) -> float:
        """On the held-out images."""
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], weights_of(network))
        program = self._workshop.program(replace(self._workshop.plain, model=model))
        (confusion,) = program.evaluate(one, "validation")["confusion"]
        return float(np.trace(confusion) / confusion.sum())

    def _new_layers(self, old: nnx.Module, new: nnx.Module) -> set[str]:
        """Layers with arrays that were not there, or not of that shape."""
        before, after = (dict(flat(weights_of(network)["params"])) for network in (old, new))
        return {layer_of(name) for name, leaf in after.items() if name not in before or before[name].shape != leaf.shape}

    def _restored(self) -> Progress | None:
        kept = self._workshop.kept_model(_SOLVED)
        if kept is None:
            return None
        weights, meta = kept
        w = self._workshop
        network = with_weights(evaluated(meta["model"], w.shape, w.classes), weights)
        return Progress(meta["model"], network, meta["rows"], meta["ended"])


def _told(row: dict[str, Any], which: str) -> str:
    change = f"{row['width']} to {row['target']}" + (f", now {row['kind']}" if row["kind"] else "")
    first, last = (f"{loss:.3f}" if loss is not None else "not finite" for loss in (row["losses"][0], row["losses"][-1]))
    end = "" if row["stays"] else "; taken back"
    return (f"cramnet: sub-problem {which}, {row['layer']} {change}: loss {first} to {last}, held-out accuracy "
            f"{row['val_accuracy']:.4f}, inputs {row['inputs']}{end}")  # fmt: skip


def is_small(model: dict[str, Any], shape: Shape, classes: int, target_params: int | None) -> bool:
    """Whether a model is as small as wanted, if that was said."""
    return target_params is not None and count(model, shape, classes).params <= target_params


def with_dropout(model: dict[str, Any], dropout: float | None) -> dict[str, Any]:
    """A model with another share of dropout, if one was given."""
    return model if dropout is None else registry.canonical({**model, "dropout": dropout})


def _as_json(losses: list[float]) -> list[float | None]:
    """NaN is no JSON."""
    return [loss if np.isfinite(loss) else None for loss in losses]
