"""A real Ray cluster of two nodes on this machine."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Cluster:
    """Addresses of a cluster: of its control service, of its Jobs API; and what a client's environment needs."""

    address: str
    jobs: str
    environment: dict[str, str]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """Head and second node, one CPU each, with token authentication as Ray has it by default."""
    port, jobs_port = _free_port(), _free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    binaries = str(Path(sys.executable).parent)  # as in an activated environment
    environment = {**os.environ, **token, "PATH": f"{binaries}:{os.environ['PATH']}"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    folder = tempfile.mkdtemp(prefix="ray-")  # a short path: Ray puts sockets into it
    head = [*ray, "--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=true",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs_port}"]  # fmt: skip
    processes = []
    try:
        for command in (head, [*ray, f"--address=127.0.0.1:{port}"]):
            log = Path(folder) / f"node{len(processes)}.log"
            # Other clusters on this machine hold Ray's usual ports, and an agent without its port takes no jobs.
            ports = (
                "dashboard-agent-listen-port",
                "dashboard-agent-grpc-port",
                "metrics-export-port",
                "runtime-env-agent-port",
            )
            command += [f"--{name}={_free_port()}" for name in ports]
            with log.open("wb") as file:
                processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True))
            _wait_for(processes[-1], log, "--block")
        _wait_for_jobs(f"http://127.0.0.1:{jobs_port}", token)
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs_port}", token)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(process: "subprocess.Popen[bytes]", log: Path, word: str) -> None:
    """Ray says that it blocks once the node is up."""
    deadline = time.monotonic() + 90
    while word not in log.read_text():
        assert process.poll() is None, f"ray start ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"the node does not come up: {log.read_text()}"
        time.sleep(0.2)


def _wait_for_jobs(url: str, token: dict[str, str]) -> None:
    import requests

    deadline = time.monotonic() + 90
    while True:
        try:
            answer = requests.get(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token['RAY_AUTH_TOKEN']}"}, timeout=5)
            if answer.status_code == 200:
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, "the Jobs API does not answer"
        time.sleep(0.3)
