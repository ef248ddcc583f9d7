"""Which layer loses the accuracy: errors that are known before, and the command."""

import json
from pathlib import Path

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

from export_nets import CONFIG, NETS, net, sample, trained
from flaxcomp.checkpoint.models import save_models
from flaxcomp.cli.main import cli
from flaxcomp.errors import UserError
from flaxcomp.export.convert import to_tflite
from flaxcomp.export.lacking import File
from flaxcomp.export.layers import accuracies_without, layer_errors
from flaxcomp.export.tensors import flow_of
from flaxcomp.export.trained import Trained
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.ids import signature, trial_id
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Calibration, Export, Sweep
from flaxcomp.train.inputs import normalise_array


def test_a_file_beside_itself_has_no_error():
    data = to_tflite(net("Tiny")[0], NETS["Tiny"].shape, "float32")
    errors = layer_errors(data, data, net("Tiny")[1][:4])
    assert len(errors) == len(flow_of(data).operators)
    assert all((error.sqnr_db, error.max_abs_error, error.bias) == (None, 0.0, 0.0) for error in errors)


def test_noise_grows_along_the_network_and_ratios_are_those_of_the_tensors():
    forward, x, logits = net("DepthwiseResidual")
    files = [to_tflite(forward, NETS["DepthwiseResidual"].shape, kind, x[:50]) for kind in ("float32", "int8")]
    errors = layer_errors(*files, x[:16])
    assert [error.sqnr_db for error in errors] == sorted(error.sqnr_db for error in errors)
    by_place = sorted(errors, key=lambda error: error.operator)
    assert [error.kind for error in by_place] == [
        "CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "AVERAGE_POOL_2D", "FULLY_CONNECTED",
    ]  # fmt: skip
    assert by_place[0].sqnr_db > 35 > 15 > 0
    assert by_place[0].shape == (16, 16, 16)
    last = by_place[-1]
    got = np.concatenate([tensors[-1] for tensors in flow_of(files[1]).run(x[:16])])
    difference = got - logits[:16]
    assert last.max_abs_error == pytest.approx(np.abs(difference).max(), rel=1e-3)
    assert last.bias == pytest.approx(difference.mean(), rel=1e-2, abs=1e-5)
    assert last.sqnr_db == pytest.approx(10 * np.log10((logits[:16] ** 2).sum() / (difference**2).sum()), abs=0.05)


def test_files_of_different_networks_share_nothing():
    data = to_tflite(net("Tiny")[0], NETS["Tiny"].shape, "float32")
    other = to_tflite(lambda x: jnp.tanh(x).mean((1, 2)), (28, 28, 1), "float32")
    with pytest.raises(UserError, match="they share no operator"):
        layer_errors(data, other, net("Tiny")[1][:1])


def test_accuracy_with_one_operator_in_float32():
    subject = Trained.of("t" * 16, CONFIG, Export(), sample(), trained())
    arrays = sample()
    images, labels = normalise_array(arrays.train_images[:100], CONFIG.dataset, arrays.info), arrays.train_labels[:100]
    told = []
    file = File("int8", "tflite", Calibration(images=20))
    whole, without = accuracies_without(subject, file, images, labels, [0, 2], lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    assert set(without) == {0, 2}
    assert all(0.9 < accuracy <= 1.0 for accuracy in (whole, *without.values()))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one finished trial."""
    paths = RunPaths.at(tmp_path_factory.mktemp("run"))
    id_ = trial_id(CONFIG, sample().info.fingerprint)
    sweep = msgspec.json.encode(Sweep(version=1, name="digits", base={}))
    with Store.create(paths, name="digits", sweep_text="", sweep_json=sweep) as store:
        lease = store.acquire(host="here", pid=1)
        store.add_trials(lease, [Trial(id_, CONFIG, (), "trial", signature(CONFIG))])
        store.form_packs(lease, [Pack("pack", (id_,), signature(CONFIG))])
        store.finish_pack(lease, "pack", store.start_pack(lease, "pack", "worker"), {id_: {"val_accuracy": 0.9}})
        store.release(lease)
    params, rest = nnx.split_state(nnx.state(trained()), nnx.Param, ...)
    save_models({paths.model(id_): {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(rest)}})
    return paths.root


def test_the_command_shows_the_worst_first(finished_run: Path):
    done = CliRunner().invoke(cli, ["layers", str(finished_run), "", "--images", "20", "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["sqnr_db"] for row in rows] == sorted(row["sqnr_db"] for row in rows)
    assert {row["kind"] for row in rows} >= {"CONV_2D", "FULLY_CONNECTED"}
    assert "accuracy_without" not in rows[0]
    table = CliRunner().invoke(cli, ["layers", str(finished_run), "", "--images", "20", "--accuracy"])
    assert table.exit_code == 0, table.output
    assert "accuracy_without" in table.stdout
    assert "20 held-out images: " in table.stdout


def test_the_command_refuses_a_trial_that_is_not_there(finished_run: Path):
    done = CliRunner().invoke(cli, ["layers", str(finished_run), "nonsense"])
    assert isinstance(done.exception, UserError)
    assert "TRIAL must be the id, or its beginning, of one finished trial, got 'nonsense'" in str(done.exception)
