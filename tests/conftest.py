"""What every test may use."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Programs compiled by one test serve the others, and the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module() -> Iterator[None]:
    """Let go of what a module compiled: all of them together would fill gigabytes of a test process."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
