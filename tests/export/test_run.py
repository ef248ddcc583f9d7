"""From a run folder with trained networks to recorded files, by the function and by the command."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

from export_nets import CONFIG, sample, trained
from flaxcomp.checkpoint.models import save_models
from flaxcomp.cli.main import cli
from flaxcomp.errors import UserError
from flaxcomp.export.check import predict
from flaxcomp.export.lacking import File, files_of
from flaxcomp.export.metadata import read_metadata
from flaxcomp.export.run import export_run, export_trial
from flaxcomp.store.lease import LeaseLostError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.ids import signature, trial_id
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Calibration, Export, Metric, Sweep, TrialConfig

BEST, WORST, UNFINISHED = (msgspec.structs.replace(CONFIG, seed=seed) for seed in range(3))
USUAL = Calibration()
ALL = [
    File("float32", "tflite"),
    File("float16", "tflite"),
    File("dynamic", "tflite"),
    File("int8", "tflite", USUAL),
    File("float32", "onnx"),
    File("int8", "onnx", USUAL),
]
LEASE = {"host": "here", "pid": 1}


def id_of(config: TrialConfig) -> str:
    return trial_id(config, sample().info.fingerprint)


@pytest.fixture(scope="module")
def network() -> dict:
    params, rest = nnx.split_state(nnx.state(trained()), nnx.Param, ...)
    return {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(rest)}


@pytest.fixture
def paths(tmp_path: Path, network: dict) -> RunPaths:
    """A run of three trials: two finished, the second of them worse and as large."""
    paths = RunPaths.at(tmp_path / "a run, with spaces")
    sweep = Sweep(
        version=1,
        name="digits",
        base={},
        metrics=(Metric(name="val_accuracy", goal="maximize"), Metric(name="size_bytes", goal="minimize")),
        export=Export(precisions=("float32", "int8"), calibration_images=50),
    )
    with Store.create(paths, name="digits", sweep_text="", sweep_json=msgspec.json.encode(sweep)) as store:
        lease = store.acquire(**LEASE)
        store.add_trials(lease, [Trial(id_of(c), c, (), "trial", signature(c)) for c in (BEST, WORST, UNFINISHED)])
        for config, accuracy in ((BEST, 0.98), (WORST, 0.97)):
            store.form_packs(lease, [Pack(f"pack-{config.seed}", (id_of(config),), signature(config))])
            attempt = store.start_pack(lease, f"pack-{config.seed}", "worker")
            store.finish_pack(lease, f"pack-{config.seed}", attempt, {id_of(config): {"val_accuracy": accuracy, "params": 10}})
        store.release(lease)
    save_models({paths.model(id_of(config)): network for config in (BEST, WORST)})
    return paths


def test_files_of_a_specification():
    assert files_of(Export()) == ALL
    assert files_of(Export(precisions=("int8", "dynamic"), onnx=False)) == [ALL[3], ALL[2]]
    assert files_of(Export(precisions=("dynamic",))) == [ALL[2]]


def test_a_file_for_each_calibration():
    spec = Export(precisions=("float32", "int16", "int8"), calibration_images=(50, 200), calibration_seed=(0, 1), onnx=False)
    ways = [Calibration(images=images, seed=seed) for images in (50, 200) for seed in (0, 1)]
    calibrated = [File(precision, "tflite", way) for precision in ("int16", "int8") for way in ways]
    assert files_of(spec) == [File("float32", "tflite"), *calibrated]
    assert files_of(spec, own_ranges=True) == [File("float32", "tflite"), *calibrated[:5]], "training found those of int8"
    both = Export(precisions=("int8",), quantizer=("tensorflow", "ai_edge"), onnx=False)
    assert [file.calibration for file in files_of(both)] == [USUAL, Calibration(quantizer="ai_edge")]


def test_a_trained_net_leaves_at_every_precision(paths):
    rows = export_trial(paths, id_of(BEST), BEST, Export(), sample())
    assert [(row["precision"], row["format"]) for row in rows] == [file[:2] for file in ALL]
    found = {(row["precision"], row["format"]): row for row in rows}
    for row in rows:
        content = paths.artifact(row["artifact"], row["format"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["artifact"]
        assert len(content) == row["size_bytes"]
        assert (row["trial"], row["flagged"], row["reason"]) == (id_of(BEST), False, None)
        assert abs(row["accuracy_drop"]) <= 0.005
        assert row["flax_accuracy"] - row["accuracy"] == row["accuracy_drop"]
        assert 300 < row["metadata_bytes"] < 3000
    assert found["float32", "tflite"]["accuracy"] > 0.95
    for format_ in ("tflite", "onnx"):
        assert found["float32", format_]["max_abs_error"] < 1e-4
        assert found["float32", format_]["agreement"] == 1.0
        assert found["int8", format_]["calibration_images"] == 200
        assert found["int8", format_]["agreement"] > 0.99
    assert found["float32", "tflite"]["calibration_images"] is None
    assert found["int8", "tflite"]["kernel_steps"] <= 3
    assert found["int8", "tflite"]["size_bytes"] < 0.4 * found["float32", "tflite"]["size_bytes"]
    assert found["dynamic", "tflite"]["note"] == "2 of 3 weights quantized: those of fewer than 1,024 elements stay float32"
    assert not list(paths.artifacts.glob("*.partial"))


def test_exporting_twice_gives_the_same_files(paths):
    spec = Export()
    first = export_trial(paths, id_of(BEST), BEST, spec, sample())
    again = export_trial(paths, id_of(BEST), BEST, spec, sample())
    assert again == first
    assert len(list(paths.artifacts.iterdir())) == 6


def test_who_follows_the_metadata_gets_the_stated_accuracy(paths):
    """Pixels, labels and logits by the file's own words alone."""
    (row,) = export_trial(paths, id_of(BEST), BEST, Export(precisions=("int8",), onnx=False), sample())
    path = paths.artifact(row["artifact"], "tflite")
    about = read_metadata(path)
    assert about["labels"] == list(sample().info.labels)
    assert about["trial"] == id_of(BEST)
    assert about["dataset"]["fingerprint"] == sample().info.fingerprint
    assert msgspec.convert(about["config"], TrialConfig) == BEST
    mean, std = np.float32(about["normalization"]["mean"]), np.float32(about["normalization"]["std"])
    logits = predict(path, (sample().test_images.astype(np.float32) - mean) / std)
    named = np.array([about["labels"][i] for i in logits.argmax(1)])
    true = np.array([sample().info.labels[i] for i in sample().test_labels])
    assert float(np.mean(named == true)) == pytest.approx(row["accuracy"], abs=0.001)


