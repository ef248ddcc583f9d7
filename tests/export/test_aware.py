"""Networks trained with rounding become int8 files that give what they gave; what is undocumented on the way is held here."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx

from export_nets import CONFIG, net, sample
from export_nets import trained as trained_digits
from flaxcomp.checkpoint.models import save_models
from flaxcomp.compress.quantize.fake import Range, fake_quantized, with_ranges
from flaxcomp.export import aware
from flaxcomp.export.convert import ExportError, start_tensorflow
from flaxcomp.export.metadata import read_metadata
from flaxcomp.export.operators import ends, foreign_operators, not_int8, operators, weight_types
from flaxcomp.export.run import export_trial
from flaxcomp.models.layers import ConvBN, Dense, NormConv, SqueezeExcite, channel_shuffle, flatten, global_avg_pool, max_pool
from flaxcomp.store.paths import RunPaths
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.spec import Export
from flaxcomp.train.inputs import normalise_array
from flaxcomp.train.restore import weights_of
from test_convert import run

SHAPE = (8, 8, 3)
STEPS = 5  # of the output, that a file may differ from the network that rounds: TFLite also rounds means and the gate's product


class Everything(nnx.Module):
    """A residual and a depthwise convolution, a gate, a concatenation, a shuffle, both poolings, a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = ConvBN(3, 8, 3, act="relu6", rngs=rngs)
        self.depthwise = ConvBN(8, 8, 3, groups=8, act="relu6", rngs=rngs)
        self.gate = SqueezeExcite(8, 4, rngs=rngs)
        self.project = ConvBN(8, 8, 1, act=None, rngs=rngs)
        self.beside = ConvBN(8, 8, 1, rngs=rngs)
        self.logits = Dense(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = max_pool(self.stem(x), 2)
        x = x + self.project(self.gate(self.depthwise(x)))
        x = channel_shuffle(jnp.concatenate([x, self.beside(x)], -1), 2)
        return self.logits(flatten(global_avg_pool(x)))


class PreActivation(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = ConvBN(3, 8, 3, act=None, rngs=rngs)
        self.block = NormConv(8, 8, 3, rngs=rngs)
        self.logits = Dense(8, 10, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.stem(x)
        return self.logits(flatten(global_avg_pool(x + self.block(x, None))))


def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((64, *SHAPE), np.float32)


@functools.cache
def trained(kind: type[nnx.Module]) -> tuple[nnx.Module, Any, np.ndarray[Any, Any]]:
    """A network, the ranges that it has after some steps, and what it gives while it rounds."""
    network = kind(nnx.Rngs(params=jax.random.key(0)))
    abstract = fake_quantized(nnx.eval_shape(lambda: network), SHAPE)
    ranges = nnx.to_pure_dict(nnx.state(abstract, Range))
    ranges = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ranges)
    rounding: Any = with_ranges(network, ranges, SHAPE)
    rounding.train()

    @nnx.jit
    def call(network: Any, x: jax.Array) -> Any:
        return network(x)

    for _ in range(30):  # batch statistics and ranges settle
        call(rounding, images())
    rounding.eval()
    nnx.update(network, nnx.state(rounding, nnx.BatchStat))
    network.eval()
    return network, jax.device_get(nnx.to_pure_dict(nnx.state(rounding, Range))), np.asarray(call(rounding, images()))


def test_the_file_is_int8_throughout_and_gives_what_the_network_gave() -> None:
    network, ranges, wanted = trained(Everything)
    data = aware.to_tflite(network, ranges, SHAPE)
    assert not_int8(data) == []
    assert foreign_operators(data) == []
    assert set(weight_types(data)) == {"INT8"}
    names = [operator.name for operator in operators(data)]
    assert (names.count("CONV_2D"), names.count("DEPTHWISE_CONV_2D"), names.count("LOGISTIC")) == (5, 1, 1)
    source, target = ends(data)
    assert (source.dtype, target.dtype) == ("int8", "int8")
    got = run(data, images()[:32])
    apart = np.abs(got - wanted[:32]) / target.scale
    assert apart.max() <= STEPS + 0.01
    assert apart.mean() < 1.5
    assert np.ptp(wanted) > 100 * target.scale


def test_the_files_scales_are_the_ranges_of_training() -> None:
    network, ranges, _ = trained(Everything)
    data = aware.to_tflite(network, ranges, SHAPE)
    steps, low, high = np.ravel(ranges["final_output0"])
    assert steps == 30
    assert ends(data)[1].scale == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-4)
    assert aware.to_tflite(network, ranges, SHAPE) == data, "equal calls give equal bytes"


def test_what_would_stay_float_is_refused_so_that_calibration_takes_its_place() -> None:
    """Batch norm before its convolution cannot be folded into one."""
    network, ranges, _ = trained(PreActivation)
    with pytest.raises(ExportError, match=r"the ranges of training leave .*MUL.* in float32|cannot convert .* 'tfl.mul'"):
        aware.to_tflite(network, ranges, SHAPE)


def test_unset_ranges_are_refused() -> None:
    network, ranges, _ = trained(Everything)
    unset = jax.tree.map(np.zeros_like, ranges)
    with pytest.raises(ExportError, match="quant_stats is not initialized"):
        aware.to_tflite(network, unset, SHAPE)


def test_jax_chooses_the_dialects_version_where_we_pin_it() -> None:
    """Fails when a version of JAX has moved it: then `aware.pinned_stablehlo` must be looked at."""
    import jax._src.export._export as jax_export

    before = jax_export.hlo
    forward, x, _ = net("Tiny")
    with aware.pinned_stablehlo():
        assert jax_export.hlo.get_version_from_compatibility_requirement(None) == aware.STABLEHLO_VERSION
        pinned = jax.export.export(jax.jit(forward))(x[:1]).mlir_module_serialized
    assert jax_export.hlo is before
    assert f"StableHLO_v{aware.STABLEHLO_VERSION}".encode() in pinned
    free = jax.export.export(jax.jit(lambda y: forward(y)))(x[:1]).mlir_module_serialized
    assert f"StableHLO_v{aware.STABLEHLO_VERSION}".encode() not in free, "no pin is needed any more"


def test_another_jax_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import jax._src.export._export as jax_export

    monkeypatch.setattr(jax_export, "hlo", types.SimpleNamespace())
    with pytest.raises(ExportError, match=r"ranges of training need jax 0\.10"), aware.pinned_stablehlo():
        pass


def test_tensorflows_converter_has_the_switch_that_trusts_the_marks() -> None:
    converter = start_tensorflow().lite.TFLiteConverter([], None)
    assert converter._experimental_strict_qdq is False


def test_a_trial_trained_with_rounding_leaves_with_its_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by calibration where they do not serve, which its note says."""
    config = msgspec.structs.replace(CONFIG, quantize=Quantize())
    x = normalise_array(sample().train_images[:256], CONFIG.dataset, sample().info)
    plain = trained_digits()
    abstract = fake_quantized(nnx.eval_shape(lambda: plain), (28, 28, 1))
    unset = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), nnx.to_pure_dict(nnx.state(abstract, Range)))
    rounding: Any = with_ranges(plain, unset, (28, 28, 1))
    rounding.train()
    nnx.jit(lambda network: network(jnp.asarray(x)))(rounding)
    paths = RunPaths.at(tmp_path)
    save_models({paths.model("t"): weights_of(rounding)})
    spec = Export(precisions=("float32", "int8"), onnx=False, calibration_images=(20, 50))
    float32, int8 = export_trial(paths, "t", config, spec, sample())
    assert (float32["precision"], float32["quantizer"], float32["max_abs_error"] < 1e-4) == ("float32", None, True)
    assert (int8["quantizer"], int8["calibration_images"], int8["flagged"], int8["note"]) == ("qwix", None, False, None)
    assert int8["agreement"] > 0.99
    assert int8["flax_accuracy"] == pytest.approx(float32["flax_accuracy"], abs=0.02)
    told = read_metadata(paths.artifact(int8["artifact"], "tflite"))
    assert told["calibration"] == {"ranges": "training", "quantizer": "qwix"}

    def refuse(*_: Any, **__: Any) -> bytes:
        raise ExportError("FOO stays float32")

    monkeypatch.setattr(aware, "to_tflite", refuse)
    (calibrated,) = export_trial(paths, "t", config, msgspec.structs.replace(spec, precisions=("int8",)), sample())
    assert (calibrated["quantizer"], calibrated["calibration_images"]) == ("tensorflow", 20)
    assert calibrated["note"] == "ranges by calibration, not from training: FOO stays float32"
