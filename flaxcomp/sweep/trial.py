"""What a sweep is expanded to, and what it must ask of other rooms for that."""

from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from flaxcomp.sweep.spec import Dataset, TrialConfig


class Images(NamedTuple):
    """What a data set has: stored training images, those that a trial trains on, their size in pixels, classes."""

    stored: int
    training: int
    height: int
    width: int
    classes: int


class Catalog(Protocol):
    """Data sets and models, which live in other rooms; the command line brings them in."""

    def fingerprint(self, dataset: str) -> str:
        """The fingerprint of a data set's content. Raises UserError for an unknown one."""

    def images(self, dataset: Dataset) -> Images:
        """Its images after `train_limit` and the validation split. Raises UserError when nothing is left for one of these."""

    def labels(self, dataset: str) -> tuple[str, ...]:
        """The names of a data set's classes. Raises UserError for an unknown one."""

    def canonical_model(self, model: dict[str, Any]) -> dict[str, Any]:
        """The model checked, its default options left out. Raises UserError for an unknown name or option."""

    def weights(self, path: str) -> str:
        """The SHA-256 of a weight file or a model folder. Raises UserError when it is missing or damaged."""

    def table(self, path: str) -> str:
        """The SHA-256 of a table of measured layers. Raises UserError when it is missing."""

    def weight_names(self, path: str) -> dict[str, str]:
        """The name map in a YAML file. Raises UserError when it is missing or no map."""


class Trial(msgspec.Struct, frozen=True, gc=False):
    """One training to be done. There may be a million, so they are quick to make and nothing for the garbage collector.

    Attributes:
        id: see `ids.trial_id`.
        config: the resolved configuration; its teacher, what it starts from and what it makes smaller are trials' ids.
        needs: ids of the trials that must be finished before.
        role: "trial" if the sweep asks for it, "dependency" if only another trial does.
        signature: see `ids.signature`.
    """

    id: str
    config: TrialConfig
    needs: tuple[str, ...]
    role: Literal["trial", "dependency"]
    signature: str
