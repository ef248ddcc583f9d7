"""Distillation losses, one file each: the file's name is `distill.loss`, its function `loss`.

What a loss reads besides logits and labels are its keyword-only parameters. They bear the names of options of
`flaxcomp.sweep.spec.Distill`, and are read from the file's text: planning a sweep needs them, and imports no JAX.
"""

import ast
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import jax


class Loss(Protocol):
    """Loss of a student per image, from logits [n, m], its teacher's logits [n, m] and labels [n]; float [n]."""

    def __call__(self, student: "jax.Array", teacher: "jax.Array", labels: "jax.Array", **options: Any) -> "jax.Array": ...


@functools.cache
def losses() -> dict[str, frozenset[str]]:
    """All losses by name, sorted, each with the options that it reads."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("_"))
    return {path.stem: _options(path) for path in files}


@functools.cache
def options() -> tuple[str, ...]:
    """What any of the losses reads, sorted."""
    return tuple(sorted(frozenset[str]().union(*losses().values())))


def load(name: str) -> Loss:
    """Return the loss called `name`."""
    loss: Loss = importlib.import_module(f"flaxcomp.distill.{name}").loss
    return loss


def _options(path: Path) -> frozenset[str]:
    (loss,) = (node for node in ast.parse(path.read_text(), str(path)).body
               if isinstance(node, ast.FunctionDef) and node.name == "loss")  # fmt: skip
    return frozenset(argument.arg for argument in loss.args.kwonlyargs)
