"""Gates on channels: closed they remove, and their derivative is the paper's sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pruning_nets import assert_close, filled, logits, network_of, random_keep, reduced

from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.groups import couple_network
from flaxcomp.compress.prune.probe import Probe, reads
from flaxcomp.compress.prune.surgery import masked, plan
from flaxcomp.models.registry import architecture_files


def parts(network: nnx.Module) -> tuple[Any, Any]:
    _, params, rest = nnx.split(network, nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


@pytest.mark.parametrize("name", ["resnet", "wide_resnet", "densenet", "mobilenet_v2", "shufflenet_v1", "condensenet", "vgg16"])
def test_closed_gates_are_what_masking_is(name: str) -> None:
    """Whatever stands between the layers: skip connections, shuffles, depthwise and grouped convolutions, flattening."""
    model = reduced(name)
    coupling = couple(model, model["input_shape"], 10)
    network = network_of(coupling)
    cut = plan(coupling, random_keep(coupling, 0))
    where = reads(coupling)
    gates = np.zeros((2, where.first[-1]), np.float32)
    for group, part in where.split(gates).items():
        part[:, cut.kept[group]] = 1
    x = jax.random.normal(jax.random.key(1), (2, *coupling.input_shape))
    probe = Probe(network, where)
    gated = jax.jit(probe.logits)(*parts(network), x, gates)
    assert_close(logits(masked(network, cut), coupling.input_shape), np.asarray(gated))
    assert not np.allclose(gated, probe.logits(*parts(network), x, jnp.ones_like(gates)))
