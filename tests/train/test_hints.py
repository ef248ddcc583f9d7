"""Hints: layers recorded in any network, the regressor by hand, what is trained when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcomp.errors import UserError
from flaxcomp.models import registry
from flaxcomp.sweep.spec import Hint
from flaxcomp.train.hints import Bridge, layers, output_of, recording, upstream

SHAPE = (8, 8, 3)
MOBILE = {"name": "mobilenet_v1", "layout": "embedded", "blocks": 3, "width": 4}


class _Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(4, 4, (1, 1), rngs=rngs) for _ in range(2)])
        self.unused = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.first(x))
        for block in self.blocks:
            x = block(block(x))
        return x.mean((1, 2))


@pytest.fixture
def net() -> _Net:
    return _Net(nnx.Rngs(0))


def test_outputs_are_recorded_and_the_network_is_as_before(net: _Net) -> None:
    x = jnp.ones((2, *SHAPE))
    plain, kinds = net(x), [type(module) for _, module in nnx.iter_modules(net)]
    with recording(net, "first") as record:
        np.testing.assert_array_equal(net(x), plain)
    np.testing.assert_array_equal(output_of(record, "first"), net.first(x))
    assert list(record.outputs) == ["first"]
    assert [type(module) for _, module in nnx.iter_modules(net)] == kinds


def test_a_failing_network_is_as_before_too(net: _Net) -> None:
    with pytest.raises(ValueError, match="feature dimension"), recording(net):
        net(jnp.ones((2, 8, 8, 5)))
    assert type(net.first) is nnx.Conv


@pytest.mark.parametrize(("layer", "words"), [("blocks.0", "puts out more than one array"), ("unused", "is not called")])
def test_a_layer_without_one_output_is_refused(net: _Net, layer: str, words: str) -> None:
    with recording(net, layer) as record:
        net(jnp.ones((2, *SHAPE)))
    with pytest.raises(UserError, match=f"the layer {layer} cannot be a hint: it {words}"):
        output_of(record, layer)


def test_layers_of_a_network_and_its_blocks() -> None:
    shapes, blocks = layers(MOBILE, SHAPE, 10)
    assert blocks == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    assert [shapes[name] for name in blocks] == [(8, 8, 16), (8, 8, 4), (4, 4, 8), (2, 2, 16)]
    assert shapes["blocks.1.depthwise.conv"] == (4, 4, 4)
    assert shapes["logits"] == (10,)


@pytest.mark.parametrize("name", ["densenet", "shufflenet_v2", "googlenet", "squeezenext", "condensenet"])
def test_many_architectures_have_a_middle(name: str) -> None:
    shapes, blocks = layers(registry.small(name), (32, 32, 3), 10)
    assert len(blocks) >= 3
    assert all(len(shapes[block]) == 3 for block in blocks)


def test_what_leads_to_a_layer() -> None:
    names = upstream(MOBILE, SHAPE, 10, "blocks.0")
    assert {name.split(".")[0] for name in names} == {"stem", "blocks"}
    assert {name.split(".")[1] for name in names if name.startswith("blocks")} == {"0"}
    assert "blocks.0.pointwise.bn.bias" in names
    assert "blocks.0.pointwise.conv.kernel" not in upstream(MOBILE, SHAPE, 10, "blocks.0.depthwise")


def described(*shape: int) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    return {"a": (9, 9, 1), "b": shape}, ["a", "b", "a"]


def test_the_middle_of_the_blocks_is_the_default() -> None:
    bridge = Bridge(Hint(), described(4, 4, 2), described(4, 4, 2))
    assert (bridge.student_layer, bridge.teacher_layer) == ("b", "b")


def test_the_error_by_hand() -> None:
    """Half the mean of the squared differences; equal channels need no regressor."""
    bridge = Bridge(Hint(), described(1, 2, 1), described(1, 2, 1))
    assert bridge.regressor(jax.random.key(0)) == {}
    student, teacher = jnp.array([[[[1.0], [2.0]]]]), jnp.array([[[[4.0], [3.0]]]])
    np.testing.assert_allclose(bridge.error({}, student, teacher), [0.5 * (9 + 1) / 2])


def test_a_regressor_makes_channels_agree_and_windows_sizes() -> None:
    """The teacher's 2x2 map becomes its mean, 2.5 in each of 3 channels; the student's 2 channels are mixed."""
    bridge = Bridge(Hint(), described(1, 1, 2), described(2, 2, 3))
    assert {name: leaf.shape for name, leaf in bridge.regressor(jax.random.key(0)).items()} == {"kernel": (2, 3), "bias": (3,)}
    teacher = jnp.broadcast_to(jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None], (1, 2, 2, 3))
    regressor = {"kernel": jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), "bias": jnp.array([0.0, 0.5, 0.0])}
    guessed = np.array([1.0, 2.5, 2.0])
    error = bridge.error(regressor, jnp.array([[[[1.0, 2.0]]]]), teacher)
    np.testing.assert_allclose(error, [0.5 * ((guessed - 2.5) ** 2).mean()], rtol=1e-6)


def test_dense_layers_may_be_hints() -> None:
    shapes = {"hidden": (4,)}, ["a"]
    bridge = Bridge(Hint(teacher_layer="hidden", student_layer="hidden"), shapes, ({"hidden": (6,)}, ["a"]))
    assert bridge.error(bridge.regressor(jax.random.key(0)), jnp.ones((3, 4)), jnp.ones((3, 6))).shape == (3,)


@pytest.mark.parametrize(
    ("hint", "student", "words"),
    [
        (Hint(), (3, 3, 2), r"the student's b has \[3, 3, 2\] and the teacher's b \[4, 4, 5\]"),
        (Hint(student_layer="c"), (4, 4, 2), "distill.hint.student_layer: no layer is called 'c'. Known: a, b"),
        (Hint(teacher_layer="bb"), (4, 4, 2), "distill.hint.teacher_layer: no layer is called 'bb'. Did you mean 'b'"),
    ],
)
def test_what_does_not_fit_is_refused(hint: Hint, student: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Bridge(hint, described(*student), described(4, 4, 5))


def test_a_network_without_blocks_needs_a_name() -> None:
    with pytest.raises(UserError, match=r"distill.hint.student_layer must be a name: .* There are hidden"):
        Bridge(Hint(), ({"hidden": (4,)}, []), described(4, 4, 2))
