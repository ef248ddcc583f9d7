"""The resolved sections of a trial, and the trial that they make together."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from flaxcomp.sweep import ids
from flaxcomp.sweep.document import Place
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.sweep.trial import Images, Trial

_NO_IMAGES = Images(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One section of a trial.

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


@dataclass(frozen=True)
class Parts:
    """All sections of a trial."""

    dataset: Part
    distill: Part
    model: Part
    seed: Part
    train: Part
    methods: tuple[tuple[str, Part], ...] = ()  # of compression, in their order, by name; only those that do something

    def __iter__(self) -> Iterator[Part]:
        """The parts in the order of `ids.SECTIONS`."""
        yield from (self.dataset, self.distill, self.model, self.seed, self.train)
        for _, part in self.methods:
            yield part

    def id(self) -> str:
        return self._id

    @functools.cached_property
    def _id(self) -> str:
        forms = [part.form for part in self]
        if self.methods:
            forms.append(ids.fragment("source", self.source.id()))
        return ids.id_of(ids.join(forms), self.dataset.fingerprint)

    @functools.cached_property
    def source(self) -> "Parts":
        """The trial whose network this one makes smaller."""
        return replace(self, methods=self.methods[:-1])

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
        needing = (self.distill,) if self.methods else (self.distill, self.train)
        return Trial(
            id=id_,
            config=TrialConfig(
                dataset=self.dataset.value,
                model=self.model.value,
                train=self.train.value,
                distill=self.distill.value,
                seed=self.seed.value,
                source=source,
                **{name: part.value for name, part in self.methods},
            ),
            needs=tuple(dict.fromkeys([*([source] if source else ()), *(need for part in needing for need in part.needs)])),
            role=role,
            signature=ids.signature_of(ids.join(part.signature[augmented] for part in self)),
        )
