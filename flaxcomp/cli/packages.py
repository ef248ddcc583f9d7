"""Packages that only some commands need: asked for before anything is begun, without importing them."""

import importlib.util

from flaxcomp.errors import MissingPackageError

TRAINING = ("jax", "flax", "optax", "orbax")
EXPORT = ("tensorflow",)


def need(packages: tuple[str, ...], what: str, otherwise: str = "") -> None:
    """Refuse what cannot be done here.

    Args:
        packages: as they are imported.
        what: what needs them.
        otherwise: what to do instead of installing them, after a comma.

    Raises:
        MissingPackageError: one of them is not installed; says how to install it.
    """
    for package in packages:
        if not _is_installed(package):
            raise MissingPackageError(f"{what} needs the package {package}: pip install 'flaxcomp[full]'{otherwise}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
