"""Fake quantization: a network computed in float32 whose weights and activations are rounded as in its int8 file.

Weights are symmetric, a scale per output channel (or per tensor); activations asymmetric, a scale per tensor (Krishnamoorthi
2018; qwix's rules for LiteRT). The range of an activation follows the smallest and the largest value in a batch, averaged over
the training steps, which are forgotten exponentially (Jacob et al. 2018, 3.1). Rounding has the gradient of the identity within
the range and none outside.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from qwix._src import interception
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

from flaxcomp.models.layers import conv_form

Tree = dict[Any, Any]  # nested, as `flax.nnx.to_pure_dict` gives them
Shape = tuple[int, int, int]


class Range(nnx.Variable[jax.Array]):
    """Of one activation, float32 [3, 1, ...], a one for each of its axes: steps seen, averaged smallest and largest value."""


def fake_quantized(network: nnx.Module, shape: Shape, *, per_channel: bool = True) -> nnx.Module:
    """Return an abstract network that rounds: the variables of `network`, and a `Range` for every activation.

    Args:
        network: from float [n, h, w, c] to logits; shapes are enough.
        shape: height, width and channels of what it sees.
        per_channel: weights have a scale per output channel; else one per tensor.

    Returns:
        A network of shapes in evaluation mode. It must be traced within `flaxcomp.models.layers.plain_forms`; in training mode
        its ranges move, in evaluation mode they do not. They begin as zeros.
    """

    def rounding(network: nnx.Module) -> nnx.Module:
        network.eval()
        result: nnx.Module = qwix.quantize_model(
            network, _known(_Training(_RULES, **_options(per_channel))), jnp.zeros((1, *shape))
        )
        result.__class__ = _moving(type(result))
        result.train()  # auxiliary heads have ranges too, which evaluation does not meet
        result(jnp.zeros((2, *shape)), rngs=nnx.Rngs(dropout=0))
        result.eval()
        return result

    abstract: nnx.Module = nnx.eval_shape(rounding, network)
    return abstract


def converted(network: nnx.Module, ranges: Tree, shape: Shape, *, per_channel: bool = True) -> nnx.Module:
    """Return a trained network whose roundings are marked for TensorFlow's converter, with the ranges that training found.

    Args:
        network: the one that `fake_quantized` was given, with its trained parameters and batch statistics.
        ranges: what training left besides the network's own variables, nested arrays.

    Raises:
        ValueError: a range was never set.
        KeyError: a range is missing.
    """
    network.eval()
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    known = jax.tree.map(_as_qwix_has_it, ranges)
    provider = _known(qwix.OdmlConversionProvider(_RULES, params, known, **_options(per_channel)))
    marked: nnx.Module = qwix.quantize_model(network, provider, jnp.zeros((1, *shape)))
    marked.eval()
    return marked


def with_ranges(network: nnx.Module, ranges: Tree, shape: Shape, *, per_channel: bool = True) -> nnx.Module:
    """Return a trained network that rounds, in evaluation mode; the arguments are those of `converted`."""
    abstract = fake_quantized(nnx.eval_shape(lambda: network), shape, per_channel=per_channel)
    graph, _, stats = nnx.split(abstract, nnx.Param, ...)  # type: ignore[misc]
    _, params, own = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    known = {**_flat(nnx.to_pure_dict(own)), **_flat(ranges)}
    filled = nnx.traversals.unflatten_mapping({path: jnp.asarray(known[path]) for path in _flat(nnx.to_pure_dict(stats))})
    rounding: nnx.Module = nnx.merge(graph, nnx.to_pure_dict(params), filled)
    return rounding


def _flat(tree: Tree) -> dict[tuple[Any, ...], Any]:
    flat: dict[tuple[Any, ...], Any] = nnx.traversals.flatten_mapping(tree)
    return flat


_RULES = (qwix.QuantizationRule(module_path=".*", weight_qtype=jnp.int8, act_qtype=jnp.int8, act_batch_axes=()),)
_SLOWEST = 0.01  # share of a step in a range once a hundred steps were seen; before, all steps count alike


_CONV = "jax.lax.conv_general_dilated"
_CONV_SIGNATURE = inspect.signature(jax.lax.conv_general_dilated)  # of the library's, before qwix takes its place


def _form_of(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, lhs_dilation: Any = None, rhs_dilation: Any = None,
    dimension_numbers: Any = None, feature_group_count: int = 1, **others: Any,
) -> Any:  # fmt: skip
    """The form of a plain convolution of images, NHWC and HWIO; None of any other."""
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if lhs.ndim != 4 or dilated or others.get("batch_group_count", 1) != 1 or others.get("preferred_element_type") is not None:
        return None
    found, usual = (
        jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, d) for d in (dimension_numbers, ("NHWC", "HWIO", "NHWC"))
    )
    if found != usual:
        return None
    padding = padding if isinstance(padding, str) else tuple(tuple(pair) for pair in padding)
    return conv_form(lhs.shape, rhs.shape, tuple(window_strides), padding, feature_group_count)


class _Conv(odml_ops.DotEinsumConv):  # type: ignore[misc]
    """qwix's convolution of rounded arrays. The library's kernel gradient runs on one thread inside a loop on CPU."""

    def _call_original_op(self, *args: Any, **kwargs: Any) -> Any:
        given = _CONV_SIGNATURE.bind(*args, **kwargs).arguments
        form = _form_of(**given)
        if form is None:
            return super()._call_original_op(*args, **kwargs)
        return interception.disable_interceptions(form)(given["lhs"], given["rhs"])  # its products are not rounded again


class _Training(qwix.OdmlQatProvider):  # type: ignore[misc]
    """qwix's provider with ranges that forget, and are arrays: it averages over all steps, and keeps dictionaries.

    On CPU its convolutions have the forms of `flaxcomp.models.forms`, after the rounding of what they convolve.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if jax.default_backend() == "cpu":
            self._ops[_CONV] = functools.partial(_Conv, **self._ops[_CONV].keywords)

    def process_model_inputs(self, model: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """Only images are activations, not keys of randomness or the share of training done."""
        model, args, _ = super().process_model_inputs(model, args, {})
        return model, args, kwargs

    def _update_and_get_quant_stat(self, name: str, calibration: dict[str, jax.Array], is_fixed: bool) -> dict[str, jax.Array]:
        module: Any = flax_util.get_current_module()
        ends = [calibration[end].mean(keepdims=True) for end in _ENDS]
        seen = jax.lax.stop_gradient(jnp.stack(ends).astype(jnp.float32))
        if not hasattr(module, name):
            setattr(module, name, Range(jnp.zeros((3, *seen.shape[1:]), jnp.float32)))
        kept = getattr(module, name)
        if flax_util.should_update_quant_stats():
            steps, before = kept[:1] + 1, kept[1:]
            share = 1.0 if is_fixed else jnp.maximum(1 / steps, _SLOWEST)
            kept[...] = jnp.concatenate([steps, before + share * (seen - before)])
        used = jnp.where(kept[:1] > 0, kept[1:], seen)
        return {end: used[i].astype(ends[i].dtype) for i, end in enumerate(_ENDS)}


_ENDS = ("min", "max")


def _as_qwix_has_it(range_: jax.Array) -> dict[str, jax.Array]:
    # qwix divides sums by a count
    return {"count": jnp.minimum(range_[0].max(), 1), **{f"sum_of_{end}": range_[1 + i] for i, end in enumerate(_ENDS)}}


def _moving(kind: Any) -> Any:
    """The class of a network that rounds, whose ranges move in training mode only."""

    class Moving(kind):  # type: ignore[misc]
        def train(self, **attributes: Any) -> None:
            super().train(disable_quant_stats_update=False, **attributes)

        def eval(self, **attributes: Any) -> None:
            super().eval(disable_quant_stats_update=True, **attributes)

    Moving.__name__ = Moving.__qualname__ = kind.__name__
    return Moving


def _options(per_channel: bool) -> dict[str, Any]:
    return {"disable_per_channel_weights": not per_channel}


def _known(provider: Any) -> Any:
    """Tell qwix of operations that are missing from its table.

    The output of a sigmoid has the range that TFLite prescribes, as that of softmax; dropout passes its input's description on.
    """
    ops = provider._ops
    ops["jax.nn.sigmoid"] = ops["jax.nn.softmax"]
    ops["jax.nn.hard_swish"] = ops["jax.nn.gelu"]
    ops["flax.nnx.Dropout.__call__"] = ops["flaxcomp.models.layers.DropPath.__call__"] = ops["flax.linen.Dropout.__call__"]
    return provider
