"""Train a pack from wherever its checkpoints leave off, telling what happens as it happens."""

import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcomp import durable
from flaxcomp.checkpoint import trees
from flaxcomp.checkpoint.models import load_model, save_models
from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.data.arrays import Arrays
from flaxcomp.data.augment import is_random
from flaxcomp.models.counting import count
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.job import EpochDone, Event, Finished, Note, PackJob, Stopped, Tick
from flaxcomp.train.metrics import classification_metrics
from flaxcomp.train.program import Program, State

DISPATCH_SECONDS = 0.7  # the wanted length of one dispatch: rarely enough to cost nothing, often enough to show and to stop


class Trainer:
    """Trains packs one after the other; keeps data, programs and teachers' outputs between them.

    Args:
        arrays: the data set of all packs.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self._program = functools.lru_cache(maxsize=8)(self._make_program)
        self._logits = functools.lru_cache(maxsize=16)(self._teacher_logits)

    def train(self, job: PackJob, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Yield what happens, the last event being Finished or Stopped; errors are raised."""
        run = _PackRun(self, job)
        with PackCheckpoints(RunPaths.at(job.root).pack(job.pack_id), job.attempt) as checkpoints:
            yield from run.restore(checkpoints)
            while run.epoch < run.epochs:
                stopped = yield from run.train_epoch(should_stop)
                if stopped:
                    run.save(checkpoints)
                    yield Stopped(job.pack_id, job.attempt)
                    return
                yield run.finish_epoch()
                if run.epoch % run.config.train.checkpoint_every_epochs == 0 or run.epoch == run.epochs:
                    run.save(checkpoints)
        yield Finished(job.pack_id, job.attempt, run.results())

    def program(self, job: PackJob) -> Program:
        """The pack's program, compiled already if an equal one ran before."""
        return self._program(_ProgramKey(job))

    def teacher_logits(self, job: PackJob) -> tuple[jax.Array | None, list[int]]:
        """Return (logits [teachers, images, classes] or None, index of each trial's teacher)."""
        wanted = [c.distill.teacher if c.distill else "" for c in job.configs.values()]
        ids = sorted({t for t in wanted if t})
        config = next(iter(job.configs.values()))
        if not ids or is_random(config.train.augment):
            return None, [0] * len(wanted)
        table = jnp.asarray(np.stack([self._logits(job.root, t, _Hashed(job.teachers[t])) for t in ids]))
        return table, [ids.index(t) for t in wanted]

    def write_teacher_logits(self, root: str, trial_id: str, program: Program) -> np.ndarray[Any, Any]:
        """Compute a network's logits of all training images and keep them beside it for its students."""
        model = load_model(RunPaths.at(root).model(trial_id))
        logits = np.asarray(program.all_logits(model["params"], model["stats"]))
        durable.write_bytes(RunPaths.at(root).teacher_logits(trial_id), logits.astype(np.float32).tobytes())
        return logits

    def _teacher_logits(self, root: str, trial_id: str, hashed: "_Hashed") -> np.ndarray[Any, Any]:
        file = RunPaths.at(root).teacher_logits(trial_id)
        shape = (len(self.arrays.train_labels), self.arrays.info.num_classes)
        if file.exists() and file.stat().st_size == 4 * shape[0] * shape[1]:
            return np.fromfile(file, np.float32).reshape(shape)
        return self.write_teacher_logits(root, trial_id, Program(hashed.config, self.arrays, 1))

    def _make_program(self, key: "_ProgramKey") -> Program:
        job = key.job
        config = next(iter(job.configs.values()))
        teacher = None
        if config.distill and is_random(config.train.augment):
            teacher_config = job.teachers[config.distill.teacher]
            model = load_model(RunPaths.at(job.root).model(config.distill.teacher))
            params, stats = jax.tree.map(jnp.asarray, (model["params"], model["stats"]))
            teacher = Program(teacher_config, self.arrays, 1).bind(params, stats)
        return Program(config, self.arrays, len(job.configs), teacher)


class _Hashed:
    """A teacher's configuration beside its id, which alone decides equality."""

    def __init__(self, config: TrialConfig) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed)

    def __hash__(self) -> int:
        return 0