def test_a_drop_beyond_the_bound_is_flagged_and_recorded(paths, monkeypatch):
    from flaxcomp.export import run

    def spoiled(path: Path, inputs, labels, logits):
        return check(path, inputs, (labels + (np.arange(len(labels)) % 20 == 0)) % 10, logits)

    check = run.check
    monkeypatch.setattr(run, "check", spoiled)
    (row,) = export_trial(paths, id_of(BEST), BEST, Export(precisions=("float16",)), sample())
    assert row["flagged"] is True
    assert row["reason"].startswith("accuracy drops by 0.0")
    assert row["reason"].endswith("against Flax, more than 0.01")
    assert paths.artifact(row["artifact"], "tflite").exists()


def test_a_file_that_cannot_be_made_is_recorded_with_its_reason(paths, monkeypatch):
    from flaxcomp.export import trained as module
    from flaxcomp.export.convert import ExportError

    def refuse(tflite: bytes) -> bytes:
        raise ExportError("no counterpart for FOO")

    monkeypatch.setattr(module, "to_onnx", refuse)
    with Store.open(paths) as store:
        lease = store.acquire(**LEASE)
        rows = export_run(store, lease, paths, [id_of(BEST)], Export(precisions=("float32",)))
        store.release(lease)
        assert [(row["format"], row["flagged"]) for row in rows] == [("tflite", False), ("onnx", True)]
        refused = next(row for row in store.frame().artifacts if row["format"] == "onnx")
    assert (refused["artifact"], refused["reason"]) == (None, "no counterpart for FOO")


def test_a_run_records_each_file_once(paths):
    spec = Export(precisions=("float32", "int8"), onnx=False)
    told = []
    with Store.open(paths) as store:
        lease = store.acquire(**LEASE)
        ids = [id_of(BEST), id_of(WORST)]
        rows = export_run(store, lease, paths, ids[:1], spec, lambda *args: told.append(args))
        assert told == [(0, 2, None), (1, 2, rows[0]), (2, 2, rows[1])]
        assert [row["trial"] for row in export_run(store, lease, paths, ids, spec)] == [ids[1]] * 2
        assert export_run(store, lease, paths, ids, spec) == []
        recorded = store.frame().artifacts
        assert {(row["trial"], row["precision"]) for row in recorded} == {(id_, p) for id_ in ids for p in ("float32", "int8")}
        paths.artifact(recorded[0]["artifact"], "tflite").unlink()  # a file that was lost is made again
        (again,) = export_run(store, lease, paths, ids, spec)
        assert again["artifact"] == recorded[0]["artifact"]
        assert store.frame().artifacts == recorded


