"""A network in eval mode whose layers' outputs can be seen and multiplied by bitmaps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from flaxcomp.data.catalog import DatasetInfo
from flaxcomp.models.outputs import Traced
from flaxcomp.sweep.spec import Dataset
from flaxcomp.train.inputs import input_shape, normalise

LARGEST_BATCH = 250
_PIXELS = 1 << 22  # of a batch, at most: what layers make of them must fit into memory

Tree = Any
Masks = Mapping[str, NDArray[Any]]


def state_of(network: nnx.Module) -> Tree:
    """All its arrays, as nested dicts."""
    return nnx.to_pure_dict(nnx.state(network))


class Subject:
    """The program of a network, compiled once for images of a data set.

    Args:
        network: in eval mode, with arrays or with their shapes alone: weights are given with each call.
        spec, info: of the data set.
        largest_batch: images that are seen at once, fewer where they are large.
    """

    def __init__(self, network: nnx.Module, spec: Dataset, info: DatasetInfo, largest_batch: int = LARGEST_BATCH) -> None:
        shape = input_shape(spec, info)
        batch = max(1, min(largest_batch, _PIXELS // (shape[0] * shape[1])))
        self._batch = batch
        with jax.default_matmul_precision("highest"):  # a GPU's default is lower
            self.traced = Traced(network, jax.ShapeDtypeStruct((batch, *shape), jnp.float32))

        def inputs(images: jax.Array, index: jax.Array) -> jax.Array:
            x: jax.Array = normalise(images[index], spec, info, jnp)
            return x

        def logits(state: Tree, masks: Any, images: jax.Array, index: jax.Array) -> jax.Array:
            result, _, _ = self.traced(state, inputs(images, index), masks)
            found: jax.Array = result.astype(jnp.float32)
            return found

        def activity(state: Tree, images: jax.Array, index: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
            _, _, seen = self.traced(state, inputs(images, index), {})
            return {layer: jnp.tensordot(weight, jnp.abs(maps.astype(jnp.float32)), 1) for layer, maps in seen.items()}

        self._logits, self._activity = jax.jit(logits), jax.jit(activity)

    def no_masks(self) -> dict[str, NDArray[np.uint8]]:
        """Ones for every layer."""
        return {output.layer: np.ones(output.shape, np.uint8) for output in self.traced.outputs}

    def logits(self, state: Tree, masks: Masks, images: jax.Array, index: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Logits float32 [n, classes] of chosen images, batch after batch.

        Args:
            state: as `state_of` gives it. masks: of every layer, uint8 of one image's shape: the same program for all.
            images: uint8 [n, h, w, c]. index: of the chosen ones.
        """
        for batch, count in self._batches(index):
            yield np.asarray(self._logits(state, dict(masks), images, batch))[:count]

    def mean_activity(self, state: Tree, images: jax.Array, index: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
        """The mean magnitude of each layer's output over chosen images, of one image's shape (equation 12).

        The text's outputs have passed a ReLU, where the magnitude is the value. Where a layer's have not, as before the sum of
        a residual block, a mean near 0 would not say that nothing fires.
        """
        sums: dict[str, NDArray[np.float64]] = {}
        for batch, count in self._batches(index):
            weight = (np.arange(self._batch) < count).astype(np.float32)
            found = jax.device_get(self._activity(state, images, batch, weight))
            for layer, total in found.items():
                sums[layer] = sums.get(layer, 0) + total.astype(np.float64)
        return {layer: (total / len(index)).astype(np.float32) for layer, total in sums.items()}

    def _batches(self, index: NDArray[np.int32]) -> Iterator[tuple[NDArray[np.int32], int]]:
        """Indices of full batches, the last one filled up with repeats, and how many count."""
        for first in range(0, len(index), self._batch):
            batch = index[first : first + self._batch]
            yield np.resize(batch, self._batch), len(batch)


class Judge:
    """How many images of the kept classes a network gets wrong.

    Args:
        images: uint8 [n, h, w, c]. labels: int32 [n].
        among: the images that may be used, indices. classes: the kept ones.
        outputs: which logits the answer is sought among, bool [all classes].
    """

    def __init__(
        self, images: jax.Array, labels: Any, among: Any, classes: tuple[int, ...], outputs: NDArray[np.bool_]
    ) -> None:
        chosen = np.asarray(among, np.int32)
        every = np.asarray(labels)
        self.index = chosen[np.isin(every[chosen], classes)]
        self._images, self._labels, self._outputs = images, every[self.index], outputs

    @property
    def count(self) -> int:
        """Images that are judged."""
        return len(self.index)

    def wrong(self, subject: Subject, state: Tree, masks: Masks, at_most: int | None = None,
              should_stop: Callable[[], None] = lambda: None) -> int:  # fmt: skip
        """Wrong answers; counting ends at the first batch that has more than `at_most` behind it."""
        wrong = done = 0
        for logits in subject.logits(state, masks, self._images, self.index):
            answers = np.where(self._outputs, logits, -np.inf).argmax(1)
            wrong += int((answers != self._labels[done : done + len(answers)]).sum())
            done += len(answers)
            if at_most is not None and wrong > at_most:
                break
            should_stop()
        return wrong

    def accuracy(self, subject: Subject, state: Tree, masks: Masks) -> float:
        return 1 - self.wrong(subject, state, masks) / self.count

    def lowest(self, subject: Subject, state: Tree, masks: Masks) -> float:
        """The lowest logit of a kept output on these images."""
        return min(float(logits[:, self._outputs].min()) for logits in subject.logits(state, masks, self._images, self.index))
