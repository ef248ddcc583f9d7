"""The sides of a benchmark: flaxcomp as a user runs it, and the programs under `benchmarks/peers/`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import Noise, Side, UnequalError, Work, check_same_work
from benchmarks.peers.peer_job import Point, digest
from benchmarks.tasks import COLUMNS, MODELS, Task, arrays_of, name_of, write_arrays
from flaxcomp.errors import UserError
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import TrialConfig
from flaxcomp.train.memo import read_logits

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
OURS = "flaxcomp"
# By program: how it is called in print, and what it needs besides NumPy.
NAMES = {
    "ray_tune_flax": ("Ray Tune + Flax", ("ray", "jax", "flax", "optax", "pandas")),
    "ray_tune_torch": ("Ray Tune + PyTorch", ("ray", "torch", "pandas")),
    "optuna_torch": ("Optuna + PyTorch", ("optuna", "torch")),
    "keras_fit": ("Keras", ("keras", "tensorflow")),
    "serial_flax": ("serial JAX", ("jax", "flax", "optax")),
    "torch_compiled": ("compiled PyTorch", ("torch",)),
}
_OWN_VENV = ("torch", "optuna")  # `make bench` puts these and what they need into .venv-bench
_INSTALL = {True: "`make .venv-bench/.installed`, or name the interpreter that has them in FLAXCOMP_BENCH_PYTHON",
            False: "pip install -e '.[bench]'"}  # fmt: skip


class LackingError(Exception):
    """A program cannot be run here; says what to install."""


class OutOfMemoryError(RuntimeError):
    """A side needs more memory than there is."""


@contextmanager
def reported() -> Iterator[None]:
    """End the program with a line that says why there is no figure."""
    try:
        yield
    except (UnequalError, LackingError, UserError, RuntimeError) as error:
        sys.exit(f"No figure: {error}")


def python_of(program: str) -> str:
    """The interpreter that a peer runs with.

    Raises:
        LackingError: none has the packages that it needs.
    """
    needs, python = NAMES[program][1], sys.executable
    has_own = any(package in needs for package in _OWN_VENV)
    if has_own:
        made = ROOT / ".venv-bench" / "bin" / "python"
        python = os.environ.get("FLAXCOMP_BENCH_PYTHON") or (str(made) if made.exists() else python)
    if lacking := _lacking(python, needs):
        raise LackingError(f"{NAMES[program][0]} needs {', '.join(needs)}; {python} does not find {', '.join(lacking)}: "
                           f"{_INSTALL[has_own]}")  # fmt: skip
    return python


def _lacking(python: str, packages: Sequence[str]) -> list[str]:
    code = "import sys, importlib.util as u; print(*[p for p in sys.argv[1:] if u.find_spec(p) is None])"
    try:
        return _asked(python, code, packages).split()
    except (OSError, subprocess.CalledProcessError):
        return list(packages)


def versions_of(programs: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of the packages that each peer runs with, which may not be ours."""
    code = ("import sys, importlib.metadata as m; d = m.packages_distributions();"
            "print(*[m.version(d[p][0]) for p in sys.argv[1:]])")  # fmt: skip
    found = {}
    for program in programs:
        python, packages = python_of(program), NAMES[program][1]
        found[program] = dict(zip(packages, _asked(python, code, packages).split(), strict=True))
    return found


def _asked(python: str, code: str, arguments: Sequence[str]) -> str:
    return subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A child's: every cache of compiled programs is in the folder, so it is cold, and our packages can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    caches = {"FLAXCOMP_CACHE": folder / "cache", "TORCHINDUCTOR_CACHE_DIR": folder / "inductor",
              "TRITON_CACHE_DIR": folder / "triton"}  # fmt: skip
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH", "")])])}
    return {**kept, **{name: str(path) for name, path in caches.items()}, **paths, **more}


def call(command: list[str], folder: Path, env: Mapping[str, str]) -> None:
    """Run a program to its end, its output going to a file; RuntimeError with its last lines if it fails."""
    log = folder / "output.log"
    with log.open("ab") as output:
        done = subprocess.run(command, cwd=folder, env=dict(env), stdout=output, stderr=output, check=False)
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{last}")


def run_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flaxcomp.cli.main", *arguments]


def ours(
    task: Task, *, executor: str = "ray", pack: int | str = "auto", teacher_run: Path | None = None, name: str = OURS
) -> Side:
    """`flaxcomp run` over a task.

    Args:
        teacher_run: of `train_teacher`; a copy of it is what the run goes on from.
    """

    def prepare(folder: Path) -> None:
        (folder / "sweep.yaml").write_text(task.sweep(pack=pack))
        if teacher_run is not None:
            shutil.copytree(teacher_run, folder / "run")

    def run(folder: Path) -> None:
        command = run_command("run", "sweep.yaml", "--out", "run", "--train-only", "--executor", executor)
        try:
            call(command, folder, environment(folder))
        except RuntimeError as error:
            with Store.open(RunPaths.at(folder / "run")) as store:
                if any(failure["kind"] == "out_of_memory" for failure in store.failures()):
                    raise OutOfMemoryError(f"a pack of {pack} trials needs more memory than there is") from error
            raise

    return Side(name, prepare, run, lambda folder: read_run(folder / "run", task))