class _ProgramKey:
    """Equal for packs that run the same program."""

    def __init__(self, job: PackJob) -> None:
        self.job = job
        self._key = (job.signature, len(job.configs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ProgramKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class _PackRun:
    """The state of one pack between dispatches."""

    def __init__(self, trainer: Trainer, job: PackJob) -> None:
        self.trainer, self.job = trainer, job
        self.ids: Sequence[str] = list(job.configs)
        self.configs = list(job.configs.values())
        self.config = self.configs[0]
        self.epochs = self.config.train.epochs
        self.program = trainer.program(job)
        self.teacher_logits, teachers = trainer.teacher_logits(job)
        self.hyper = self.program.hyper(self.configs, teachers)
        self.epoch, self.step, self.seconds, self.epoch_seconds = 0, 0, 0.0, 0.0
        self.rows: list[dict[str, Any]] = []
        self._steps_a_dispatch = 1

    def restore(self, checkpoints: PackCheckpoints) -> Iterator[Event]:
        notes: list[str] = []
        found = checkpoints.restore(notes.append)
        for text in notes:
            yield Note(self.job.pack_id, self.job.attempt, text)
        self.state: State = self.program.init(self.hyper)
        self.best: dict[str, Any] = jax.tree.map(jnp.copy, _model_of(self.state))  # `train` uses its state up
        self.best_accuracy = np.full(len(self.ids), -1.0)
        if found is None:
            return
        _, flat, meta = found
        tree = jax.tree.map(jnp.asarray, trees.unflatten(flat, {"train": self.state, "best": self.best}))
        self.state, self.best = tree["train"], tree["best"]
        self.epoch, self.step, self.seconds = meta["epoch"], meta["step"], meta["seconds"]
        self.rows, self.best_accuracy = meta["rows"], np.asarray(meta["best_accuracy"])
        if self.rows:  # the controller may have missed them; it takes each (trial, epoch) once
            yield EpochDone(self.job.pack_id, self.job.attempt, self.rows)

    def save(self, checkpoints: PackCheckpoints) -> None:
        meta = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds, "rows": self.rows,
                "best_accuracy": self.best_accuracy.tolist(), "trials": list(self.ids)}  # fmt: skip
        number = self.epoch * self.program.steps_per_epoch + self.step
        checkpoints.save(number, trees.flatten({"train": self.state, "best": self.best}), meta)

    def train_epoch(self, should_stop: Callable[[], bool]) -> Generator[Event, None, bool]:
        """Train to the end of the epoch; the generator's value is true if it was stopped before."""
        program, total = self.program, self.program.steps_per_epoch
        order = program.order(self.hyper, self.epoch)
        self.epoch_seconds = 0.0
        while self.step < total:
            if should_stop():
                return True
            last = min(self.step + self._steps_a_dispatch, total)
            began = time.perf_counter()
            self.state = program.train(self.state, self.hyper, order, self.teacher_logits, self.epoch, self.step, last)
            jax.block_until_ready(self.state["loss_sum"])
            seconds = time.perf_counter() - began
            if self._steps_a_dispatch > 1 or last == total:  # the first dispatch compiles
                self.seconds += seconds
                self.epoch_seconds += seconds
            steps = last - self.step
            self.step = last
            yield self._tick(steps, seconds)
            self._steps_a_dispatch = self._next_dispatch(steps, seconds)
        return False

    def _next_dispatch(self, steps: int, seconds: float) -> int:
        if self._steps_a_dispatch == 1:
            return 8  # the first call's time was compiling
        return max(1, min(int(DISPATCH_SECONDS * steps / max(seconds, 1e-6)), 16 * self._steps_a_dispatch))

    def _tick(self, steps: int, seconds: float) -> Tick:
        per_step = self.program.batch_size * len(self.ids)
        done = (self.epoch * self.program.steps_per_epoch + self.step) * per_step
        total = self.epochs * self.program.steps_per_epoch * per_step
        return Tick(self.job.pack_id, self.job.attempt, done, total, steps * per_step / seconds)

    def finish_epoch(self) -> EpochDone:
        """Evaluate on the held-out images, remember the best networks, begin the next epoch."""
        program = self.program
        figures = program.evaluate(self.state, "validation")
        accuracy = np.asarray([classification_metrics(c.T)["accuracy"] for c in figures["confusion"]])
        better = accuracy > self.best_accuracy
        self.best = program.keep_best(self.best, _model_of(self.state), jnp.asarray(better))
        self.best_accuracy = np.where(better, accuracy, self.best_accuracy)
        losses = np.asarray(self.state["loss_sum"]) / program.steps_per_epoch
        rate = program.learning_rate_factor((self.epoch + 1) * program.steps_per_epoch - 1)
        images = program.steps_per_epoch * program.batch_size * len(self.ids)
        rows = [
            {"trial": trial, "epoch": self.epoch + 1, "train_loss": _finite(losses[i]), "val_loss": _finite(figures["loss"][i]),
             "val_accuracy": float(accuracy[i]), "learning_rate": config.train.optimizer.learning_rate * rate,
             "images_per_second": images / self.epoch_seconds if self.epoch_seconds else None}
            for i, (trial, config) in enumerate(zip(self.ids, self.configs, strict=True))
        ]  # fmt: skip
        self.rows = [*self.rows, *rows]
        self.state = {**self.state, "loss_sum": jnp.zeros_like(self.state["loss_sum"])}
        self.epoch, self.step = self.epoch + 1, 0
        return EpochDone(self.job.pack_id, self.job.attempt, rows)

    def results(self) -> dict[str, dict[str, Any]]:
        """Final figures on the test set; writes the networks."""
        paths = RunPaths.at(self.job.root)
        models = {}
        for i, trial in enumerate(self.ids):
            models[paths.model(trial)] = _member(_model_of(self.state), i)
            models[paths.best_model(trial)] = _member(self.best, i)
        save_models(models)
        for trial in self.job.teaches:
            self.trainer.write_teacher_logits(self.job.root, trial, self.program)
        validation = {row["trial"]: row for row in self.rows if row["epoch"] == self.epochs}
        test = self.program.evaluate(self.state, "test")
        info = self.trainer.arrays.info
        counts = count(self.config.model, info.image_shape, info.num_classes)
        results = {}
        for i, trial in enumerate(self.ids):
            figures = classification_metrics(test["confusion"][i].T)
            results[trial] = {
                "params": counts.params, "trainable_params": counts.trainable_params, "macs": counts.macs,
                **{f"test_{name}": value for name, value in figures.items()},
                "test_loss": _finite(test["loss"][i]), "val_accuracy": validation[trial]["val_accuracy"],
                "val_loss": validation[trial]["val_loss"], "best_val_accuracy": float(self.best_accuracy[i]),
                "train_seconds": self.seconds / len(self.ids), "pack_trials": len(self.ids),
                "confusion_matrix": test["confusion"][i].tolist(),
            }  # fmt: skip
        return results


def _model_of(state: State) -> dict[str, Any]:
    return {"params": state["params"], "stats": state["stats"]}


def _member(stacked: Any, index: int) -> Any:
    return jax.tree.map(lambda a: a[index], stacked)


def _finite(value: Any) -> float | None:
    """A diverged training has no loss; NaN is no JSON."""
    return float(value) if np.isfinite(value) else None
