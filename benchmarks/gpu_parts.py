"""What `benchmarks.gpu` measures: each part says what it runs and what it will print, and runs it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness import Noise, Side, Work, check_same_work, timed
from benchmarks.mps import under_mps
from benchmarks.record import Record, spread
from benchmarks.sides import (
    NAMES,
    PEERS,
    ROOT,
    OutOfMemoryError,
    call,
    environment,
    ours,
    peer,
    run_command,
)
from benchmarks.tasks import Task, grid

SGD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
# What a part of a comparison is wanted to reach, as a ratio to the peer or in seconds.
WANTED_SERIAL = {"simplenet_v1": 12.0, "mobilenet_v1": 3.0, "resnet20": 3.0}
WANTED_MPS = {"simplenet_v1": 5.0}
WANTED_SWEEP_S = 600.0
WANTED_ACCURACY = 0.94


class Part(Protocol):
    """One of the measurements."""

    def plan(self) -> list[str]:
        """What it runs and what it prints, a line each."""
        ...

    def run(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Packs:
    """Packs of so many trials against trials one by one, and against processes that share the GPU by MPS.

    The ratio is of seconds a trial without start-up and compiling, as HFTA (MLSys 2021) counts; the one with everything is
    recorded beside it.
    """

    model: str
    pairs: int
    trials: int  # of the serial side
    epochs: int
    images: int | None
    sizes: Sequence[int]
    processes: Sequence[int]
    noise: Noise

    def task(self, trials: int) -> Task:
        if self.model == "simplenet_v1":
            dataset: dict[str, Any] = {"name": "mnist"}
            train: dict[str, Any] = {"optimizer": {"name": "adam", "learning_rate": 2e-3}}
        else:
            dataset = {"name": "cifar10", "normalize": "channel"}
            train = {"optimizer": SGD, "batch_norm_momentum": 0.9}
        dataset |= {"train_limit": self.images} if self.images else {}
        points = grid(learning_rate=[train["optimizer"]["learning_rate"]], seed=range(trials))
        return Task(self.model, dataset, train | {"epochs": self.epochs, "batch_size": 128}, points)

    def plan(self) -> list[str]:
        sizes, processes = ", ".join(map(str, self.sizes)), ", ".join(map(str, self.processes))
        wanted = f"{WANTED_SERIAL[self.model]:g} times serial JAX at the best pack"
        wanted += f", {WANTED_MPS[self.model]:g} times processes under MPS" if self.model in WANTED_MPS else ""
        program = f"python {PEERS.relative_to(ROOT)}/serial_flax.py FOLDER"
        return [
            f"{self.model}: {self.pairs} rounds, each of them, in turns:",
            f"  {self.trials} trials one by one: {program}",
            f"  packs of {sizes}: flaxcomp run SWEEP --train-only --executor inline, `resources: {{pack: SIZE}}`",
            f"  {processes} processes of one trial each under MPS: nvidia-cuda-mps-control -d, {program}",
            f"  prints each: '{self.model} pack SIZE: R times (from A to B over {self.pairs} pairs) serial JAX'; then the best",
            f"  wanted: {wanted}",
        ]

    def sides(self) -> dict[str, tuple[Side, Task]]:
        serial = self.task(self.trials)
        found = {"serial": (peer(serial, "serial_flax", processes=1), serial)}
        for size in self.sizes:
            task = self.task(size)
            found[f"pack {size}"] = (ours(task, executor="inline", pack=size, name=f"pack {size}"), task)
        for count in self.processes if shutil.which("nvidia-cuda-mps-control") else ():
            task = self.task(count)
            found[f"MPS {count}"] = (under_mps(task), task)
        return found

    def run(self, record: Record) -> None:
        if self.processes and not shutil.which("nvidia-cuda-mps-control"):
            print("left out: processes under MPS, for nvidia-cuda-mps-control is not on the path", flush=True)
        sides = self.sides()
        seconds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        gone: dict[str, str] = {}
        for number in range(self.pairs):
            works = {}
            for name in [*sides][:: 1 if number % 2 == 0 else -1]:
                side, task = sides[name]
                if name in gone:
                    continue
                try:
                    whole, work = timed(side)
                except OutOfMemoryError:
                    gone[name] = "needs more memory than there is"
                    print(f"{self.model} {name}: {gone[name]}", flush=True)
                    continue
                works[name] = work
                trials = len(task.points)
                seconds[name].append({"all": whole / trials, "training": (work.train_seconds or 0.0) / trials})
            for name, work in works.items():
                if name != "serial":
                    points = {name: sides[name][1].names, "serial": sides["serial"][1].names}
                    check_same_work({name: work, "serial": works["serial"]}, points, sides["serial"][1].steps, 128, self.noise)
            record.tell(self.model, {"seconds_a_trial": seconds, "left_out": gone, "ratios": self.ratios(seconds)})
        self.report(seconds)

    def ratios(self, seconds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
        """Serial seconds over others', round by round: by name, then `training` and `all` of them."""
        found: dict[str, dict[str, Any]] = {}
        for name, rounds in seconds.items():
            if name != "serial" and rounds:
                pairs = list(zip(seconds["serial"], rounds, strict=False))
                found[name] = {kind: [serial[kind] / other[kind] for serial, other in pairs] for kind in ("training", "all")}
        return found

    def report(self, seconds: dict[str, list[dict[str, float]]]) -> None:
        ratios = {name: spread(found["training"]) for name, found in self.ratios(seconds).items()}
        for name, ratio in ratios.items():
            print(f"{self.model} {name}: {ratio} serial JAX", flush=True)
        packs = {name: ratio.median for name, ratio in ratios.items() if name.startswith("pack")}
        shared = {name: ratio.median for name, ratio in ratios.items() if name.startswith("MPS")}
        if packs:
            best = max(packs, key=packs.__getitem__)
            print(f"{self.model}: the best is {best}, {packs[best]:.2f} times serial JAX (wanted {WANTED_SERIAL[self.model]:g})"
                  + (f", {packs[best] / max(shared.values()):.2f} times the best under MPS" if shared else ""))  # fmt: skip


