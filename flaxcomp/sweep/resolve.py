"""From a section of the file to its share of a trial, once for each combination of the parameters that it depends on.

A grid is a product and a section depends on its own parameters only, so the points of a grid are put together from few
resolved sections. That makes a point cost microseconds, not a validation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from flaxcomp.errors import SweepFileError, UserError
from flaxcomp.sweep import ids
from flaxcomp.sweep.check import check
from flaxcomp.sweep.columns import with_teachers_own
from flaxcomp.sweep.document import Node
from flaxcomp.sweep.load import LoadedSweep
from flaxcomp.sweep.spec import Dataset, Distill, DistillForm, NonNegativeInt, Train, TrialConfig
from flaxcomp.sweep.trial import Catalog, Trial

MEMO_LIMIT = 1 << 16  # resolved combinations that are kept of one section

# What a section is when the file does not say.
ABSENT: dict[str, Any] = {"dataset": {}, "distill": None, "model": {}, "seed": 0, "train": {}}


@dataclass(frozen=True, slots=True)
class Part:
    """One section of a trial.

    Attributes:
        value: as `TrialConfig` holds it.
        form: its share of the canonical form.
        signature: its share of the signature: without random augmentation, with it.
        columns: those of it that `exclude` reads.
        chain: of a distillation, the teacher and its ancestors, the furthest first.
        fingerprint: of a data set.
    """

    value: Any
    form: bytes
    signature: tuple[bytes, bytes]
    columns: dict[str, Any]
    chain: tuple[Trial, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """All sections of a trial."""

    dataset: Part
    distill: Part
    model: Part
    seed: Part
    train: Part

    def __iter__(self) -> Iterator[Part]:
        """The parts in the order of `ids.SECTIONS`."""
        return iter((self.dataset, self.distill, self.model, self.seed, self.train))

    def id(self) -> str:
        return ids.id_of(ids.join(part.form for part in self), self.dataset.fingerprint)

    def trial(self, id_: str, role: Literal["trial", "dependency"]) -> Trial:
        augmented = self.train.value.augment.is_random
        chain = self.distill.chain
        return Trial(
            id=id_,
            config=TrialConfig(
                dataset=self.dataset.value,
                model=self.model.value,
                train=self.train.value,
                distill=self.distill.value,
                seed=self.seed.value,
            ),
            needs=(chain[-1].id,) if chain else (),
            role=role,
            signature=ids.signature_of(ids.join(part.signature[augmented] for part in self)),
        )


class Resolver:
    """Resolves the sections of one sweep."""

    def __init__(self, loaded: LoadedSweep, catalog: Catalog) -> None:
        self._loaded, self._catalog = loaded, catalog
        self._names = {name for expression in loaded.exclude for name in with_teachers_own(expression.names)}
        self._teachers: dict[tuple[str, bytes], tuple[tuple[Trial, ...], dict[str, Any]]] = {}

    def dataset(self, node: Node) -> Part:
        value = _convert(node, Dataset, "dataset")
        try:
            fingerprint = self._catalog.fingerprint(value.name)
        except UserError as error:
            raise _placed(error, node, "name") from None
        return self._part("dataset", value, fingerprint=fingerprint)

    def model(self, node: Node) -> Part:
        _convert(node, dict[str, Any], "model")
        if not isinstance(node.value.get("name"), str):
            raise node.place.at(("name",)).error("model needs a `name`, the architecture's")
        try:
            value = self._catalog.canonical_model(node.value)
        except UserError as error:
            faulty = next((option for option in node.value if str(error).startswith(f"model.{option}")), "name")
            raise _placed(error, node, faulty) from None
        return self._part("model", value, columns=ids.flatten({"model": node.value}))

    def train(self, node: Node) -> Part:
        return self._part("train", _convert(node, Train, "train"))

    def seed(self, node: Node) -> Part:
        return self._part("seed", _convert(node, NonNegativeInt, "seed"))

    def distill(self, node: Node, dataset: Part) -> Part:
        form: DistillForm | None = _convert(node, DistillForm | None, "distill")
        if form is None:
            return self._part("distill", None)
        chain, seen = self._teacher(Node(node.value["teacher"], node.place.at(("teacher",))), dataset)
        named = form.teacher if isinstance(form.teacher, str) else chain[-1].id
        value = Distill(teacher=chain[-1].id, loss=form.loss, temperature=form.temperature, hard_weight=form.hard_weight)
        columns = ids.flatten({"distill": ids.plain(value)}) | seen | {"distill.teacher": named}
        return self._part("distill", value, columns=columns, chain=chain)

    def _teacher(self, node: Node, dataset: Part) -> tuple[tuple[Trial, ...], dict[str, Any]]:
        """A teacher after its ancestors, and its columns."""
        if isinstance(node.value, str):
            node = Node(self._loaded.sweep.teachers[node.value], self._loaded.document.place.at(("teachers", node.value)))
        key = (dataset.fingerprint, dataset.form + msgspec.json.encode(node.value))
        if key not in self._teachers:
            base = self._loaded.sweep.base.get("train", ABSENT["train"])
            train = Node(merge(base, node.value.get("train", {})), node.place.at(("train",)))
            parts = Parts(
                dataset=dataset,
                distill=self.distill(_inside(node, "distill"), dataset),
                model=self.model(_inside(node, "model")),
                seed=self.seed(_inside(node, "seed")),
                train=self.train(train),
            )
            chain = (*parts.distill.chain, parts.trial(parts.id(), "dependency"))
            own = [part.columns for part in parts if part is not dataset]
            columns = {f"distill.teacher.{name}": value for part in own for name, value in part.items()}
            if len(self._teachers) >= MEMO_LIMIT:
                self._teachers.clear()
            self._teachers[key] = chain, columns
        return self._teachers[key]

    def _part(self, section: str, value: Any, columns: dict[str, Any] | None = None, **more: Any) -> Part:
        """Put a part together; its columns are made only where `exclude` reads any."""
        if columns is None:
            columns = ids.flatten({section: ids.plain(value)}) if self._names else {}
        plain = ids.signature_fragment(section, value, augmented=False)
        augmented = ids.signature_fragment(section, value, augmented=True) if section == "distill" else plain
        return Part(
            value=value,
            form=ids.fragment(section, value),
            signature=(plain, augmented),
            columns={name: item for name, item in columns.items() if name in self._names},
            **more,
        )


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mapping by mapping."""
    merged = base | changes
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value)
    return merged


def _convert(node: Node, kind: Any, section: str) -> Any:
    try:
        return msgspec.convert(node.value, kind)
    except msgspec.ValidationError as error:
        check(node.value, kind, lambda route: node.place.at(route[1:]), (section,))
        raise node.place.error(f"{section}: {error}") from None


def _inside(node: Node, section: str) -> Node:
    return Node(node.value.get(section, ABSENT[section]), node.place.at((section,)))


def _placed(error: UserError, node: Node, key: str) -> SweepFileError:
    return node.place.at((key,)).error(str(error))
