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
# Most of the time of small networks is LLVM's; unoptimised programs compute the same and are ready in half of it.
QUICK_PROGRAMS = "--xla_backend_optimization_level=0"
os.environ.setdefault("XLA_FLAGS", QUICK_PROGRAMS)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_module() -> Iterator[None]:
    """Let go of what a module compiled: all of them together would fill gigabytes of a test process."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What whole programs start, end to end, compiles as a user's does."""
    if os.environ.get("XLA_FLAGS", QUICK_PROGRAMS) == QUICK_PROGRAMS:
        if item.get_closest_marker("e2e"):
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = QUICK_PROGRAMS
