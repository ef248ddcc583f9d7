"""One training as Flax's own guides write it: a jitted step, called from a Python loop once a batch."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax_nets import build, count
from peer_job import Job, Point, scaled


@nnx.jit
def hard_step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    def loss(model: nnx.Module) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def soft_step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    def loss(model: nnx.Module) -> jax.Array:
        error = jax.nn.softmax(model(x) / temperature) - jax.nn.softmax(teacher / temperature)
        return (error**2).sum(-1).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def predict(model: nnx.Module, x: jax.Array) -> jax.Array:
    return model(x).argmax(-1)


def accuracy(model: nnx.Module, images: Any, labels: Any) -> float:
    right = [np.asarray(predict(model, images[i : i + 500])) == labels[i : i + 500] for i in range(0, len(images), 500)]
    return float(np.concatenate(right).mean())


def make_optimizer(job: Job, learning_rate: float) -> optax.GradientTransformation:
    if job.optimizer == "adam":
        return optax.adam(learning_rate)
    rule = optax.sgd(learning_rate, momentum=job.momentum, nesterov=True)
    return optax.chain(optax.add_decayed_weights(job.weight_decay), rule)


class Data:
    """The arrays as the loop takes them; on a GPU, `resident` puts them there once, so that no batch is copied."""

    def __init__(self, job: Job, arrays: dict[str, Any], *, resident: bool = False) -> None:
        put = jnp.asarray if resident else np.asarray
        self.images, self.labels = put(scaled(arrays["train_images"], job)), put(arrays["train_labels"])
        self.teacher = put(arrays["teacher_logits"]) if job.distills else None
        self.train, validation = np.asarray(arrays["train_index"]), np.asarray(arrays["validation_index"])
        self.validation = np.asarray(self.images)[validation], np.asarray(arrays["train_labels"])[validation]
        self.test = scaled(arrays["test_images"], job), np.asarray(arrays["test_labels"])


def train(
    job: Job,
    point: Point,
    data: Data,
    report: Callable[[dict[str, float]], None] = lambda _: None,
    compiled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train one trial. Returns what `peer_job.write_result` takes.

    `train_seconds` is the steps' time without compiling: the first step, which compiles, is taken to last as long as others.

    Args:
        report: told of every epoch.
        compiled: called after the first step.
    """
    model = build(job.model, int(point["seed"]), job.batch_norm_momentum)
    optimizer = nnx.Optimizer(model, make_optimizer(job, point["learning_rate"]), wrt=nnx.Param)
    rng, steps, seconds = np.random.default_rng(int(point["seed"])), 0, 0.0
    for _ in range(job.epochs):
        order = rng.permutation(data.train)
        model.train()
        began = time.perf_counter()
        for i in range(len(order) // job.batch_size):
            batch = order[i * job.batch_size : (i + 1) * job.batch_size]
            x = jnp.asarray(data.images[batch])
            if data.teacher is None:
                loss = hard_step(model, optimizer, x, jnp.asarray(data.labels[batch]))
            else:
                loss = soft_step(model, optimizer, x, jnp.asarray(data.teacher[batch]), point["temperature"])
            steps += 1
            if steps == 1:
                loss.block_until_ready()
                compiled()
                began = time.perf_counter()
        loss.block_until_ready()
        seconds += time.perf_counter() - began
        model.eval()
        report({"val_accuracy": accuracy(model, *data.validation)})
    return {"point": point, "params": count(model), "steps": steps, "test_accuracy": accuracy(model, *data.test),
            "train_seconds": seconds * steps / max(1, steps - 1)}  # fmt: skip
