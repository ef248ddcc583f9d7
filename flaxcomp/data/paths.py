"""Where prepared data lie: the one owner of paths inside the data folder."""

import os
from dataclasses import dataclass
from pathlib import Path


def default_data_dir() -> Path:
    """The folder named by FLAXCOMP_DATA, else `data` in the user's cache of flaxcomp."""
    named = os.environ.get("FLAXCOMP_DATA")
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("flaxcomp", appauthor=False)) / "data"


@dataclass(frozen=True)
class SetPaths:
    """The parts of one prepared data set.

    The folder `root` is what TFDS expects under a data folder (`root/VERSION/dataset_info.json`, records); beside the version
    stand the decoded arrays and what flaxcomp knows of them. It appears by one rename.
    """

    root: Path

    @classmethod
    def of(cls, name: str, data_dir: Path | None) -> "SetPaths":
        return cls((data_dir or default_data_dir()) / name)

    @property
    def info_file(self) -> Path:
        """`{"info": DatasetInfo, "source": str}`; written last, so its presence means that the set is whole."""
        return self.root / "flaxcomp.json"

    @property
    def tfds_folder(self) -> Path | None:
        """The folder of the TFDS data set's version; None where there is none."""
        return max((file.parent for file in self.root.glob("*/dataset_info.json")), default=None)

    @property
    def arrays_folder(self) -> Path:
        return self.root / "arrays"

    def array(self, name: str) -> Path:
        """One decoded array, e.g. `train_images`, as .npy: a cache of the TFDS data set, which may be removed."""
        return self.arrays_folder / f"{name}.npy"

    @property
    def lock_file(self) -> Path:
        return self.root.with_name(f".{self.root.name}.lock")
