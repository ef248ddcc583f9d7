"""A run to be read by commands, and the program called as a user calls it."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.plan import Pack
from flaxcomp.sweep.spec import Dataset, Distill, Metric, Sweep, Train, TrialConfig
from flaxcomp.sweep.trial import Trial


class Done(NamedTuple):
    """How a call of the program ended."""

    code: int
    out: str
    err: str


METRICS = (Metric(name="val_accuracy", goal="maximize"), Metric(name="params", goal="minimize"))


def trial(id_: str, *needs: str, seed: int = 0, width: int = 2) -> Trial:
    distill = Distill(teacher=needs[0]) if needs else None
    model = {"name": "net", "width": width}
    config = TrialConfig(dataset=Dataset(name="mnist"), model=model, train=Train(epochs=5), distill=distill, seed=seed)
    return Trial(id_, config, needs, "trial", "same")


def create(folder: Path, trials: Iterable[Trial]) -> Store:
    sweep = Sweep(version=1, name="study", base={}, metrics=METRICS)
    store = Store.create(RunPaths.at(folder), name="study", sweep_text="", sweep_json=msgspec.json.encode(sweep))
    lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
    store.add_trials(lease, trials)
    store.release(lease)
    return store


def fill(folder: Path) -> None:
    """Four finished trials, one failed, one blocked by it, one pending; files and figures of two."""
    store = create(
        folder,
        [trial("t0", seed=1), trial("t1", seed=2), trial("t2", width=4), trial("t3", width=8), trial("bad", seed=9),
         trial("student", "bad"), trial("later", seed=7)],
    )  # fmt: skip
    lease = store.acquire(host=socket.gethostname(), pid=os.getpid())
    figures = {"t0": (0.90, 100), "t1": (0.92, 100), "t2": (0.95, 200), "t3": (0.94, 300)}
    for id_, (accuracy, params) in figures.items():
        store.form_packs(lease, [Pack(f"p-{id_}", (id_,), "same")])
        attempt = store.start_pack(lease, f"p-{id_}", "w")
        result = {"val_accuracy": accuracy, "params": params, "confusion_matrix": [[1, 0], [0, 1]]}
        store.finish_pack(lease, f"p-{id_}", attempt, {id_: result})
    store.form_packs(lease, [Pack("p-bad", ("bad",), "same")])
    attempt = store.start_pack(lease, "p-bad", "w")
    error = "Traceback:\n  somewhere\nValueError: it went wrong\n"
    store.fail_pack(lease, "p-bad", attempt, kind="error", error=error, statuses={"bad": "failed"})
    for id_, accuracy, latency in (("t1", 0.91, 3.0), ("t2", 0.93, 5.0)):
        file = {"trial": id_, "artifact": id_[1] * 64, "precision": "int8", "format": "tflite"}
        store.add_artifact(lease, file | {"size_bytes": 1000, "accuracy": accuracy, "accuracy_drop": 0.01, "flagged": False})
        del file["format"]
        for device, emulated in (("board", False), ("emulated", True)):
            figure = {"device": device, "device_model": "Pi", "emulated": emulated, "latency_ms": latency, "protocol": "quick",
                      "samples_ms": [[latency]]}  # fmt: skip
            store.add_measurement(lease, file | figure)
    store.release(lease)
    store.close()
