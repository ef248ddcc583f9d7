"""The catalog of the command line: data sets, architectures and weights from their rooms, none of it with JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxcomp.cli.pools import first_there
from flaxcomp.errors import UserError
from flaxcomp.sweep.spec import Dataset
from flaxcomp.sweep.trial import Images

if TYPE_CHECKING:
    from flaxcomp.data.catalog import DatasetInfo

MAX_NAMES_BYTES = 1 << 20


class RoomCatalog:
    """Answers what `flaxcomp.sweep.expand` asks of other rooms.

    Args:
        data_dir: where prepared data sets lie; None for the default folder.
        beside: the folder of the sweep file, from which paths lead that do not from the working directory.
        copies: of files that the sweep names, by the path there; for those that neither of the two has.
        planning: named data sets need not be prepared; their trials' ids are not final then.

    Attributes:
        files: the files that the sweep names, by the path there.
        contents: their SHA-256, likewise.
    """

    def __init__(self, data_dir: Path | None = None, beside: Path | None = None, copies: Mapping[str, Path] | None = None,
                 *, planning: bool = False) -> None:  # fmt: skip
        self._data_dir, self._beside, self._copies, self._planning = data_dir, beside, copies or {}, planning
        self._names: dict[str, dict[str, str]] = {}
        self.contents: dict[str, str] = {}
        self.files: dict[str, Path] = {}

    def fingerprint(self, dataset: str) -> str:
        return self._info(dataset).fingerprint

    def images(self, dataset: Dataset) -> Images:
        from flaxcomp.data import catalog

        info = self._info(dataset.name)
        usable = min(info.train_size, dataset.train_limit or info.train_size)
        height, width, _ = info.image_shape
        training = usable - catalog.held_out(usable, dataset.validation.fraction)
        return Images(info.train_size, training, height, width, info.num_classes)

    def labels(self, dataset: str) -> tuple[str, ...]:
        return self._info(dataset).labels

    def _info(self, dataset: str) -> "DatasetInfo":
        from flaxcomp.data import catalog

        return (catalog.outline if self._planning else catalog.info)(dataset, self._data_dir)

    def canonical_model(self, model: dict[str, Any]) -> dict[str, Any]:
        from flaxcomp.models import registry

        return registry.canonical(model)

    def weights(self, path: str) -> str:
        from flaxcomp.checkpoint.weights import check, fingerprint

        if path not in self.contents:
            file = self._find(path)
            check(file)
            self.contents[path] = fingerprint(file)
        return self.contents[path]

    def table(self, path: str) -> str:
        from flaxcomp.checkpoint.weights import fingerprint

        if path not in self.contents:
            file = self._find(path)
            if not file.is_file():
                raise UserError(f"{path}: a table of measured layers must be there, but there is no such file")
            self.contents[path] = fingerprint(file)
        return self.contents[path]

    def weight_names(self, path: str) -> dict[str, str]:
        import yaml

        from flaxcomp.checkpoint.weights import fingerprint

        if path not in self._names:
            file = self._find(path)
            try:
                if file.stat().st_size > MAX_NAMES_BYTES:
                    raise UserError(f"{file}: a name map may have 1 MiB at most")
                names = yaml.safe_load(file.read_text())
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                reason = getattr(error, "strerror", None) or " ".join(str(error).split())
                raise UserError(f"{file}: the name map cannot be read: {reason}") from None
            if not isinstance(names, dict) or not all(isinstance(text, str) for pair in names.items() for text in pair):
                raise UserError(f"{file}: a name map must be a mapping from parameters here to names in the weight file")
            self._names[path], self.contents[path] = names, fingerprint(file)
        return self._names[path]

    def sources(self) -> dict[str, Path]:
        """Where the files lie that the sweep names, by their content."""
        return {content: self.files[path] for path, content in self.contents.items()}

    def _find(self, path: str) -> Path:
        named = Path(path).expanduser()
        beside = None if self._beside is None else self._beside / named
        self.files[path] = first_there(named, beside, self._copies.get(path))
        return self.files[path]
