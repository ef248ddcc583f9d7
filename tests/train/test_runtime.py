"""How JAX is set up, seen from a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from flaxcomp.train.runtime import configure
configure()
def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32, 32, 32), (3, 3, 32, 32))]
print(jax.jit(convolve).lower(*shapes).compile().as_text())
"""


@pytest.mark.parametrize(
    ("flags", "is_slow"), [("", False), ("--xla_cpu_experimental_ynn_fusion_type=individual_convolution", True)]
)
def test_convolutions_keep_out_of_the_slow_library_unless_the_user_wants_it(flags: str, is_slow: bool, tmp_path: Path) -> None:
    """Eight times slower without padding; what the user says in XLA_FLAGS stays."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "FLAXCOMP_CACHE": str(tmp_path)}
    compiled = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    ).stdout
    (block,) = [block for block in compiled.split("\n\n") if " convolution(" in block]
    assert ("__ynn_fusion" in compiled, "ENTRY" not in block) == (is_slow, is_slow)
