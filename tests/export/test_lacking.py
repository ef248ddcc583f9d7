"""What a run lacks in files, by what it has recorded."""

from pathlib import Path

import msgspec
import pytest

from flaxcomp.export.lacking import File, calibration_of, lacking
from flaxcomp.store.frame import Row
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.compression.quantize import Quantize
from flaxcomp.sweep.expand import Trial
from flaxcomp.sweep.ids import signature
from flaxcomp.sweep.spec import Calibration, Dataset, Export, Sweep, TrialConfig

PLAIN = TrialConfig(dataset=Dataset(name="mnist_sample"), model={"name": "simplenet_v5"})
CONFIGS = {"plain": PLAIN, "rounded": msgspec.structs.replace(PLAIN, quantize=Quantize(), source="plain")}
INT8 = Export(precisions=("int8",), onnx=False)


def row(trial: str, images: int | None, *, quantizer: str | None = "tensorflow", made: bool = True, **more: object) -> Row:
    name = f"{images}-{quantizer}" if made else None
    return {"trial": trial, "artifact": name, "precision": "int8", "format": "tflite", "quantizer": quantizer,
            "calibration_images": images, "calibration_seed": 0, "flagged": False} | more  # fmt: skip


def left(tmp_path: Path, spec: Export, *rows: Row) -> dict[str, list[File]]:
    paths = RunPaths.at(tmp_path / "run")
    with Store.create(
        paths, name="n", sweep_text="", sweep_json=msgspec.json.encode(Sweep(version=1, name="n", base={}))
    ) as store:
        lease = store.acquire(host="here", pid=1)
        store.add_trials(lease, [Trial(id_, config, (), "trial", signature(config)) for id_, config in CONFIGS.items()])
        for its in rows:
            if its["artifact"] is not None:
                paths.artifact(its["artifact"], "tflite").parent.mkdir(parents=True, exist_ok=True)
                paths.artifact(its["artifact"], "tflite").touch()
            store.add_artifact(lease, its)
        return lacking(store, paths, list(CONFIGS), spec)


def file(images: int = 200, quantizer: str = "tensorflow") -> File:
    return File("int8", "tflite", msgspec.convert({"images": images, "quantizer": quantizer}, Calibration))


def test_a_longer_list_adds_files_and_makes_none_again(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(INT8, calibration_images=(50, 200))
    found = left(tmp_path, spec, row("plain", 200), row("rounded", None, quantizer="qwix"))
    assert found == {"plain": [file(50)]}, "training's ranges need no calibration"


def test_a_file_of_another_quantizer_is_another_file(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(INT8, quantizer="ai_edge")
    assert left(tmp_path, spec, row("plain", 200))["plain"] == [file(200, "ai_edge")]


def test_a_refusal_holds_for_all_images_of_its_quantizer(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(INT8, calibration_images=(50, 200), quantizer=("tensorflow", "ai_edge"))
    found = left(tmp_path, spec, row("plain", 200, made=False))
    assert found["plain"] == [file(50, "ai_edge"), file(200, "ai_edge")]


def test_where_training_could_not_say_calibration_did_and_that_is_enough(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(INT8, calibration_images=(20, 50), quantizer="ai_edge")
    assert "rounded" not in left(tmp_path, spec, row("rounded", 200))


@pytest.mark.parametrize("older", [{}, {"calibration_seed": None, "quantizer": None}])
def test_rows_of_older_runs_have_neither_quantizer_nor_seed(older: Row) -> None:
    assert calibration_of(row("plain", 200) | older) == Calibration()
    assert calibration_of({"precision": "int8", "calibration_images": 200}) == Calibration()
    assert calibration_of({"precision": "float32", "calibration_images": None}) is None