def read_run(run: Path, task: Task) -> Work:
    """What a run folder says was done; trials of other networks than the task's are passed over."""
    paths = RunPaths.at(run)
    with Store.open(paths) as store:
        frame = store.frame()
        rows = [row for row in frame.trials if row["role"] == "trial" and row["status"] == "finished"]
        texts = store.configs([row["trial"] for row in rows])
    configs = {id_: msgspec.json.decode(text, type=TrialConfig) for id_, text in texts.items()}
    model = MODELS[task.model]["name"]
    rows = [row for row in rows if configs[row["trial"]].model["name"] == model]
    if not rows:
        raise UnequalError(f"{OURS} finished no trial")
    epochs = {row["trial"]: 0 for row in rows}
    for epoch in frame.epochs:
        if epoch["trial"] in epochs:
            epochs[epoch["trial"]] += 1
    first = configs[rows[0]["trial"]]
    arrays = arrays_of(msgspec.to_builtins(first.dataset))
    a_step = len(arrays["train_index"]) // first.train.batch_size
    if first.distill is not None:
        arrays["teacher_logits"] = teacher_logits(
            run, first.distill.teachers[0], first.dataset.name, usable=len(arrays["train_labels"])
        )
    return Work(
        data=digest(arrays), params=rows[0]["trainable_params"], batch_size=first.train.batch_size,
        steps=_one(epochs.values(), f"epochs a trial of {OURS}") * a_step,
        accuracy={name_of(_point(configs[row["trial"]], task)): row["test_accuracy"] for row in rows},
        train_seconds=sum(row["train_seconds"] for row in rows),
    )  # fmt: skip


def _point(config: TrialConfig, task: Task) -> Point:
    values = {"learning_rate": config.train.optimizer.learning_rate, "seed": config.seed}
    if config.distill is not None:
        values["temperature"] = config.distill.temperature
    return {name: values[name] for name in COLUMNS if name in task.points[0]}


def train_teacher(task: Task, folder: Path) -> tuple[Path, Any]:
    """Train the task's teacher, once for all sides and pairs and outside of what is timed.

    Returns:
        A run folder that holds it, and its logits, float32 [images, classes], which peers are given.
    """
    (folder / "teacher.yaml").write_text(task.sweep(**{"model.name": {"value": "simplenet_v3"}, "train.epochs": {"value": 1}}))
    call(
        run_command("run", "teacher.yaml", "--out", "run", "--train-only", "--executor", "inline"), folder, environment(folder)
    )
    with Store.open(RunPaths.at(folder / "run")) as store:
        (teacher,) = [row["trial"] for row in store.frame(epochs=False).trials if row["role"] == "dependency"]
    return folder / "run", teacher_logits(
        folder / "run", teacher, task.dataset["name"], usable=len(task.arrays["train_labels"])
    )


def teacher_logits(run: Path, teacher: str, dataset: str, *, usable: int) -> Any:
    """A teacher's logits of the training images, float32 [usable, classes], as its run keeps them for its students."""
    from flaxcomp.data import catalog

    info = catalog.info(dataset)
    logits = read_logits(RunPaths.at(run).teacher_logits(teacher), (info.train_size, info.num_classes))
    if logits is None:
        raise UnequalError(f"{OURS} keeps no logits of teacher {teacher}")
    return logits[:usable]


def peer(task: Task, program: str, *, logits: Any = None, processes: int | None = None) -> Side:
    """A program of `benchmarks/peers/` over the same task.

    Args:
        logits: of the teacher, for students.
        processes: how many trials at a time; None: one a core.

    Raises:
        LackingError: it cannot be run here.
    """
    python = python_of(program)

    def prepare(folder: Path) -> None:
        write_arrays(folder, task.arrays if logits is None else {**task.arrays, "teacher_logits": logits})
        task.job(processes).write(folder)

    def start(folder: Path) -> None:
        call([python, str(PEERS / f"{program}.py"), str(folder)], folder, environment(folder))

    return Side(NAMES[program][0], prepare, start, read_result)


def read_result(folder: Path) -> Work:
    """What a peer says it did."""
    told = json.loads((folder / "result.json").read_text())
    return Work(
        data=told["data"], params=_one((trial["params"] for trial in told["trials"]), "parameters of a peer's networks"),
        batch_size=told["batch_size"], steps=_one((trial["steps"] for trial in told["trials"]), "steps a trial of a peer"),
        accuracy={name_of(trial["point"]): trial["test_accuracy"] for trial in told["trials"]},
        train_seconds=told.get("train_seconds"),
    )  # fmt: skip


def _one(values: Iterable[int], what: str) -> int:
    found = sorted(set(values))
    if len(found) != 1:
        raise UnequalError(f"{what} differ: {', '.join(map(str, found)) or 'there are none'}")
    return found[0]


def same(task: Task, noise: Noise) -> Callable[[Mapping[str, Work]], None]:
    """The check that both sides did the task."""
    return lambda works: check_same_work(works, dict.fromkeys(works, task.names), task.steps, task.train["batch_size"], noise)
