"""The resolved sections of a trial, and the trial that they make together."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flaxcomp.sweep import ids
from flaxcomp.sweep.document import Place
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.trial import Images, Trial

_NO_IMAGES = Images(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One section of a trial. Points of a grid share them, so they are told apart by what they are, not by what they hold.

    Attributes:
        value: as `TrialConfig` holds it.
        form: its share of the canonical form.
        signature: its share of the signature: without random augmentation, with it.
        columns: those of it that `exclude` reads.
        chain: the trainings that it needs (teachers, initial weights), each after its ancestors.
        needs: their ids.
        depth: how many trainings must be done one after the other before.
        fingerprint, images: of a data set.
        place: where a distillation stands.
    """

    value: Any
    form: bytes
    signature: tuple[bytes, bytes]
    columns: dict[str, Any]
    chain: tuple[Trial, ...] = ()
    needs: tuple[str, ...] = ()
    depth: int = 0
    fingerprint: str = ""
    images: Images = _NO_IMAGES
    place: Place | None = None


class Parts:
    """All sections of a trial; a million of these are made, so what costs more than a microsecond is shared or made once.

    Attributes:
        methods: of compression, in their order, by name; only those that do something.
    """

    __slots__ = ("_id", "_source", "dataset", "distill", "methods", "model", "seed", "train")

    def __init__(
        self, dataset: Part, distill: Part, model: Part, seed: Part, train: Part, methods: tuple[tuple[str, Part], ...] = ()
    ) -> None:
        self.dataset, self.distill, self.model, self.seed, self.train = dataset, distill, model, seed, train
        self.methods = methods
        self._id: str | None = None
        self._source: Parts | None = None

    def __iter__(self) -> Iterator[Part]:
        """The parts in the order of `ids.SECTIONS`."""
        yield from self._parts()

    def _parts(self) -> list[Part]:
        return [self.dataset, self.distill, self.model, self.seed, self.train, *[part for _, part in self.methods]]

    def id(self) -> str:
        if self._id is None:
            forms = [part.form for part in self._parts()]
            if self.methods:
                forms.append(ids.fragment("source", self.source.id()))
            self._id = ids.id_of(ids.join(forms), self.dataset.fingerprint)
        return self._id

    @property
    def source(self) -> "Parts":
        """The trial whose network this one makes smaller."""
        if self._source is None:
            self._source = Parts(self.dataset, self.distill, self.model, self.seed, self.train, self.methods[:-1])
        return self._source

    @property
    def depth(self) -> int:
        return max(self.distill.depth, self.train.depth) + len(self.methods)

    @property
    def ancestors(self) -> tuple[Trial, ...]:
        """All trainings that must be done before, each after what it needs."""
        if self.methods:
            return (*self.source.ancestors, self.source.trial(self.source.id(), "dependency"))
        if not self.train.chain:
            return self.distill.chain
        return tuple({trial.id: trial for trial in (*self.distill.chain, *self.train.chain)}.values())

    def trial(self, id_: str, role: Literal["trial", "dependency"]) -> Trial:
        augmented = self.train.value.augment.is_random
        source = self.source.id() if self.methods else None
        config = TrialConfig(
            dataset=self.dataset.value,
            model=self.model.value,
            train=self.train.value,
            distill=self.distill.value,
            seed=self.seed.value,
            source=source,
            **{name: part.value for name, part in self.methods},
        )
        return Trial(id_, config, self._needs(source), role, _signature(*[part.signature[augmented] for part in self._parts()]))

    def _needs(self, source: str | None) -> tuple[str, ...]:
        if source is not None:
            return tuple(dict.fromkeys((source, *self.distill.needs)))
        if not (self.distill.needs and self.train.needs):
            return self.distill.needs or self.train.needs
        return tuple(dict.fromkeys((*self.distill.needs, *self.train.needs)))


@functools.lru_cache(maxsize=1 << 14)
def _signature(*fragments: bytes) -> str:
    """The signature of these shares of it; most trials of a sweep differ in what is none of it."""
    return ids.signature_of(ids.join(fragments))
