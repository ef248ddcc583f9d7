"""The catalog of the command line: data sets from the data room, architectures from the models room, neither with JAX."""

from pathlib import Path
from typing import Any


class RoomCatalog:
    """Answers what `flaxcomp.sweep.expand` asks of other rooms.

    Args:
        data_dir: where prepared data sets lie; None for the default folder.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir

    def fingerprint(self, dataset: str) -> str:
        from flaxcomp.data import catalog

        return catalog.fingerprint(dataset, self._data_dir)

    def canonical_model(self, model: dict[str, Any]) -> dict[str, Any]:
        from flaxcomp.models import registry

        return registry.canonical(model)
