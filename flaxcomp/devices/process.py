"""The agent as a process of this machine, natively or under an emulator: one job in, one answer out."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from flaxcomp.devices import agent
from flaxcomp.devices.transports import DeviceError, Facts, Transport

AGENT_FILE = Path(agent.__file__)
FACTS_TIMEOUT_S = 60.0


def agent_name() -> str:
    """The agent's file name on a device: it changes with the content, so that an old agent is never run."""
    return f"agent-{hashlib.sha256(AGENT_FILE.read_bytes()).hexdigest()[:16]}.py"


def run_agent(
    command: Sequence[str], job: Mapping[str, Any], timeout_s: float, *, environment: Mapping[str, str], threads: int = 0
) -> dict[str, Any]:
    """Run `command` with the job as JSON on its standard input and return the answer.

    Args:
        command: a program that reads a job and prints an answer; never passed through a shell.
        timeout_s: the process and its children are killed after so long.
        environment: all of the process's environment.
        threads: the process is bound to so many processors, the last ones of those this process may use; 0: not bound.

    Raises:
        DeviceError: timeout, died, garbage, or the kind that the agent refused with.
    """
    with _bound(threads):
        try:
            process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True)
        except OSError as error:
            raise DeviceError("unreachable", f"{command[0]} cannot be started: {error}") from error
    try:
        out, err = process.communicate(json.dumps(job).encode(), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise DeviceError("timeout", f"no answer within {timeout_s:g} s") from None
    finally:
        _kill(process)
    return read_answer(out, err, process.returncode)


def read_answer(out: bytes, err: bytes, status: int) -> dict[str, Any]:
    """Return the agent's answer from what its process left, with every other outcome told apart as a DeviceError."""
    if not out.strip():
        end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise DeviceError("died", f"the agent ended without an answer ({end}){_tail(err)}")
    try:
        answer = json.loads(out)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise DeviceError("garbage", f"not an answer of the agent: {out[:200].decode(errors='replace')!r}{_tail(err)}")
    if "error" in answer:
        raise DeviceError(str(answer["error"]["kind"]), str(answer["error"]["message"]))
    return answer


class HostTransport(Transport):
    """The agent in a temporary folder of this machine.

    Args:
        command: what runs a Python file, natively or emulated.
        environment: all of its environment.
        threads: processors that it is bound to.
        device_model: None: what the agent says.
        emulator: its name and version, None for a native process.
        counting: the command under a counter of instructions; None: they are not counted.
    """

    lock = "this-machine"

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        threads: int,
        device_model: str | None = None,
        emulator: str | None = None,
        counting: Sequence[str] | None = None,
    ) -> None:
        self.command, self.environment, self.threads = list(command), dict(environment), threads
        self.device_model, self.emulator, self.counting = device_model, emulator, counting
        self.folder = Path(tempfile.mkdtemp(prefix="flaxcomp-device-"))
        self.put(AGENT_FILE, agent_name())

    def facts(self) -> Facts:
        said = self.run({"task": "facts"}, FACTS_TIMEOUT_S)
        return Facts(
            device_model=self.device_model or said["cpu"],
            emulated=self.emulator is not None,
            runtime=said["runtime"] + (f", {self.emulator}" if self.emulator else ""),
            machine=said["machine"],
            memory_of="emulator" if self.emulator else "process",
        )

    def put(self, source: Path, name: str) -> None:
        if not (self.folder / name).exists():
            shutil.copyfile(source, self.folder / name)

    def run(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        command = [*self.command, str(self.folder / agent_name())]
        return run_agent(command, job, timeout_s, environment=self.environment, threads=self.threads)

    def count(self, job: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        if self.counting is None:
            return None
        # With a seed of its own every process would hash, and so execute, a little differently.
        more = {agent.COUNTS: str(self.folder / "counts"), "PYTHONHASHSEED": "0"}
        command = [*self.counting, str(self.folder / agent_name())]
        return run_agent(command, job, timeout_s, environment=self.environment | more, threads=1)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _bound(threads: int) -> Iterator[None]:
    """Bind this thread, and with it the processes it starts meanwhile, to its last `threads` processors."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if not 0 < threads < len(before):
        yield
        return
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, if it has not ended by itself, and free its pipes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # its own session, so the group is its own too
        process.communicate()


def _tail(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()[-3:]
    return ": " + " | ".join(lines) if lines else ""