def test_only_finished_trials(paths):
    with Store.open(paths) as store:
        lease = store.acquire(**LEASE)
        with pytest.raises(UserError, match=f"{id_of(UNFINISHED)} is pending"):
            export_run(store, lease, paths, [id_of(BEST), id_of(UNFINISHED)], Export())
        with pytest.raises(UserError, match="nonsense is not in this run"):
            export_run(store, lease, paths, ["nonsense"], Export())
        assert store.frame().artifacts == []


def test_a_model_that_cannot_be_read_stops_no_other(paths):
    import shutil

    shutil.rmtree(paths.model(id_of(BEST)))
    with Store.open(paths) as store:
        lease = store.acquire(**LEASE)
        with pytest.raises(UserError, match=f"1 of 2 trials could not be exported:\n{id_of(BEST)}: "):
            export_run(store, lease, paths, [id_of(BEST), id_of(WORST)], Export(precisions=("float32",), onnx=False))
        assert [row["trial"] for row in store.frame().artifacts] == [id_of(WORST)]


@pytest.mark.parametrize(
    ("options", "again"),
    [
        (("--select", "all"), "flaxcomp run {run} --set export.select=all"),
        (
            ("--trial", "{best}", "--trial", "{worst}"),
            "flaxcomp retry {run} --trial {worst} && flaxcomp run {run} && flaxcomp export {run} --trial {worst}",
        ),
    ],
)
def test_networks_that_are_gone_are_named_with_the_way_to_get_them_back(paths, options, again):
    shutil.rmtree(paths.model(id_of(WORST)))
    words = {"run": f"'{paths.root}'", "best": id_of(BEST), "worst": id_of(WORST)}
    options = [word.format(**words) for word in options]
    done = CliRunner().invoke(cli, ["export", str(paths.root), "--no-onnx", "--precision", "float32", *options])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == (
        f"no network is left of 1 trial, because `retention` or somebody removed it: {id_of(WORST)}. "
        f"To train and export again: {again.format(**words)}"
    )
    assert "1 file, 0 flagged" in done.stdout
    with Store.open(paths) as store:
        assert [row["trial"] for row in store.frame().artifacts] == [id_of(BEST)], "the other is exported all the same"


def test_a_network_that_is_gone_does_not_matter_once_it_is_exported(paths):
    command = ["export", str(paths.root), "--no-onnx", "--precision", "float32", "--select", "all", "--quiet"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    shutil.rmtree(paths.model(id_of(WORST)))
    assert CliRunner().invoke(cli, command).exit_code == 0


def test_a_superseded_controller_stops(paths):
    with Store.open(paths) as store, Store.open(paths) as other:
        lease = store.acquire(**LEASE, ttl_s=0.0)
        other.acquire(host="there", pid=2)
        with pytest.raises(LeaseLostError):
            export_run(store, lease, paths, [id_of(BEST)], Export(precisions=("float32",), onnx=False))


def test_the_command(paths, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["export", str(paths.root), "--no-onnx", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Selected without size_bytes: not known before export." in done.stderr
    assert "2 files, 0 flagged." in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [f"{id_of(BEST)}.{p}.tflite" for p in ("float32", "int8")]
    with Store.open(paths) as store:
        assert {row["trial"] for row in store.frame().artifacts} == {
            id_of(BEST)
        }  # the front of one metric; what the sweep says
        owner = store.owner()
    assert owner is not None
    assert not owner.held
    done = CliRunner().invoke(cli, ["export", str(paths.root), "--trial", id_of(WORST), "--precision", "float16"])
    assert done.exit_code == 0, done.output
    assert "1 file, 0 flagged." in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "worst"], "must be front, all or best:N"),
        (["--trial", "nonsense"], "No trial 'nonsense' in this run"),
    ],
)
def test_the_command_refuses(paths, options, message):
    done = CliRunner().invoke(cli, ["export", str(paths.root), *options])
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    with Store.open(paths) as store:
        assert not store.owner().held
