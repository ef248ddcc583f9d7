"""Reading SQLite where it is hard: while it is written, without permission, after a crash, from a damaged file."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flaxcomp.errors import UserError
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from parts import require
from run_stores import Runs, trial

pytest_plugins = ("store_fixtures",)


@pytest.fixture
def filled(sqlite_runs: Runs) -> Store:
    store = sqlite_runs.create()
    store.add_trials(store.acquire(host="h", pid=1), [trial("a"), trial("b")])
    return store


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "run"


def make_read_only(root: Path) -> None:
    for path in [*root.iterdir(), root]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def without_rights(do: Callable[[], object]) -> str:
    """What `do` returns or raises, as text, in a process that may not write what others own."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            text = str(do())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(send, text.encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def counts(root: Path) -> dict[str, int]:
    with Store.open(RunPaths.at(root)) as store:
        return store.counts()


TWO_PENDING = "{'pending': 2, 'running': 0, 'finished': 0, 'stopped': 0, 'failed': 0, 'blocked': 0}"


def test_a_finished_run_in_a_folder_without_write_permission(open_folder: Path) -> None:
    runs = Runs(open_folder, None)
    store = runs.create()
    store.add_trials(store.acquire(host="h", pid=1), [trial("a"), trial("b")])
    runs.close()
    make_read_only(open_folder)
    assert without_rights(lambda: counts(open_folder)) == TWO_PENDING
    asked = without_rights(lambda: Store.open(RunPaths.at(open_folder)).request_stop())
    assert asked.startswith("UserError: Cannot use")
    open_folder.chmod(0o755)


def test_a_run_at_rest_is_one_plain_file_and_reading_leaves_no_other(sqlite_runs: Runs, filled: Store) -> None:
    files = {"run.json", "store.sqlite", "sweep.yaml"}
    sqlite_runs.close()
    assert {path.name for path in sqlite_runs.paths.root.iterdir()} == files
    with sqlite_runs.open() as reader:
        assert len(reader.frame().trials) == 2
    assert {path.name for path in sqlite_runs.paths.root.iterdir()} == files


def test_closing_does_not_disturb_others(sqlite_runs: Runs, filled: Store) -> None:
    with sqlite_runs.open() as user:
        user.request_stop()
    assert filled.stop_requested()
    filled.add_trials(Lease(filled.run_id, 1), [trial("c")])
    assert sqlite_runs.open().counts()["pending"] == 3


