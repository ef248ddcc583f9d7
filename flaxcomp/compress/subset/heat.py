"""Heat maps, computed once for a trained network and kept beside it, a file a class: other sets of classes read them again."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from flaxcomp import durable
from flaxcomp.compress.subset.bitmaps import HeatMap
from flaxcomp.compress.subset.subject import Subject, Tree
from flaxcomp.errors import UserError

HeatMaps = dict[str, HeatMap]  # by layer

_FORM = 1  # of the files; raised when the same network no longer gives the same maps


class HeatStore:
    """The heat maps of one network.

    Args:
        folder: where they are kept.
        subject, state: the network.
        images: uint8 [n, h, w, c], the training images. labels: int32 [n].
        among: those that the network was trained on, indices.
        per_class: how many of each class count, the first ones; None: all.
        about: what else decides what the network sees of an image, JSON.
    """

    def __init__(
        self, folder: Path, subject: Subject, state: Tree, images: jax.Array, labels: Any, among: Any,
        per_class: int | None, about: Any,
    ) -> None:  # fmt: skip
        self._folder, self._subject, self._state, self._images = folder, subject, state, images
        self._among = np.asarray(among, np.int32)
        self._labels = np.asarray(labels)[self._among]
        self._per_class = per_class
        self._key = _key(state, self._among, [_FORM, per_class, about])
        self.computed: list[int] = []  # the classes whose maps were not there yet

    def of(self, classes: Sequence[int]) -> Iterator[tuple[int, HeatMaps]]:
        """Yield the maps of one class after the other.

        Raises:
            UserError: there is no training image of a class.
        """
        for number in classes:
            path = self._folder / f"{self._key}-{number}.npz"
            maps = _read(path)
            if maps is None:
                maps = self._compute(number)
                self.computed.append(number)
                stream = io.BytesIO()
                np.savez(stream, **maps)  # type: ignore[arg-type]
                durable.write_bytes(path, stream.getvalue())
            yield number, maps

    def _compute(self, number: int) -> HeatMaps:
        index = self._among[self._labels == number][: self._per_class]
        if not len(index):
            raise UserError(f"subset: class {number} must have training images, but the trial's `train_limit` and validation "
                            "split leave none")  # fmt: skip
        return self._subject.mean_activity(self._state, self._images, index)


def _key(state: Tree, among: NDArray[np.int32], about: Any) -> str:
    """Equal for equal networks that see equal images."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(among.tobytes())
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # what dropout starts from
            continue
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def _read(path: Path) -> HeatMaps | None:
    """None where there is no such file, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {layer: archive[layer] for layer in archive.files}
    except Exception:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        return None
