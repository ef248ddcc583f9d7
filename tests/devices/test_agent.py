"""The agent alone: it is one file that old Pythons read, and it says what is wrong with a job."""

import ast
import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boards import FLOAT32, INT8
from flaxcomp.devices import agent, reference
from flaxcomp.devices.measure import Subject
from flaxcomp.devices.process import AGENT_FILE


def job(subject: Subject, **changes: Any) -> dict[str, Any]:
    cases = reference.compute(subject.path, 0).cases
    usual = {"task": "measure", "model": "net.tflite", "sha256": subject.artifact, "threads": 1, "warmup_s": 0.0, "runs": 7}
    return usual | {"limit_s": None, "cases": cases} | changes


def ask(folder: Path, text: str) -> dict[str, Any]:
    """Run a copy of the agent that lies alone in a folder, without flaxcomp on the path."""
    shutil.copy(AGENT_FILE, folder / "agent.py")
    done = subprocess.run([sys.executable, "-I", folder / "agent.py"], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_reads_as_python_3_9_and_imports_only_the_standard_library_at_the_top() -> None:
    tree = ast.parse(AGENT_FILE.read_text(), feature_version=(3, 9))
    imported = {name.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module).split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("subject", [FLOAT32, INT8], ids=["float32", "int8"])
def test_measures(tmp_path: Path, subject: Subject) -> None:
    shutil.copy(subject.path, tmp_path / "net.tflite")
    answer = ask(tmp_path, json.dumps(job(subject)))
    assert len(answer["samples_ms"]) == 7
    assert all(0 < sample < 1000 for sample in answer["samples_ms"])
    assert answer["max_output_error"] == 0  # the same runtime on the same machine
    assert answer["peak_memory_bytes"] >= answer["baseline_memory_bytes"] > 2**20
    assert answer["runtime"].startswith("ai_edge_litert ")


def test_facts(tmp_path: Path) -> None:
    answer = ask(tmp_path, '{"task": "facts"}')
    assert set(answer) == {"python", "machine", "runtime", "cpu"}
    assert answer["cpu"]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", "bad_job", "JSONDecodeError"),
        ("[1]", "bad_job", "TypeError"),
        ('{"task": "dance"}', "bad_job", "unknown task 'dance'"),
        (json.dumps(job(FLOAT32, model="../net.tflite")), "bad_job", "without a folder"),
        (json.dumps(job(FLOAT32, model="missing.tflite")), "wrong_file", "missing.tflite cannot be read"),
        (json.dumps(job(INT8)), "wrong_file", f"expected {INT8.artifact}"),
        (json.dumps(job(FLOAT32) | {"cases": job(INT8)["cases"]}), "bad_model", "ai_edge_litert"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, text: str, kind: str, words: str) -> None:
    shutil.copy(FLOAT32.path, tmp_path / "net.tflite")
    error = ask(tmp_path, text)["error"]
    assert error["kind"] == kind
    assert words in error["message"]


def test_says_that_a_model_is_bad(tmp_path: Path) -> None:
    content = b"not a network"
    (tmp_path / "net.tflite").write_bytes(content)
    error = ask(tmp_path, json.dumps(job(FLOAT32, sha256=hashlib.sha256(content).hexdigest())))["error"]
    assert error["kind"] == "bad_model"


def test_says_that_there_is_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "RUNTIMES", ("no_such_runtime.interpreter",))
    error = agent.answer('{"task": "facts"}')["error"]
    assert error["kind"] == "no_runtime"
    assert "install ai-edge-litert" in error["message"]


class Invocations:
    """An interpreter that counts."""

    def __init__(self) -> None:
        self.count = 0

    def invoke(self) -> None:
        self.count += 1


def test_warms_up_and_stops_at_the_limit_after_five_runs() -> None:
    interpreter = Invocations()
    assert len(agent.timed_runs(interpreter, 0.0, 20, None)) == 20
    assert interpreter.count == 21  # one run of warm-up at least
    assert len(agent.timed_runs(interpreter, 0.0, 20, 0.0)) == agent.MIN_RUNS
    interpreter.count = 0
    agent.timed_runs(interpreter, 0.02, 5, None)
    assert interpreter.count > 100


def test_output_error_counts_quantized_outputs_in_real_units_and_nan_as_infinite() -> None:
    class Network:
        output = np.array([[1, 5]], np.int8)
        scale = 0.5

        def invoke(self) -> None: ...

        def get_input_details(self) -> list[dict[str, Any]]:
            return []

        def get_output_details(self) -> list[dict[str, Any]]:
            return [{"index": 0, "name": "logits", "quantization": (self.scale, 0)}]

        def get_tensor(self, index: int) -> Any:
            return self.output

    def case(expected: Any) -> list[dict[str, Any]]:
        return [
            {"inputs": [], "outputs": [{"data": base64.b64encode(expected.tobytes()).decode(), "dtype": str(expected.dtype)}]}
        ]

    network = Network()
    assert agent.output_error(network, case(np.array([[1, 2]], np.int8))) == 1.5
    assert agent.output_error(network, []) is None
    network.output, network.scale = np.array([[np.nan, 1.0]], np.float32), 0.0
    assert agent.output_error(network, case(np.array([[0.0, 1.0]], np.float32))) == float("inf")
    assert agent.output_error(network, case(np.array([[np.nan, 1.5]], np.float32))) == 0.5
    with pytest.raises(agent.RefusedError, match="is float32, expected int8"):
        agent.output_error(network, case(np.array([[1, 2]], np.int8)))
