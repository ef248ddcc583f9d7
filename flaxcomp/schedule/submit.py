"""Hand a sweep to a running Ray cluster through its Jobs API."""

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from flaxcomp.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_AGENT_SECONDS = 30.0


class RayTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A launch file, such as launch/ray.yaml."""

    jobs: str  # http(s)://host:port of the cluster's dashboard
    runs: str = "runs"
    store: str | None = None
    runtime_env: dict[str, Any] = {}
    entrypoint_cpus: Annotated[float, Meta(ge=0)] = 0


def read_target(file: Path) -> RayTarget:
    """Read a launch file.

    Raises:
        UserError: it cannot be read, or says something else than a target.
    """
    try:
        content = yaml.safe_load(file.read_text())
        return msgspec.convert(content, RayTarget)
    except OSError as error:
        raise UserError(f"the launch file {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        known = ", ".join(RayTarget.__struct_fields__)
        raise UserError(f"{file} must be a mapping with the keys {known}: {error}") from None


def connect(target: RayTarget) -> "JobSubmissionClient":
    """Reach the cluster's Jobs API.

    Raises:
        UserError: it does not answer.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(target.jobs)
    except (ConnectionError, RuntimeError) as error:
        raise _refused(target, error) from None


def submit(
    client: "JobSubmissionClient", target: RayTarget, sweep_text: str, run_folder: Path, overrides: tuple[str, ...],
    files: dict[str, Path] | None = None, *, yes: bool = False,
) -> str:  # fmt: skip
    """Start `flaxcomp run` as a job of the cluster and return the job's id at once.

    A password in `target.store` travels in the job's environment, not in its command line, which everybody there can read.

    Args:
        client: what `connect` returned for `target`.
        sweep_text: the sweep file, which travels with the job.
        run_folder: absolute; seen by the cluster under the same path.
        overrides: as for `--set`.
        files: files and folders that the sweep refers to, by the relative path that it uses; they travel too.

        yes: as for `--yes`.

    Raises:
        UserError: the cluster refuses.
    """
    runtime_env = dict(target.runtime_env)
    command = ["python", "-m", "flaxcomp.cli.main", "run", "sweep.yaml", "--out", str(run_folder), "--address", "auto"]
    for override in overrides:
        command += ["--set", override]
    if yes:
        command.append("--yes")
    if target.store:
        store, password = _apart(target.store)
        command += ["--store", store]
        if password:
            runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), "PGPASSWORD": password}
    with tempfile.TemporaryDirectory(prefix="flaxcomp-submit-") as folder:
        (Path(folder) / "sweep.yaml").write_text(sweep_text)
        for name, path in (files or {}).items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(folder) / name)
        try:
            job = _when_ready(
                client.submit_job,
                entrypoint=shlex.join(command), runtime_env={**runtime_env, "working_dir": folder},
                entrypoint_num_cpus=target.entrypoint_cpus or None, metadata={"flaxcomp_run": str(run_folder)},
            )  # fmt: skip
        except (ConnectionError, RuntimeError) as error:
            raise _refused(target, error) from None
    return job


def _refused(target: RayTarget, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0]
    return UserError(f"the Ray cluster at {target.jobs} did not take the job: {first}")


def _apart(store: str) -> tuple[str, str | None]:
    """A store's URL without its password, and the password, if it has one."""
    from flaxcomp.store.database import parse_url, without_password

    url = parse_url(store)
    in_query = url.query.get("password")
    return without_password(url), url.password or (in_query if isinstance(in_query, str) else None)


def _when_ready(submit_job: Callable[..., str], **job: Any) -> str:
    """Call again while a cluster that has only just begun says that it has no agent yet."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return submit_job(**job)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1.0)