@dataclass(frozen=True)
class Single:
    """One training in bfloat16 against PyTorch compiled, channels last."""

    model: str
    pairs: int
    epochs: int
    images: int | None
    noise: Noise

    @property
    def task(self) -> Task:
        dataset = {"name": "cifar10", "normalize": "channel"} | ({"train_limit": self.images} if self.images else {})
        dataset |= {"size": 224} if self.model == "resnet18" else {}
        train = {"epochs": self.epochs, "batch_size": 128, "optimizer": SGD, "batch_norm_momentum": 0.9, "dtype": "bfloat16"}
        return Task(self.model, dataset, train, grid(learning_rate=[SGD["learning_rate"]], seed=[0]))

    def plan(self) -> list[str]:
        pixels = ", images of 224 pixels" if self.model == "resnet18" else ""
        return [
            f"{self.model}{pixels}: {self.pairs} pairs of one training of {self.epochs} epoch(s), bfloat16, batch 128:",
            "  flaxcomp run SWEEP --train-only --executor inline",
            f"  python {PEERS.relative_to(ROOT)}/torch_compiled.py FOLDER",
            f"  prints: '{self.model}: R times (from A to B over {self.pairs} pairs) compiled PyTorch'; wanted: 1",
        ]

    def run(self, record: Record) -> None:
        task = self.task
        us, them = ours(task, executor="inline"), peer(task, "torch_compiled", processes=1)
        ratios: dict[str, list[float]] = {"training": [], "all": []}
        for number in range(self.pairs):
            both = {side.name: timed(side) for side in ((us, them) if number % 2 == 0 else (them, us))}
            (our_seconds, our_work), (their_seconds, their_work) = both[us.name], both[them.name]
            works = {us.name: our_work, them.name: their_work}
            check_same_work(works, dict.fromkeys(works, task.names), task.steps, 128, self.noise)
            ratios["all"].append(their_seconds / our_seconds)
            ratios["training"].append((their_work.train_seconds or 0.0) / (our_work.train_seconds or 1.0))
            record.tell(self.model, {"ratios": ratios})
        print(f"{self.model}: {spread(ratios['training'])} {NAMES['torch_compiled'][0]}", flush=True)


