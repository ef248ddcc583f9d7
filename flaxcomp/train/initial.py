"""Initial weights from elsewhere: another trial, a model folder, a weight file."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from flax import nnx

from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.weights import fingerprint, read
from flaxcomp.errors import UserError
from flaxcomp.models.abstract import abstract
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.spec import InitFrom
from flaxcomp.train.job import PackJob
from flaxcomp.train.names import by_name, few, rename
from flaxcomp.train.phases import class_axes
from flaxcomp.train.program import Program, State

Array = npt.NDArray[Any]
Named = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

_OUT_OF_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}  # dense [out, in] to [in, out]; convolutions OIHW to HWIO
_COUNTERS = "num_batches_tracked"  # of PyTorch's batch norms; nothing here counts


def initial_state(job: PackJob, program: Program, state: State) -> tuple[State, list[str]]:
    """Put initial weights in the place of random ones where trials ask for that.

    The optimizer's state is that of step 0, which no optimizer here derives from the weights.

    Args:
        job: the pack.
        program: its program.
        state: of step 0.

    Returns:
        The state, and a line for each source whose last layer is made anew.

    Raises:
        UserError: weights are missing, damaged, or do not fit: the layer, the expected and the given shape.
    """
    asking = [(i, config.train.init_from) for i, config in enumerate(job.configs.values()) if config.train.init_from]
    if not asking:
        return state, []
    arrays = {part: jax.tree.map(np.array, jax.device_get(state[part])) for part in ("params", "stats")}
    leaves: Named = by_name(arrays["params"]) | by_name(arrays["stats"])
    expected = {name: leaf.shape[1:] for name, leaf in leaves.items()}
    sources = _Sources(job, program, expected)
    remade: Counter[str] = Counter()
    for member, source in asking:
        fitting, note = sources.weights(source)
        for name, array in fitting.items():
            leaves[name][member] = array
        if note:
            remade[note] += 1
    notes = [
        f"{'a trial' if count == 1 else f'{count} trials'} of pack {job.pack_id}: {note}" for note, count in remade.items()
    ]
    return {**state, **jax.tree.map(jnp.asarray, arrays)}, notes


class _Sources:
    """Reads each source of a pack once.

    Args:
        expected: what the network needs, by name.
    """

    def __init__(self, job: PackJob, program: Program, expected: Shapes) -> None:
        self._paths, self._program, self._expected = RunPaths.at(job.root), program, expected
        self._known: dict[bytes, tuple[Named, str]] = {}

    def weights(self, source: InitFrom) -> tuple[Named, str]:
        """What fits of a source, and what to tell of the last layer, or ""."""
        key = msgspec.json.encode(source)
        if key not in self._known:
            given, where = self._file(source) if source.file is not None else self._folder(source)
            self._known[key] = self._fit(given, where)
        return self._known[key]

    def _folder(self, source: InitFrom) -> tuple[Named, str]:
        if source.trial is not None:
            folder, where = self._paths.model(source.trial), f"train.init_from: trial {source.trial}"
        else:
            folder, where = (
                self._paths.weights(str(source.checkpoint)),
                f"train.init_from: checkpoint {_short(source.checkpoint)}",
            )
        model = load_model(folder)
        given = by_name(model["params"]) | by_name(model["stats"])
        self._refuse(set(self._expected) - set(given), set(given) - set(self._expected), where)
        return given, where

    def _file(self, source: InitFrom) -> tuple[Named, str]:
        file, where = self._paths.weights(str(source.file)), f"train.init_from: file {_short(source.file)}"
        if not file.exists():
            raise UserError(
                f"{file}: initial weights must be there, but there is nothing. Start the run anew from its sweep file."
            )
        if fingerprint(file) != source.file:
            raise UserError(f"{file}: the initial weights are damaged. Remove this copy and start the run again.")
        theirs, foreign = rename(self._needed(), source.names, source.layout), read(file)
        if source.layout == "torch":
            foreign = {name: array for name, array in foreign.items() if name.rpartition(".")[2] != _COUNTERS}
        missing = {f"{name} (as {their})" if their != name else name for name, their in theirs.items() if their not in foreign}
        self._refuse(missing, set(foreign) - set(theirs.values()), where)
        given = {name: foreign[their] for name, their in theirs.items()}
        return (given if source.layout == "flax" else {name: _from_torch(name, a) for name, a in given.items()}), where

    def _needed(self) -> list[str]:
        """Parameters and batch statistics: what else a network has, such as masks, no foreign file can know."""
        p = self._program
        network = abstract(p.config.model, p.image_shape, p.info.num_classes)
        known = (nnx.to_pure_dict(nnx.state(network, kind)) for kind in (nnx.Param, nnx.BatchStat))
        return [name for tree in known for name in by_name(tree)]

    def _refuse(self, missing: set[str], left_over: set[str], where: str) -> None:
        if not missing and not left_over:
            return
        found = [f"it lacks {few(missing)}"] * bool(missing) + [f"it has {few(left_over)}, which nothing here takes"] * bool(
            left_over
        )
        model = self._program.config.model["name"]
        raise UserError(f"{where} must have the weights of {model}, all and no others, but {' and '.join(found)}")

    def _fit(self, given: Named, where: str) -> tuple[Named, str]:
        """Leave out the last layer if its number of classes is another; everything else must have the shape it needs."""
        misfits = [name for name, array in given.items() if array.shape != self._expected[name]]
        if not misfits:
            return given, ""
        p = self._program
        axes = class_axes(p.config.model, p.image_shape, p.info.num_classes)
        classes: tuple[int, int] | None = None
        for name in misfits:
            here, there = self._expected[name], given[name].shape
            differing = tuple(i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b)
            if len(here) != len(there) or differing != axes.get(name):
                layer, _, leaf = name.rpartition(".")
                raise UserError(
                    f"{where}: layer {layer}: its {leaf} must have the shape {list(here)}, but has {list(there)} there"
                )
            classes = (there[differing[0]], here[differing[0]])
        assert classes is not None
        layers = ", ".join(sorted({name.rpartition(".")[0] for name in misfits}))
        fitting = {name: array for name, array in given.items() if name not in misfits}
        return fitting, f"the last layer ({layers}) begins anew: {where} has {classes[0]} classes, here are {classes[1]}"


def _short(sha256: str | None) -> str:
    return str(sha256)[:12]


def _from_torch(name: str, array: Array) -> Array:
    return array.transpose(_OUT_OF_TORCH[array.ndim]) if name.endswith("kernel") and array.ndim in _OUT_OF_TORCH else array
