"""Distillation losses, one file each: the file's name is `distill.loss`, its function `loss`."""

import importlib
from typing import Protocol

import jax


class Loss(Protocol):
    """Loss of a student per image, from logits [n, m], the teacher's logits [n, m] and labels [n]."""

    def __call__(
        self, student: jax.Array, teacher: jax.Array, labels: jax.Array, temperature: jax.Array, hard_weight: jax.Array
    ) -> jax.Array: ...


def load(name: str) -> Loss:
    """Return the loss called `name`."""
    loss: Loss = importlib.import_module(f"flaxcomp.distill.{name}").loss
    return loss
