"""Gates on channels: closed they remove, and their derivative is the sum of the papers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from pruning_nets import assert_close, filled, logits, network_of, random_keep, reduced

from flaxcomp.compress.prune import criteria
from flaxcomp.compress.prune.coupling import couple
from flaxcomp.compress.prune.evidence import Scorer
from flaxcomp.compress.prune.groups import couple_network
from flaxcomp.compress.prune.probe import Probe, reads
from flaxcomp.compress.prune.surgery import masked, plan
from flaxcomp.errors import UserError
from flaxcomp.train.restore import weights_of


@pytest.mark.parametrize("name", ["resnet", "wide_resnet", "mobilenet_v2", "shufflenet_v1", "condensenet", "vgg16"])
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
    x, weights = jax.random.normal(jax.random.key(1), (2, *coupling.input_shape)), weights_of(network)
    gated = jax.jit(Probe(network, where).logits)(weights["params"], weights["stats"], x, gates)
    assert_close(logits(masked(network, cut), coupling.input_shape), np.asarray(gated))


class _Skip(nnx.Module):
    """conv1 makes four channels that conv2 reads and adds to; the dense layer reads the sum."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1, self.conv2 = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4, 5, rngs=rngs)

    def first(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv1(x)))

    def second(self, stream: jax.Array, read: jax.Array) -> jax.Array:
        return nnx.relu(stream + self.conv2(read))

    def last(self, read: jax.Array) -> jax.Array:
        return self.dense(read.mean((1, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        a = self.first(x)
        return self.last(self.second(a, a))


class _Headed(_Skip):
    """Another dense layer reads the stream in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nnx.Linear(4, 5, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> Any:
        a = self.first(x)
        main = self.last(self.second(a, a))
        return main if self.bn.use_running_average else (main, [self.head(a.mean((1, 2)))])


SHAPE = (6, 6, 3)


@pytest.fixture
def skip() -> Any:
    return filled(nnx.eval_shape(_Skip))


def test_the_derivative_is_the_papers_sum_over_all_that_is_read(skip: Any) -> None:
    """sum_ij a_ij dL/da_ij where conv2 reads, the stream beside it held, and where the dense layer reads."""
    skip.eval()
    x, labels = jax.random.normal(jax.random.key(0), (3, *SHAPE)), jnp.array([0, 4, 2])
    a = skip.first(x)
    b = skip.second(a, a)

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    at_conv2 = (a * jax.grad(lambda read: loss(skip.last(skip.second(a, read))))(a)).sum((1, 2))
    at_dense = (b * jax.grad(lambda read: loss(skip.last(read)))(b)).sum((1, 2))
    grouping = couple_network(skip, SHAPE)
    (group,) = grouping.free
    scorer = Scorer(criteria.load("fisher"), grouping, skip, np.asarray(x), np.asarray(labels))
    weights = weights_of(skip)
    scores = scorer.scores(weights["params"], weights["stats"])[group.name]
    np.testing.assert_allclose(scores, np.square(at_conv2 + at_dense).mean(0) / 2, rtol=1e-4)
    taylor = Scorer(criteria.load("taylor"), grouping, skip, np.asarray(x), np.asarray(labels))
    scores = taylor.scores(weights["params"], weights["stats"])[group.name]
    np.testing.assert_allclose(scores, np.abs(at_conv2 + at_dense).mean(0), rtol=1e-4)


def test_an_idle_head_reads_nothing() -> None:
    network = filled(nnx.eval_shape(_Headed))
    grouping = couple_network(network, SHAPE)
    assert {axis.leaf for axis in grouping.free[0].members if axis.role == "in"} == {
        "conv2/kernel",
        "dense/kernel",
        "head/kernel",
    }
    weights, x = weights_of(network), np.ones((1, *SHAPE), np.float32)
    scores = Scorer(criteria.load("activation"), grouping, network, x, np.zeros(1, int))
    a = network.first(x)
    norms = jnp.sqrt(jnp.square(a).sum((1, 2)) + jnp.square(network.second(a, a).mean((1, 2))))[0]
    np.testing.assert_allclose(scores.scores(weights["params"], weights["stats"])[grouping.free[0].name], norms, rtol=1e-4)


def test_activations_are_those_that_layers_read(skip: Any) -> None:
    skip.eval()
    x = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
    a = skip.first(x)
    b = skip.second(a, a).mean((1, 2))  # the dense layer reads the means
    norms = jnp.sqrt(jnp.square(a).sum((1, 2)) + jnp.square(b))
    grouping = couple_network(skip, SHAPE)
    weights = weights_of(skip)
    scores = Scorer(criteria.load("activation"), grouping, skip, x, np.zeros(5, int)).scores(
        weights["params"], weights["stats"]
    )
    np.testing.assert_allclose(scores[grouping.free[0].name], norms.mean(0), rtol=1e-4)


def test_a_full_hand_example() -> None:
    """One image, one pixel, two channels that a dense layer reads: x = 1, a = relu(2, -3) = (2, 0), logits (2 w, 0).

    With w = ln(3) / 2 the softmax is (3/4, 1/4); for label 1 dL/da_1 = 3/4 w, so g_1 = 2 * 3/4 w = 3/4 ln 3, and g_2 = 0.
    """

    class Two(nnx.Module):
        def __init__(self) -> None:
            self.conv = nnx.Conv(1, 2, (1, 1), use_bias=False, rngs=nnx.Rngs(0))
            self.dense = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
            self.conv.kernel.set_value(jnp.array([2.0, -3.0]).reshape(1, 1, 1, 2))
            self.dense.kernel.set_value(jnp.array([[np.log(3) / 2, 0.0], [1.0, 1.0]]))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.dense(nnx.relu(self.conv(x)).reshape(len(x), -1))

    network = Two()
    grouping, weights = couple_network(network, (1, 1, 1)), weights_of(network)
    for name, expected in (("taylor", 0.75 * np.log(3)), ("fisher", (0.75 * np.log(3)) ** 2 / 2), ("activation", 2.0)):
        scorer = Scorer(criteria.load(name), grouping, network, np.ones((1, 1, 1, 1), np.float32), np.array([1]))
        np.testing.assert_allclose(scorer.scores(weights["params"], weights["stats"])["conv"], [expected, 0], rtol=1e-5)


def test_many_images_are_scored_in_batches_and_none_twice(skip: Any) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(130, *SHAPE)).astype(np.float32), rng.integers(0, 5, 130)
    skip.eval()
    grouping, weights = couple_network(skip, SHAPE), weights_of(skip)

    def of(part: slice) -> Any:
        scorer = Scorer(criteria.load("fisher"), grouping, skip, x[part], y[part])
        return scorer.scores(weights["params"], weights["stats"])[grouping.free[0].name]

    np.testing.assert_allclose(of(slice(None)), (100 * of(slice(100)) + 30 * of(slice(100, None))) / 130, rtol=1e-4)


def test_weights_that_are_no_numbers(skip: Any) -> None:
    weights = weights_of(skip)
    weights["params"]["conv1"]["kernel"] = np.full((3, 3, 3, 4), np.nan)
    scorer = Scorer(criteria.load("l2"), couple_network(skip, SHAPE), skip, np.zeros(0), np.zeros(0))
    with pytest.raises(UserError, match=r"scores of group conv1 are no numbers: the training of the network has diverged"):
        scorer.scores(weights["params"], weights["stats"])