@dataclass(frozen=True)
class TimeTo94:
    """Seconds until a network has 94 % on CIFAR-10's test images: a whole training whose last epoch has them."""

    pairs: int
    epochs: int

    def sweep(self) -> str:
        optimizer = {"name": "sgd", "learning_rate": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
        train = {"epochs": self.epochs, "batch_size": 512, "dtype": "bfloat16", "optimizer": optimizer,
                 "schedule": {"name": "cosine"}, "augment": {"pad": 4, "flip": True},
                 "checkpoint_every_epochs": self.epochs}  # fmt: skip
        dataset = {"name": "cifar10", "normalize": "channel", "validation": {"fraction": 0.02}}
        model = {"name": "wide_resnet", "depth": 16, "widen_factor": 4}
        base = {"dataset": dataset, "model": model, "train": train}
        return json.dumps({"version": 1, "name": "time-to-94", "base": base, "parameters": {"seed": {"values": [0]}}})

    def plan(self) -> list[str]:
        return [
            f"time to 94 %: {self.pairs} runs of WRN-16-4, {self.epochs} epochs, bfloat16, batch 512, cosine, crops and flips:",
            "  flaxcomp run SWEEP --train-only --executor inline",
            "  prints: 'time to 94 %: S s of training, S s with everything, test accuracy A', or that it is not reached",
        ]

    def run(self, record: Record) -> None:
        runs = []
        for _ in range(self.pairs):
            row, whole = whole_run(self.sweep())
            reached = row["test_accuracy"] >= WANTED_ACCURACY
            runs.append({"training_s": row["train_seconds"], "all_s": whole, "test_accuracy": row["test_accuracy"]})
            told = "" if reached else f", so {self.epochs} epochs do not reach it"
            print(f"time to 94 %: {row['train_seconds']:.1f} s of training, {whole:.1f} s with everything, test accuracy "
                  f"{row['test_accuracy']:.4f}{told}", flush=True)  # fmt: skip
            record.tell("time_to_94", {"sweep": json.loads(self.sweep()), "runs": runs})


@dataclass(frozen=True)
class WholeSweep:
    """`sweeps/simplenet.yaml` from beginning to end, files and report too."""

    file: Path = field(default=ROOT / "sweeps" / "simplenet.yaml")

    def plan(self) -> list[str]:
        return [
            f"flaxcomp run {self.file.relative_to(ROOT)} --executor inline, once, files and report included",
            f"  prints: 'sweeps/simplenet.yaml: N trials in S s'; wanted: {WANTED_SWEEP_S:.0f} s",
        ]

    def run(self, record: Record) -> None:
        row, seconds = whole_run(self.file.read_text(), train_only=False)
        print(f"{self.file.relative_to(ROOT)}: {row['trials']} trials in {seconds:.0f} s; wanted {WANTED_SWEEP_S:.0f} s")
        record.tell("simplenet_sweep", {"seconds": seconds, "trials": row["trials"], "wanted_s": WANTED_SWEEP_S})


def whole_run(sweep: str, *, train_only: bool = True) -> tuple[dict[str, Any], float]:
    """Run a sweep in a cold folder; its last trial's row, with the number of `trials`, and seconds."""
    from flaxcomp.store.paths import RunPaths
    from flaxcomp.store.records import Store

    found: dict[str, Any] = {}

    def run(folder: Path) -> None:
        options = ["--train-only"] if train_only else []
        call(run_command("run", "sweep.yaml", "--out", "run", "--executor", "inline", *options), folder, environment(folder))

    def prepare(folder: Path) -> None:
        (folder / "sweep.yaml").write_text(sweep)

    def read(folder: Path) -> Work:
        with Store.open(RunPaths.at(folder / "run")) as store:
            rows = [row for row in store.frame(epochs=False).trials if row["status"] == "finished"]
        found.update(rows[-1], trials=len(rows))
        return Work("", 0, 0, 0, {})

    seconds, _ = timed(Side("run", prepare, run, read))
    return found, seconds
