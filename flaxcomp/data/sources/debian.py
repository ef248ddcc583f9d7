"""Debian packages that carry whole data sets, fetched by `apt-get download`, which needs no root."""

from pathlib import Path

from flaxcomp.data import client
from flaxcomp.data.progress import Report
from flaxcomp.data.sources import idx
from flaxcomp.data.splits import Decoded
from flaxcomp.errors import UserError

PACKAGES = {"fashion_mnist": "dataset-fashion-mnist"}
_DATA = {"fashion_mnist": "usr/share/datasets/fashion-mnist"}


def fetch(name: str, folder: Path, report: Report) -> Decoded:
    """Fetch the package with the data set `name` into the empty `folder` and decode it.

    Raises:
        UserError: apt-get or dpkg-deb is missing or fails.
    """
    package = PACKAGES[name]
    report(f"fetch {package} with apt-get", 0, 0)
    try:
        client.run(["apt-get", "download", package], folder)
    except UserError as error:
        if "not installed" in str(error):
            raise
        try:  # the machine's lists of packages may be missing or out of date
            _download_with_own_lists(package, folder)
        except UserError as second:
            raise UserError(f"{error} Then, with fresh lists of packages: {second}") from second
    archive = next(folder.glob("*.deb"), None)
    if archive is None:
        raise UserError(f"apt-get download {package} left no file.")
    client.run(["dpkg-deb", "--extract", str(archive), str(folder)], folder)
    return idx.read(folder / _DATA[name])


def _download_with_own_lists(package: str, folder: Path) -> None:
    state = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User="]
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    client.run(["apt-get", "update", *state], folder)
    client.run(["apt-get", "download", *state, package], folder)