def test_a_store_in_wal_mode_without_its_log_and_without_permission(open_folder: Path) -> None:
    runs = Runs(open_folder, None)
    store = runs.create()
    store.add_trials(store.acquire(host="h", pid=1), [trial("a"), trial("b")])
    runs.close()
    with closing(sqlite3.connect(runs.paths.sqlite_file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert not open_folder.joinpath("store.sqlite-wal").exists()
    make_read_only(open_folder)
    assert without_rights(lambda: counts(open_folder)) == TWO_PENDING
    open_folder.chmod(0o755)


def test_a_run_that_another_user_is_writing(open_folder: Path) -> None:
    runs = Runs(open_folder, None)
    store = runs.create()
    lease = store.acquire(host="h", pid=1)
    store.add_trials(lease, [trial("a"), trial("b")])
    assert open_folder.joinpath("store.sqlite-wal").stat().st_size > 0
    assert without_rights(lambda: counts(open_folder)) == TWO_PENDING
    store.add_trials(lease, [trial("c")])
    assert without_rights(lambda: counts(open_folder)) == TWO_PENDING.replace("2", "3")
    runs.close()


def test_records_in_the_log_of_a_crash_are_read_from_a_read_only_copy(open_folder: Path) -> None:
    """As when the folder of a killed controller is copied without the shared memory file."""
    source = Runs(open_folder.parent / "source", None)
    store = source.create()
    store.add_trials(store.acquire(host="h", pid=1), [trial("a"), trial("b")])
    open_folder.mkdir()
    for name in ("run.json", "store.sqlite", "store.sqlite-wal"):
        (open_folder / name).write_bytes((source.paths.root / name).read_bytes())
    source.close()
    make_read_only(open_folder)
    assert without_rights(lambda: counts(open_folder)) == TWO_PENDING
    open_folder.chmod(0o755)


def test_reading_neither_waits_for_a_writer_nor_disturbs_it(sqlite_runs: Runs, filled: Store) -> None:
    reader = sqlite_runs.open()
    writer = sqlite3.connect(sqlite_runs.paths.sqlite_file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE trials SET status = 'finished'")
    assert reader.counts()["pending"] == 2
    with reader.snapshot():
        assert reader.counts()["pending"] == 2
        writer.execute("COMMIT")
        assert reader.counts()["pending"] == 2
    assert reader.counts()["finished"] == 2
    writer.close()


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from run_stores import Runs, Pack, trial
store = Runs(Path(sys.argv[1]), None).create()
lease = store.acquire(host="h", pid=os.getpid())
n = 0
while True:
    store.add_trials(lease, [trial(f"t{n}")])
    store.form_packs(lease, [Pack(f"p{n}", (f"t{n}",))])
    store.start_pack(lease, f"p{n}", "w")
    store.finish_pack(lease, f"p{n}", 1, {f"t{n}": {"params": n}})
    n += 1
    print(n, flush=True)
"""


def test_what_was_told_to_be_written_survives_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", KILLED, root, Path(__file__).parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        told = int(line)
        if told == 50:
            process.send_signal(signal.SIGKILL)
    process.wait()
    with Store.open(RunPaths.at(root)) as store:
        rows = store.frame().trials
    assert len(rows) in (told, told + 1)
    assert [(row["trial"], row["status"], row["params"]) for row in rows[:told]] == [
        (f"t{n}", "finished", n) for n in range(told)
    ]


@pytest.mark.parametrize("damage", [b"not a database at all" * 400, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_store(sqlite_runs: Runs, filled: Store, damage: bytes) -> None:
    sqlite_runs.close()
    sqlite_runs.paths.sqlite_file.write_bytes(damage)
    for use in (sqlite_runs.open, sqlite_runs.create):
        with pytest.raises(UserError, match=r"store\.sqlite is damaged or not a store of flaxcomp .*restore it from a copy"):
            use()


def test_damage_in_the_middle(sqlite_runs: Runs) -> None:
    store = sqlite_runs.create()
    store.add_trials(store.acquire(host="h", pid=1), [trial(f"t{n}") for n in range(2000)])
    sqlite_runs.close()
    file = sqlite_runs.paths.sqlite_file
    data = bytearray(file.read_bytes())
    data[40 * 4096 : -4096] = b"\xaa" * (len(data) - 41 * 4096)
    file.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        sqlite_runs.open().frame()


def test_a_database_of_something_else(sqlite_runs: Runs, filled: Store) -> None:
    sqlite_runs.close()
    sqlite_runs.paths.sqlite_file.unlink()
    with sqlite3.connect(sqlite_runs.paths.sqlite_file) as other:
        other.execute("CREATE TABLE books (title)")
    with pytest.raises(UserError, match="not a store of flaxcomp"):
        sqlite_runs.open()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda paths: paths.run_file.unlink(), "is not a run folder: it has no run.json"),
        (lambda paths: paths.run_file.write_text("{"), "run.json is damaged"),
        (lambda paths: paths.sqlite_file.unlink(), "store.sqlite does not exist"),
        (lambda paths: paths.sqlite_file.write_bytes(b""), "has no records yet"),
    ],
)
def test_an_incomplete_run_folder(sqlite_runs: Runs, spoil: Callable[[RunPaths], None], message: str) -> None:
    sqlite_runs.create()
    sqlite_runs.close()
    spoil(sqlite_runs.paths)
    with pytest.raises(UserError, match=message):
        sqlite_runs.open()


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        Store.open(RunPaths.at(tmp_path / "missing"))


def test_the_store_of_another_run(sqlite_runs: Runs, filled: Store, tmp_path: Path) -> None:
    other = Runs(tmp_path / "other", None)
    other.create()
    other.close()
    sqlite_runs.close()
    other.paths.sqlite_file.replace(sqlite_runs.paths.sqlite_file)
    with pytest.raises(UserError, match="has no records of run"):
        sqlite_runs.open()


def test_a_full_disk_is_said_and_loses_nothing(sqlite_runs: Runs) -> None:
    store = sqlite_runs.create()
    lease = store.acquire(host="h", pid=1)
    store.add_trials(lease, [trial("a")])
    database = store._database
    assert database is not None
    with database.engine.connect() as connection:  # SQLite answers as it does to a disk without space
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(UserError, match=r"No space left for .*store\.sqlite: free some and run the same command again"):
        store.add_trials(lease, [trial(f"t{n}") for n in range(2000)])
    assert store.statuses() == {"a": "pending"}
    store.renew(lease)


def test_a_disk_that_fails_loses_nothing(sqlite_runs: Runs) -> None:
    """Here it refuses to let a file grow."""
    code = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from run_stores import Runs, trial
from flaxcomp.errors import UserError
store = Runs(Path(sys.argv[1]), None).create()
lease = store.acquire(host="h", pid=os.getpid())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
n = 0
try:
    while True:
        store.add_trials(lease, [trial(f"t{n + k}") for k in range(100)])
        n += 100
except UserError as error:
    print(n, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, sqlite_runs.paths.root, Path(__file__).parent], capture_output=True, text=True, check=True
    )
    written, _, message = done.stdout.partition(" ")
    assert "(disk I/O error): check that the folder exists, its permissions and the disk" in message
    assert sqlite_runs.open().counts()["pending"] == int(written) > 0


def test_reading_imports_no_sqlalchemy(sqlite_runs: Runs, filled: Store) -> None:
    code = """
import sys
from flaxcomp.store.lease import Lease
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
store = Store.open(RunPaths.at(sys.argv[1]))
store.counts(), store.running(), store.controller(), store.frame()
print(sorted({"sqlalchemy", "jax", "tensorflow", "ray", "numpy", "rich", "pyarrow", "yaml"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, sqlite_runs.paths.root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fork_of_these_tests_has_fewer_rights(open_folder: Path) -> None:
    require(os.geteuid() == 0 or not os.access("/", os.W_OK), "a user without rights on the root folder")
    assert without_rights(lambda: os.access("/", os.W_OK)) == "False"
