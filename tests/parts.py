"""Parts that a test needs and a machine may lack."""

import os

import pytest


def require(condition: object, what: str) -> None:
    """Skip the test when a part is missing, but never in CI: there the part has to be installed.

    Args:
        condition: true when the part is there.
        what: what is missing and how to install it.
    """
    if not condition:
        if os.environ.get("CI"):
            pytest.fail(f"missing in CI, where nothing may be skipped: {what}")
        pytest.skip(what)
