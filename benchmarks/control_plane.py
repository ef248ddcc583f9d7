"""What everything but training costs: trials that return at once, through the real plan, controller and durable store.

The workers are played: they take a pack of any trials and answer at once with an epoch and the results, as a trained one
would, and leave a network for the teachers among them. All else is what `flaxcomp run` does: the sweep file is expanded, every
hundredth trial is a teacher that a hundred others wait for, packs are formed, started, recorded and closed in SQLite with
`synchronous = FULL`, under a lease, with an attempt number each. So the figure is what the control plane takes of the time of
one trial.

    make bench-control                              # everything, some minutes on a quiet machine
    python -m benchmarks.control_plane --part run --trials 1000 10000 --pack auto
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flaxcomp.store.paths import RunPaths
from flaxcomp.train.job import EpochDone, Event, Finished, PackJob

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDENTS = 100  # of a teacher
SWEEP = """\
version: 1
name: control-plane
base:
  dataset: {{name: mnist_sample}}
  model: {{name: simplenet_v1}}
  distill: {{teacher: {{model: {{name: simplenet_lm}}}}}}
parameters:
  distill.teacher.seed: {{range: [0, {teachers}]}}
  model.name: {{values: [simplenet_v1, simplenet_v5]}}
  distill.temperature: {{values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}
  train.optimizer.learning_rate: {{values: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}}
resources: {{pack: {pack}}}
"""
GRID = """\
version: 1
name: million
base:
  dataset: {{name: mnist}}
  model: {{name: simplenet_v1}}
  distill: {{teacher: {{model: {{name: simplenet_lm}}}}}}
parameters:
  model.name: {{values: [simplenet_v1, simplenet_v5]}}
  distill.temperature: {{values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}
  train.optimizer.learning_rate: {{values: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}}
  seed: {{range: [0, {seeds}]}}
"""


class NoTraining:
    """An executor whose workers are done at once.

    Args:
        slots: how many packs "train" at a time.
        stop_after: calls `stop` when so many trials are done, before the controller has heard of the last ones.
        stop: kills, for one.
    """

    def __init__(self, slots: int, stop_after: int | None = None, stop: Callable[[], None] = lambda: None) -> None:
        self.slots, self._stop_after, self._stop = slots, stop_after, stop
        self.first_start: float | None = None
        self.cpu_before_s = 0.0
        self.trials = 0
        self._busy: list[PackJob] = []

    @property
    def free(self) -> list[str]:
        return [f"worker {place + 1}" for place in range(len(self._busy), self.slots)]

    def start(self, job: PackJob) -> None:
        if self.first_start is None:
            self.first_start, self.cpu_before_s = time.time(), time.process_time()
        self._busy.append(job)

    def events(self, timeout_s: float) -> list[Event]:  # noqa: ARG002
        done, self._busy = self._busy, []
        events = [event for job in done for event in self._train(job)]
        if self._stop_after is not None and self.trials >= self._stop_after:
            self._stop()
        return events

    def _train(self, job: PackJob) -> Iterator[Event]:
        paths = RunPaths.at(job.root)
        for trial in job.teaches:
            paths.model(trial).mkdir(parents=True, exist_ok=True)  # it may be there from before a kill
        rows = [{"trial": t, "epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": accuracy(t), "learning_rate": 1e-3,
                 "images_per_second": 1.0} for t in job.configs]  # fmt: skip
        yield EpochDone(job.pack_id, job.attempt, rows)
        self.trials += len(job.configs)
        yield Finished(job.pack_id, job.attempt, {t: result(t) for t in job.configs})

    def request_stop(self) -> None: ...
    def close(self) -> None: ...


def accuracy(trial: str) -> float:
    return 0.5 + int(trial[:6], 16) / 2**25


def result(trial: str) -> dict[str, Any]:
    """What a trained trial brings: figures and a confusion matrix."""
    figure = accuracy(trial)
    return {"params": 3000 + int(trial[:3], 16), "trainable_params": 3000, "macs": 10**6, "test_accuracy": figure,
            "test_precision": figure, "test_recall": figure, "test_f1": figure, "val_accuracy": figure, "train_seconds": 0.0,
            "confusion_matrix": [[10 * (i == j) for j in range(10)] for i in range(10)]}  # fmt: skip


# Each measurement is a process of its own, so that imports, memory and caches are those of a user's command.


def sweep_file(folder: Path, text: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


def child(arguments: argparse.Namespace) -> None:
    """`flaxcomp run` with workers that are played; prints what it took as the last line."""
    import signal

    from flaxcomp.cli import training
    from flaxcomp.cli.main import cli

    killed = arguments.kill_after
    workers = NoTraining(arguments.slots, killed, stop=lambda: os.kill(os.getpid(), signal.SIGKILL))
    training.make_executor = lambda *_: workers  # the only part that is played
    options = ["--out", arguments.out, "--executor", "inline", "--train-only", "--yes"]
    cli(["run", arguments.child, *options], standalone_mode=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "trials": workers.trials,
        "first_start": workers.first_start,
        "ended": time.time(),
        "cpu_s": used.ru_utime + used.ru_stime,
        "cpu_before_s": workers.cpu_before_s,
        "rss_mib": used.ru_maxrss / 1024,
    }
    print(json.dumps(told))


def run(folder: Path, trials: int, pack: str, slots: int, kill_after: int | None = None) -> dict[str, Any]:
    """One `flaxcomp run`: `seconds` from the start of the process to its end."""
    file = sweep_file(folder, SWEEP.format(teachers=max(1, trials // STUDENTS), pack=pack))
    command = [sys.executable, "-m", "benchmarks.control_plane", "--child", str(file), "--out", str(folder / "run"),
               "--slots", str(slots), *(["--kill-after", str(kill_after)] if kill_after else [])]  # fmt: skip
    began = time.time()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=kill_after is None)
    if kill_after is not None:
        return {}
    told = json.loads(done.stdout.splitlines()[-1])
    return {
        "trials": told["trials"], "pack": pack, "slots": slots, "seconds": told["ended"] - began,
        "seconds_to_first_start": told["first_start"] - began, "cpu_s": told["cpu_s"], "rss_mib": round(told["rss_mib"]),
        "trials_per_second": told["trials"] / (told["ended"] - began),
        "ms_per_trial_after_start": 1e3 * (told["ended"] - told["first_start"]) / told["trials"],
        "cpu_ms_per_trial_after_start": 1e3 * (told["cpu_s"] - told["cpu_before_s"]) / told["trials"],
    }  # fmt: skip


def check(run_folder: Path, trials: int) -> None:
    """Everything is in the store, once."""
    with sqlite3.connect(run_folder / "store.sqlite") as store:
        (finished,) = store.execute("SELECT count(*) FROM trials WHERE status = 'finished'").fetchone()
        (epochs,) = store.execute("SELECT count(*) FROM epochs").fetchone()
        (running,) = store.execute("SELECT count(*) FROM packs WHERE status <> 'closed'").fetchone()
    assert (finished, epochs, running) == (trials, trials, 0), (finished, epochs, running)


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="flaxcomp-control-", dir=os.environ.get("FLAXCOMP_BENCH_FOLDER")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_runs(sizes: list[int], packs: list[str], slots: int) -> list[dict[str, Any]]:
    found = []
    for pack in packs:
        for size in sizes:
            with scratch() as folder:
                row = run(folder, size, pack, slots)
                check(folder / "run", row["trials"])
            print(f"{row['trials']:>7,} trials, pack {pack}, {slots} workers: {row['trials_per_second']:.0f} a second, all "
                  f"included; {row['ms_per_trial_after_start']:.2f} ms a trial after the first start, "
                  f"{row['cpu_ms_per_trial_after_start']:.2f} ms of CPU; {row['rss_mib']} MiB")  # fmt: skip
            found.append(row)
    return found


def measure_resume(trials: int, pack: str, slots: int) -> dict[str, Any]:
    """Kill a run amid its trials; how long the same command takes to start work, and how long reading the whole takes then."""
    with scratch() as folder:
        run(folder, trials, pack, slots, kill_after=trials // 2)
        resumed = run(folder, trials, pack, slots)
        found: dict[str, Any] = {"trials": trials, "pack": pack, "slots": slots, "left": resumed["trials"]}
        found["resume_to_first_start_s"] = resumed["seconds_to_first_start"]
        readers = {"status": ("status",), "results": ("results", "--format", "csv"), "front": ("front",),
                   "report": ("report", "--out", str(folder / "report"))}  # fmt: skip
        for name, (command, *options) in readers.items():
            times = 3 if name == "status" else 1
            found[f"{name}_s"], found[f"{name}_rss_mib"] = timed(command, str(folder / "run"), *options, times=times)
        found["store_mib"] = round((folder / "run" / "store.sqlite").stat().st_size / 2**20)
    print(f"{trials:,} trials, {found['left']:,} left: resumed in {found['resume_to_first_start_s']:.1f} s; "
          + ", ".join(f"{name} {found[f'{name}_s']:.2f} s" for name in readers))  # fmt: skip
    return found


def timed(*arguments: str, times: int) -> tuple[float, int]:
    """The median time of `flaxcomp ...` in seconds and its largest memory in MiB."""
    seconds, memory = [], 0
    for _ in range(times):
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "flaxcomp", *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        seconds.append(time.perf_counter() - began)
        memory = max(memory, used.ru_maxrss // 1024)
    return statistics.median(seconds), memory


def measure_plan(points: int) -> dict[str, Any]:
    with scratch() as folder:
        seconds, memory = timed("plan", str(sweep_file(folder, GRID.format(seeds=points // 100))), "--yes", times=1)
    print(f"plan of {points:,} points: {seconds:.1f} s, {memory} MiB")
    return {"points": points, "seconds": seconds, "rss_mib": memory}


def measure_start() -> dict[str, Any]:
    """From the command to the first training steps, with nothing compiled before and with everything; and `--help`."""
    found: dict[str, Any] = {"help_s": timed("--help", times=5)[0]}
    with scratch() as folder:
        text = "version: 1\nname: start\nbase: {dataset: {name: mnist}, model: {name: simplenet_v1}}\n"
        file, environment = sweep_file(folder, text), {**os.environ, "FLAXCOMP_CACHE": str(folder / "cache")}
        for executor in ("ray", "inline"):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            for cache in ("cold", "warm"):
                command = [sys.executable, "-m", "flaxcomp", "run", str(file), "--out", str(folder / f"{executor}-{cache}"),
                           "--executor", executor, "--train-only"]  # fmt: skip
                found[f"{executor}_{cache}_s"] = _first_step(command, environment)
    print("first training step: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items()))
    return found


def _first_step(command: list[str], environment: dict[str, str]) -> float:
    """Seconds until the run tells of images that were trained on; it is let finish, so that what it compiles is kept."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = next((time.perf_counter() - began for line in process.stderr if line.startswith("0/1 trials")), None)
    process.stderr.read()
    assert process.wait() == 0, command
    assert first is not None, "the run told of no step"
    return first


def fsync_ms() -> float:
    """What one durable write takes on the disk that the runs are on."""
    took = []
    with scratch() as folder, (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took)


def plot(rows: list[dict[str, Any]]) -> bytes:
    """Cost a trial against the number of trials."""
    from flaxcomp.report.write import png

    values = [{"trials": row["trials"], "ms": row[key], "line": f"{kind}, pack {row['pack']}, {row['slots']} workers"}
              for row in rows
              for kind, key in (("time", "ms_per_trial_after_start"), ("CPU", "cpu_ms_per_trial_after_start"))]  # fmt: skip
    quantity = {"type": "quantitative", "scale": {"type": "log"}}
    return png({"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "width": 620, "height": 300,
                "data": {"values": values}, "mark": {"type": "line", "point": True},
                "encoding": {"x": {"field": "trials", **quantity, "title": "trials of the run"},
                             "y": {"field": "ms", **quantity, "title": "ms a trial"},
                             "color": {"field": "line", "type": "nominal", "title": None}}})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "run", "resume", "plan", "start"), default="all")
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--pack", nargs="+", default=["1", "auto"])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/control_plane.json and .png")
    for name in ("--child", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--kill-after", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    record: dict[str, Any] = {"benchmark": "control plane", **circumstances()}
    print(f"a durable write takes {record['fsync_ms']:.1f} ms here, load {record['load_before']:.1f}")
    parts: dict[str, Callable[[], Any]] = {
        "plan": lambda: measure_plan(arguments.points),
        "start": measure_start,
        "run": lambda: measure_runs(arguments.trials, arguments.pack, arguments.slots),
        "resume": lambda: measure_resume(max(arguments.trials), arguments.pack[-1], arguments.slots),
    }
    for name, measure in parts.items():
        if arguments.part in ("all", name):
            record[name] = measure()
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "control_plane.json").write_text(json.dumps(record, indent=1) + "\n")
        if "run" in record:
            (RESULTS / "control_plane.png").write_bytes(plot(record["run"]))


def circumstances() -> dict[str, Any]:
    """What the figures were measured with."""
    packages = {package: importlib.metadata.version(package) for package in ("SQLAlchemy", "msgspec", "ray", "jax")}
    command = " ".join(["python -m benchmarks.control_plane", *sys.argv[1:]])
    return {"command": command, "date": datetime.date.today().isoformat(), "chip": cpu(), "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0], "fsync_ms": fsync_ms(),
            "versions": {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, **packages}}  # fmt: skip


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
