"""What students learn from besides labels, and how the compiled program asks for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxcomp.data.augment import variants_of
from flaxcomp.sweep.spec import TrialConfig

if TYPE_CHECKING:
    from flaxcomp.train.one import OneTrial

Tree = Any  # a pytree of arrays


class Table(NamedTuple):
    """Logits of images that never change, float32 [all teachers of a pack, training images of the data set, classes]."""

    logits: jax.Array


class Memo(NamedTuple):
    """Logits of images changed in each of finitely many ways, float32 [teachers of a student, ways, images, classes].

    The images are those that are trained on, in the order of `Program.split.train`.
    """

    logits: jax.Array


class Networks(NamedTuple):
    """The teachers themselves, a Model each; they see what the students see."""

    models: tuple[Tree, ...]


Lessons = Table | Memo | Networks | None


class Seen(NamedTuple):
    """A batch as a step finds it.

    Attributes:
        images: float32 in [0, 255], changed, [n, h, w, c].
        which: of the training images they are, [n].
        key: what they were changed by.
    """

    images: jax.Array
    which: jax.Array
    key: jax.Array


class Lesson(NamedTuple):
    """What the teachers say of a batch: logits [n, classes] as one, and the output of the hint layer, or None."""

    logits: jax.Array
    hint: jax.Array | None = None


class Classroom:
    """How students of one signature ask their teachers.

    Args:
        config: of one of the students.
        programs: of their teachers, in the order of `distill.teachers`, where networks are asked; else none.
        images: indices of the training images that are trained on, ascending.
    """

    def __init__(self, config: TrialConfig, programs: Sequence["OneTrial"], images: jax.Array) -> None:
        assert config.distill is not None
        self._distill, self._augment = config.distill, config.train.augment
        self._programs, self._images = programs, images

    def ask(self, lessons: Lessons, seen: Seen, hyper: Tree, layer: str | None) -> Lesson:
        """What the teachers of one student say.

        Args:
            lessons: of the pack.
            seen: the batch.
            hyper: of the student: `teacher` [k], `weights` [k], `temperature`.
            layer: of the teacher, whose output is wanted as well.
        """
        hint = None
        if isinstance(lessons, Table):
            logits = lessons.logits[hyper["teacher"][:, None], seen.which]
        elif isinstance(lessons, Memo):
            way = variants_of(len(seen.images), self._augment, seen.key)
            logits = lessons.logits[:, way, jnp.searchsorted(self._images, seen.which)]
        else:
            assert lessons is not None, "students have teachers"
            mode = self._distill.teacher_mode
            said = [program.shown(model, seen.images, mode=mode, layer=layer)
                    for program, model in zip(self._programs, lessons.models, strict=True)]  # fmt: skip
            logits, hint = jnp.stack([each for each, _ in said]), said[0][1]
        return Lesson(combined(logits, hyper["weights"], self._distill.combine, hyper["temperature"]), hint)


def combined(logits: jax.Array, weights: jax.Array, how: str, temperature: jax.Array) -> jax.Array:
    """The logits of several teachers as those of one.

    Args:
        logits: [k, n, classes].
        weights: [k], of sum 1.
        how: `logits`, their weighted mean; `probabilities`, logits whose softmax at the temperature is the weighted mean of
            the teachers' (Hinton et al. 2015, section 1, the arithmetic mean of an ensemble).
        temperature: T.

    Returns:
        [n, classes]; those of a single teacher as they are.
    """
    if len(logits) == 1:
        return logits[0]
    weights = weights[:, None, None]
    if how == "logits":
        mean: jax.Array = (weights * logits).sum(0)
        return mean
    softened: jax.Array = jax.nn.logsumexp(jax.nn.log_softmax(logits / temperature) + jnp.log(weights), 0)
    return temperature * softened
