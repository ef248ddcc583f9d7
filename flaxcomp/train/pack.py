"""Train a pack from wherever its checkpoints leave off, telling what happens as it happens."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcomp.checkpoint import trees
from flaxcomp.checkpoint.models import save_models
from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.data.arrays import Arrays
from flaxcomp.models import registry
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.train.initial import initial_state
from flaxcomp.train.inputs import input_shape
from flaxcomp.train.job import EpochDone, Event, Finished, Note, PackJob, Paused, Stopped, Tick
from flaxcomp.train.members import gather, padded
from flaxcomp.train.metrics import classification_metrics
from flaxcomp.train.names import by_name, name_of
from flaxcomp.train.phases import optimizer_of
from flaxcomp.train.program import Model, Program, State
from flaxcomp.train.resident import Resident
from flaxcomp.train.teachers import StoppedError, Teachers
from flaxcomp.train.variant import PLAIN, Variant

DISPATCH_SECONDS = 0.7  # the wanted length of one dispatch: rarely enough to cost nothing, often enough to show and to stop
_GROWTH = 16  # a dispatch has at most so many times the steps of the one before it
_PROGRAMS_KEPT = 8


class Trainer:
    """Trains packs one after the other; keeps data and programs between them.

    Args:
        arrays: the data set of all packs.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.data = Resident.of(arrays)
        self.teachers = Teachers(self.data)
        self._programs: dict[str, Program] = {}  # by signature, the one used last at the end

    def train(
        self, job: PackJob, should_stop: Callable[[], bool], start: Model | None = None, variant: Variant = PLAIN
    ) -> Iterator[Event]:
        """Yield what happens, the last event being Finished, Stopped or Paused, when all that it tells of is on disk.

        Errors are raised, those of a checkpoint's writer by the next save or at the end.

        Args:
            start: the weights that every trial of the pack begins with.
            variant: what the training does besides.
        """
        run = _PackRun(self, job, start, variant)
        with PackCheckpoints(RunPaths.at(job.root).pack(job.pack_id), job.attempt) as checkpoints:
            yield from run.restore(checkpoints)
            if not (yield from run.learn(should_stop)):
                yield Stopped(job.pack_id, job.attempt)
                return
            while run.epoch < run.epochs:
                if run.epoch == job.pause_at and run.step == 0:
                    run.save(checkpoints)
                    checkpoints.wait()
                    yield Paused(job.pack_id, job.attempt, run.epoch, run.results_so_far())
                    return
                stopped = yield from run.train_epoch(should_stop)
                if stopped:
                    run.save(checkpoints)
                    checkpoints.wait()
                    yield Stopped(job.pack_id, job.attempt)
                    return
                yield run.finish_epoch()
                if run.epoch % run.config.train.checkpoint_every_epochs == 0 or run.epoch == run.epochs:
                    run.save(checkpoints)
        yield Finished(job.pack_id, job.attempt, run.results())

    def finish(self, job: PackJob, model: Model, variant: Variant = PLAIN) -> dict[str, dict[str, Any]]:
        """Write weights that need no training as the networks of a pack, and return their results."""
        run = _PackRun(self, job, model, variant)
        run.begin()
        run.epoch = run.epochs
        run.rows = run.evaluate_epoch(run.epochs)
        return run.results()

    def program(self, job: PackJob, variant: Variant = PLAIN) -> Program:
        """The program of the pack's signature, compiled already if one like it ran before."""
        key = f"{job.signature} {variant.key}"
        program = self._programs.pop(key, None)
        if program is None:
            while len(self._programs) >= _PROGRAMS_KEPT:
                del self._programs[next(iter(self._programs))]
            program = Program(next(iter(job.configs.values())), self.data, self.teachers.network(job), variant)
        self._programs[key] = program
        return program


