"""The program that runs on a device: one job as JSON on standard input, one line of JSON on standard output.

It is one file that needs Python 3.9, its standard library and one TFLite runtime; it is sent by its hash and imports
nothing of flaxcomp. One process serves one job, so that a measurement starts from a fresh process.

Jobs (bytes are base64, arrays are in C order):
    {"task": "facts"} -> {"python", "machine", "runtime", "cpu"}
    {"task": "measure", "model", "sha256", "threads", "warmup_s", "runs", "limit_s", "cases"} -> {"runtime", "load_ms",
        "samples_ms", "baseline_memory_bytes", "peak_memory_bytes", "max_output_error"}
    {"task": "count", "model", "sha256", "runs", "cases"} -> {"runtime", "instructions", "overhead"}: what each of `runs` single
        invocations executes, with one thread, and as often what counting itself does; under an emulator that counts, see COUNTS
`model` is a file name in the agent's own folder. A case is {"inputs": [bytes], "outputs": [{"data": bytes, "dtype"}]}, one
entry a tensor; the first case's inputs are those that are timed. Whatever goes wrong arrives as {"error": {"kind", "message"}}.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import importlib
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite")
MIN_RUNS = 5  # taken even when `limit_s` is over
COUNTS = "FLAXCOMP_COUNTS"  # names the file to which the emulator adds a line, the instructions so far, at every call of getsid


class RefusedError(Exception):
    """A job that cannot be done. `kind` tells the causes apart: no_runtime, no_counter, wrong_file, bad_model, bad_job."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load_runtime() -> tuple[Any, str]:
    """Return (Interpreter class, "name version") of the first runtime that is installed."""
    failures = []
    for name in RUNTIMES:
        try:
            interpreter = importlib.import_module(name).Interpreter
        except (ImportError, OSError, AttributeError) as error:
            failures.append(f"{name}: {error}")
            continue
        package = sys.modules[name.split(".")[0]]
        return interpreter, f"{package.__name__} {getattr(package, '__version__', 'unknown')}"
    raise RefusedError("no_runtime", "no TFLite runtime can be imported; install ai-edge-litert. " + "; ".join(failures))


def read(path: str) -> str:
    """Return the text of a file of /proc or /sys, "" where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def cpu_model() -> str:
    """The board's name where the kernel knows one (Raspberry Pi and the like), else the processor's."""
    board = read("/proc/device-tree/model").strip("\0\n ")
    if board:
        return board
    for key in ("model name", "Hardware"):
        for line in read("/proc/cpuinfo").splitlines():
            if line.split(":")[0].strip() == key:
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int:
    """The most resident memory this process has had, in bytes; 0 where the system does not tell."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def checked_model(job: dict[str, Any]) -> str:
    """Return the path of the job's model when it is the file that was meant."""
    name = job["model"]
    if Path(name).name != name:
        raise RefusedError("bad_job", f"the model must be a file name without a folder, not {name!r}")
    path = Path(__file__).absolute().with_name(name)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RefusedError("wrong_file", f"{name} cannot be read: {error}") from None
    if found != job["sha256"]:
        raise RefusedError("wrong_file", f"{name} has sha256 {found}, expected {job['sha256']}")
    return str(path)


def set_inputs(interpreter: Any, case: dict[str, Any] | None) -> None:
    """Give the interpreter a case's inputs; zeros where the job has no case."""
    import numpy

    for number, detail in enumerate(interpreter.get_input_details()):
        shape = tuple(detail["shape"])
        if case is None:
            value = numpy.zeros(shape, detail["dtype"])
        else:
            value = numpy.frombuffer(base64.b64decode(case["inputs"][number]), detail["dtype"]).reshape(shape)
        interpreter.set_tensor(detail["index"], value)


def output_error(interpreter: Any, cases: list[dict[str, Any]]) -> float | None:
    """Return the largest |output - expected| over all cases, in the output's real units; None without a case.

    A quantized output counts as scale * steps. NaN where a number is expected, or the reverse, counts as infinite.
    """
    import numpy

    worst: float | None = None
    for case in cases:
        set_inputs(interpreter, case)
        interpreter.invoke()
        for detail, expected in zip(interpreter.get_output_details(), case["outputs"]):  # noqa: B905 (Python 3.9)
            got = interpreter.get_tensor(detail["index"])
            if str(got.dtype) != expected["dtype"]:
                raise RefusedError("bad_model", f"output {detail['name']} is {got.dtype}, expected {expected['dtype']}")
            want = numpy.frombuffer(base64.b64decode(expected["data"]), got.dtype).reshape(got.shape)
            scale = detail["quantization"][0] or 1.0
            same = (got == want) | ((got != got) & (want != want))
            off = numpy.where(same, 0.0, numpy.abs(got.astype("float64") - want.astype("float64")) * scale)
            error = float("inf") if numpy.isnan(off).any() else float(off.max())
            worst = error if worst is None else max(worst, error)
    return worst


