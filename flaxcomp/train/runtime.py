"""How JAX is set up in a process that trains."""

import logging
import os
from pathlib import Path

import platformdirs

from flaxcomp.errors import UserError

# XLA's own library of CPU kernels (YNNPACK) computes some convolutions at an eighth of the speed of what it took the place of
# (3x3, 32 channels, no padding: 23 against 190 GFLOP/s on two cores, jax 0.10.2); products and sums stay with it.
_YNN = "--xla_cpu_experimental_ynn_fusion_type=individual_dot,reduce"
_YNN_VERSIONS = ("0.10.",)  # of jaxlib, which refuses flags that it does not know


def cache_folder() -> Path:
    """Compiled programs, kept between runs; FLAXCOMP_CACHE moves it."""
    return Path(os.environ.get("FLAXCOMP_CACHE") or platformdirs.user_cache_dir("flaxcomp")) / "xla"


def configure(*, accelerator: bool = False) -> None:
    """Turn on the persistent compilation cache, and choose XLA's kernels. Call before the first computation.

    Args:
        accelerator: this process was given one; JAX would fall back on the CPU with a warning that nobody sees.

    Raises:
        UserError: JAX finds no accelerator.
    """
    import jax
    from jaxlib.version import __version__ as version

    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn_fusion_type" not in flags and version.startswith(_YNN_VERSIONS):
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN}".strip()  # read at the first use of a device
    if accelerator and jax.default_backend() == "cpu":
        raise UserError("`resources.gpu` gives this worker a GPU, but JAX finds none: install flaxcomp[gpu] where it runs")
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: programs are compiled again, nothing else changes
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
    logging.getLogger("jax").setLevel(logging.ERROR)