class _PackRun:
    """The state of one pack between dispatches."""

    def __init__(self, trainer: Trainer, job: PackJob, start: Model | None, variant: Variant) -> None:
        self.trainer, self.job, self._start = trainer, job, start
        self.ids: Sequence[str] = list(job.configs)
        self.configs = list(job.configs.values())
        self.config = self.configs[0]
        self.program = trainer.program(job, variant)
        self.epochs = -(-self.program.steps // self.program.steps_per_epoch)  # the last one may be a part
        self._teachers = trainer.teachers.places(job)
        self.size = len(self.ids)  # places of the program; those after the trials' own are read by nobody
        self.stage, self.hyper = 0, self._hyper(0)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self._before = [0.0] * len(self.ids)  # seconds of each trial in earlier packs
        self.rows: list[dict[str, Any]] = []
        self.state: State
        self.best: Model
        self._steps_a_dispatch = 1
        self._timed_steps, self._timed_seconds = 0, 0.0  # of this epoch

    def restore(self, checkpoints: PackCheckpoints) -> Iterator[Event]:
        notes: list[str] = []
        found = checkpoints.restore(notes.append)
        for text in notes:
            yield Note(self.job.pack_id, self.job.attempt, text)
        _, flat, meta = found or (0, *(yield from self._from_others()))
        if meta is None:
            for text in self.begin():
                yield Note(self.job.pack_id, self.job.attempt, text)
            return
        self.epoch, self.step, self.seconds = meta["epoch"], meta["step"], meta["seconds"]
        self.rows, self._before = meta["rows"], meta.get("before") or self._before
        self.size = meta.get("size") or (self.size if found else self._fitting_size())
        self.stage = self.program.stage_at(self.epoch * self.program.steps_per_epoch + self.step)  # has its optimizer's state
        self.hyper = self._hyper(self.stage)
        tree = jax.tree.map(jnp.asarray, trees.unflatten(padded(flat, self.size), self._template()))
        self.state, self.best = tree["train"], tree["best"]
        self.best_accuracy = padded({"": np.asarray(meta["best_accuracy"])}, self.size)[""]
        if self.rows:  # the controller may have missed them; it takes each (trial, epoch) once
            yield EpochDone(self.job.pack_id, self.job.attempt, self.rows)

    def _from_others(self) -> Generator[Event, None, tuple[trees.Flat, dict[str, Any] | None]]:
        """What trials bring along that paused in other packs; no meta data where there is nothing."""
        if not self.job.origins:
            return {}, None
        try:
            return gather(self.job)
        except ValueError as error:
            text = f"{error}: the training of the {len(self.ids)} trials that went on from it starts anew"
            yield Note(self.job.pack_id, self.job.attempt, text)
            return {}, None

    def _fitting_size(self) -> int:
        last = min(self.job.pause_at or self.epochs, self.epochs)
        return self.program.sizes.fitting(len(self.ids), (last - self.epoch) * self.program.steps_per_epoch)

    def _template(self) -> dict[str, Any]:
        """The shapes of a checkpoint, without computing a state."""
        state = jax.eval_shape(self.program.init, self.hyper)
        if self.stage:
            state = jax.eval_shape(lambda state, hyper: self.program.begin(state, hyper, self.stage), state, self.hyper)
        return {"train": state, "best": _model_of(state)}

    def _hyper(self, stage: int) -> dict[str, jax.Array]:
        spare = self.size - len(self.ids)
        configs, teachers = ([*own, *own[:1] * spare] for own in (self.configs, self._teachers))
        return self.program.hyper(configs, teachers, stage)

    def begin(self) -> list[str]:
        """The state of step 0. Returns what there is to tell."""
        self.state = self.program.init(self.hyper)
        notes: list[str] = []
        if self._start is not None:
            self.state = started(self.state, self._start)
        else:
            self.state, notes = initial_state(self.job, self.program, self.state)
        self.best = jax.tree.map(jnp.copy, _model_of(self.state))  # `train` uses its state up
        self.best_accuracy = np.full(len(self.ids), -1.0)
        return notes

    def learn(self, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
        """Fetch what the students learn from; the generator's value is false if it was stopped before."""
        teachers = self.trainer.teachers
        if text := teachers.memo_note(self.job, self.program):
            yield Note(self.job.pack_id, self.job.attempt, text)
        try:
            self.lessons = teachers.lessons(self.job, self.program, should_stop)
        except StoppedError:
            return False
        return True

    def save(self, checkpoints: PackCheckpoints) -> None:
        own = len(self.ids)
        meta = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds, "before": self._before, "rows": self.rows,
                "best_accuracy": self.best_accuracy[:own].tolist(), "trials": list(self.ids), "size": self.size}  # fmt: skip
        number = self.epoch * self.program.steps_per_epoch + self.step
        state = trees.flatten({"train": self.state, "best": self.best})
        checkpoints.save(number, {name: array[:own] for name, array in state.items()}, meta)

    def train_epoch(self, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
        """Train to the end of the epoch; the generator's value is true if it was stopped before."""
        program = self.program
        start = self.epoch * program.steps_per_epoch
        total = min(program.steps_per_epoch, program.steps - start)
        order = program.order(self.hyper, self.epoch)
        self._timed_steps, self._timed_seconds = 0, 0.0
        while self.step < total:
            if should_stop():
                return True
            last = min(self.step + self._steps_a_dispatch, total, program.stages[self.stage].last - start)
            compiled, began = program.compilations(), time.perf_counter()
            self.state = program.train(self.state, self.hyper, order, self.lessons, self.epoch, self.step, last, self.stage)
            jax.block_until_ready(self.state["loss_sum"])
            seconds, steps = time.perf_counter() - began, last - self.step
            self.step = last
            self._enter_stage(start + last)
            trained_only = program.compilations() == compiled  # else the time says nothing about training
            yield self._tick(steps, seconds if trained_only else None)
            if not trained_only:
                program.sizes.compiled(self.size, seconds)
            else:
                program.sizes.trained(self.size, steps, seconds)
                self.seconds += seconds
                self._timed_steps += steps
                self._timed_seconds += seconds
                fitting = int(DISPATCH_SECONDS * steps / max(seconds, 1e-6))
                self._steps_a_dispatch = max(1, min(fitting, _GROWTH * self._steps_a_dispatch))
        return False

    def _enter_stage(self, step: int) -> None:
        """Begin the stage that a step belongs to, if it is another one: checkpoints hold the optimizer of the step to come."""
        stage = self.program.stage_at(step)
        if stage != self.stage:
            self.stage, self.hyper = stage, self._hyper(stage)
            self.state = self.program.begin(self.state, self.hyper, stage)

    def _tick(self, steps: int, seconds: float | None) -> Tick:
        per_step = self.program.batch_size * len(self.ids)
        done = (self.epoch * self.program.steps_per_epoch + self.step) * per_step
        total = self.program.steps * per_step
        return Tick(self.job.pack_id, self.job.attempt, done, total, steps * per_step / seconds if seconds else None)

    def finish_epoch(self) -> EpochDone:
        """Evaluate on the held-out images, remember the best networks, begin the next epoch."""
        program = self.program
        losses = np.asarray(self.state["loss_sum"]) / self.step
        last = self.epoch * program.steps_per_epoch + self.step - 1
        stage, factor = program.stage_at(last), program.learning_rate_factor(last)
        images = self._timed_steps * program.batch_size * len(self.ids)
        rows = self.evaluate_epoch(self.epoch + 1)
        for row, loss, config in zip(rows, losses[: len(rows)], self.configs, strict=True):
            row |= {"train_loss": _finite(loss), "learning_rate": optimizer_of(config.train, stage).learning_rate * factor,
                    "images_per_second": images / self._timed_seconds if self._timed_steps else None}  # fmt: skip
        self.rows = [*self.rows, *rows]
        self.state = {**self.state, "loss_sum": jnp.zeros_like(self.state["loss_sum"])}
        self.epoch, self.step = self.epoch + 1, 0
        return EpochDone(self.job.pack_id, self.job.attempt, rows)

    def evaluate_epoch(self, epoch: int) -> list[dict[str, Any]]:
        """A row for each trial with its figures on the held-out images; the best networks are remembered."""
        figures = self.program.evaluate(self.state, "validation")
        accuracy = np.asarray([classification_metrics(c.T)["accuracy"] for c in figures["confusion"]])
        better = accuracy > self.best_accuracy
        self.best = self.program.keep_best(self.best, _model_of(self.state), jnp.asarray(better))
        self.best_accuracy = np.where(better, accuracy, self.best_accuracy)
        return [
            {"trial": trial, "epoch": epoch, "val_loss": _finite(figures["loss"][i]),
             "val_accuracy": float(accuracy[i]), "val_top5_accuracy": _top5(figures, i)}
            for i, trial in enumerate(self.ids)
        ]  # fmt: skip

    def results(self) -> dict[str, dict[str, Any]]:
        """Final figures on the test set; writes the networks."""
        paths = RunPaths.at(self.job.root)
        last, best = jax.device_get((_model_of(self.state), self.best))
        models = {}
        for i, trial in enumerate(self.ids):
            models[paths.model(trial)] = _member(last, i)
            models[paths.best_model(trial)] = _member(best, i)
        save_models(models)
        for trial in self.job.teaches:
            self.trainer.teachers.write_logits(self.job.root, trial, self.program)
        test = self.program.evaluate(self.state, "test")
        results = self._figures()
        for i, trial in enumerate(self.ids):
            figures = classification_metrics(test["confusion"][i].T)
            results[trial] |= {
                **{f"test_{name}": value for name, value in figures.items()},
                "test_top5_accuracy": _top5(test, i), "test_loss": _finite(test["loss"][i]),
                "confusion_matrix": test["confusion"][i].tolist(),
            }  # fmt: skip
        return results

    def results_so_far(self) -> dict[str, dict[str, Any]]:
        """Of a pack that pauses; the test set is not looked at."""
        return {trial: row | {"epochs_done": self.epoch} for trial, row in self._figures().items()}

    def _figures(self) -> dict[str, dict[str, Any]]:
        """What is known after the last epoch without the test set."""
        validation = {row["trial"]: row for row in self.rows if row["epoch"] == self.epoch}
        info, trials = self.program.info, len(self.ids)
        counts = count(registry.shipped(self.config.model), input_shape(self.config.dataset, info), info.num_classes)
        return {
            trial: {
                "params": counts.params, "trainable_params": counts.trainable_params, "macs": counts.macs,
                "val_accuracy": validation[trial]["val_accuracy"], "val_loss": validation[trial]["val_loss"],
                "val_top5_accuracy": validation[trial].get("val_top5_accuracy"),
                "best_val_accuracy": float(self.best_accuracy[i]),
                "train_seconds": self._before[i] + self.seconds / trials, "pack_trials": trials,
            }
            for i, trial in enumerate(self.ids)
        }  # fmt: skip


def started(state: State, model: Model) -> State:
    """The state of step 0 with given weights in every trial; what the network has besides stays as it begins."""
    given = by_name(model)

    def leaf(path: tuple[Any, ...], own: jax.Array) -> jax.Array:
        array = given.get(name_of(path))
        return own if array is None else jnp.broadcast_to(jnp.asarray(array, own.dtype), own.shape)

    return {**state, **jax.tree_util.tree_map_with_path(leaf, _model_of(state))}


def _model_of(state: State) -> Model:
    return {"params": state["params"], "stats": state["stats"]}


def _member(stacked: Any, index: int) -> Any:
    return jax.tree.map(lambda a: a[index], stacked)


def _top5(figures: dict[str, Any], index: int) -> float | None:
    """A share; None with five classes or fewer."""
    return float(figures["top5"][index] / figures["confusion"][index].sum()) if "top5" in figures else None


def _finite(value: Any) -> float | None:
    """A diverged training has no loss; NaN is no JSON."""
    return float(value) if np.isfinite(value) else None