def timed_runs(interpreter: Any, warmup_s: float, runs: int, limit_s: float | None) -> list[float]:
    """Invoke for at least `warmup_s`, then time up to `runs` single invocations; return them in ms.

    `limit_s` (None: no limit) ends the timed part early, after MIN_RUNS at least.
    """
    invoke, now = interpreter.invoke, time.perf_counter_ns
    end = now() + int(warmup_s * 1e9)
    invoke()
    while now() < end:
        invoke()
    samples: list[float] = []
    last = None if limit_s is None else now() + int(limit_s * 1e9)
    gc.collect()
    gc.disable()  # a collection inside a timed run would be counted as the network's time
    while len(samples) < runs:
        start = now()
        invoke()
        stop = now()
        samples.append((stop - start) / 1e6)
        if last is not None and stop > last and len(samples) >= MIN_RUNS:
            break
    return samples


@contextlib.contextmanager
def refusing(runtime: str) -> Iterator[None]:
    """Refuse a model that the runtime cannot run."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as failure:  # what the runtimes raise
        raise RefusedError("bad_model", f"{runtime}: {failure}") from failure


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model, check its outputs, time it."""
    path = checked_model(job)
    interpreter_class, runtime = load_runtime()
    baseline = peak_memory_bytes()
    cases = job.get("cases") or []
    with refusing(runtime):
        start = time.perf_counter_ns()
        interpreter = interpreter_class(model_path=path, num_threads=job["threads"])
        interpreter.allocate_tensors()
        load_ms = (time.perf_counter_ns() - start) / 1e6
        error = output_error(interpreter, cases)
        set_inputs(interpreter, cases[0] if cases else None)
        samples = timed_runs(interpreter, job["warmup_s"], job["runs"], job.get("limit_s"))
    return {
        "runtime": runtime,
        "load_ms": load_ms,
        "samples_ms": samples,
        "baseline_memory_bytes": baseline,
        "peak_memory_bytes": peak_memory_bytes(),
        "max_output_error": error,  # may be infinite, which Python writes and reads as Infinity
    }


def count(job: dict[str, Any]) -> dict[str, Any]:
    """Count the instructions of single invocations after a first one, which may prepare what later ones use."""
    path = checked_model(job)
    interpreter_class, runtime = load_runtime()
    with refusing(runtime):
        interpreter = interpreter_class(model_path=path, num_threads=1)
        interpreter.allocate_tensors()
        set_inputs(interpreter, next(iter(job.get("cases") or ()), None))
        interpreter.invoke()
    gc.collect()
    gc.disable()
    runs = job["runs"]
    marked_calls(lambda: None, runs)
    marked_calls(interpreter.invoke, runs)
    totals = [int(line) for line in read(os.environ.get(COUNTS, "")).split()]
    if len(totals) != 2 * (runs + 1):
        raise RefusedError("no_counter", f"the emulator wrote {len(totals)} totals, expected {2 * (runs + 1)}")
    executed = [after - before for before, after in zip(totals, totals[1:])]  # noqa: B905, RUF007 (Python 3.9)
    return {"runtime": runtime, "instructions": executed[runs + 1 :], "overhead": executed[:runs]}


def marked_calls(call: Callable[[], Any], times: int) -> None:
    """Let the emulator note the instructions so far before the first, between and after the last of so many calls."""
    mark = os.getsid
    for _ in range(times):
        mark(0)
        call()
    mark(0)


def facts(_job: dict[str, Any]) -> dict[str, Any]:
    """What is known about this device without a model; importing the runtime is the health check."""
    runtime = load_runtime()[1]
    return {"python": platform.python_version(), "machine": platform.machine(), "runtime": runtime, "cpu": cpu_model()}


def answer(text: str) -> dict[str, Any]:
    """Return the answer to a job given as JSON text."""
    try:
        job = json.loads(text)
        task = {"facts": facts, "measure": measure, "count": count}.get(job["task"])
        if task is None:
            raise RefusedError("bad_job", f"unknown task {job['task']!r}")
        return task(job)
    except RefusedError as refusal:
        return {"error": {"kind": refusal.kind, "message": str(refusal)}}
    except (ValueError, KeyError, TypeError) as error:
        return {"error": {"kind": "bad_job", "message": f"{type(error).__name__}: {error}"}}
    except Exception:
        return {"error": {"kind": "crashed", "message": traceback.format_exc(limit=-3)}}


def main() -> None:
    """Answer one job. What a library prints goes to standard error, so that standard output is the answer alone."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    out.write(json.dumps(answer(sys.stdin.read())) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
