"""Fixtures of the store's tests: run folders whose records are in SQLite, or on a PostgreSQL server of our own."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parts import require
from run_stores import Runs


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runs]:
    """A run folder with nasty letters in its path, in each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    made = Runs(tmp_path / "run #1 %20 ü?", url)
    yield made
    made.close()


@pytest.fixture
def sqlite_runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path / "run", None)
    yield made
    made.close()


@pytest.fixture
def postgres_url(new_database: Callable[[], str]) -> str:
    """An empty database."""
    return new_database()


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Makes empty databases on a server that lives as long as the tests."""
    require(importlib.util.find_spec("psycopg"), "psycopg: install flaxcomp[postgres]")
    import psycopg

    binaries = _binaries()
    require(binaries, "PostgreSQL's initdb and pg_ctl: install the package postgresql")
    assert binaries is not None
    with tempfile.TemporaryDirectory(prefix="fcpg-") as name:
        folder = Path(name)
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            user = next(entry for entry in map(_user, ("postgres", "nobody")) if entry)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": name}
            os.chown(folder, user.pw_uid, user.pw_gid)

        def run(*command: object) -> None:
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, **as_user)

        data = folder / "data"
        run(binaries / "initdb", "-D", data, "-A", "trust", "-U", "flaxcomp", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
        made: list[str] = []

        def new() -> str:
            made.append(f"test{len(made)}")
            with psycopg.connect(host=name, user="flaxcomp", dbname="postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {made[-1]}")
            return f"postgresql://flaxcomp@/{made[-1]}?host={name}"

        try:
            yield new
        finally:
            run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _binaries() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent  # pg_ctl looks for the server beside itself
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps them off the PATH
    return places[-1].parent if places else None


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
