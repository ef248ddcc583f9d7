"""What has happened is on disk before anything depends on it, also where a write fails amid many."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flaxcomp.schedule.controller import Controller, acquire
from flaxcomp.store.paths import RunPaths
from flaxcomp.store.records import Store
from flaxcomp.sweep.spec import Resources
from flaxcomp.train.job import PackJob
from test_controller import SWEEP, Scripted, Silent
from test_scale import trials

SLOTS = 3


class Suspicious(Scripted):
    """Looks into the file, as a program started after a crash would, before it begins a pack."""

    def __init__(self, paths: RunPaths) -> None:
        super().__init__(slots=SLOTS)
        self._file = paths.sqlite_file

    def start(self, job: PackJob) -> None:
        with sqlite3.connect(self._file) as disk:
            attempt = "SELECT attempt, outcome FROM attempts WHERE pack_id = ? ORDER BY attempt DESC LIMIT 1"
            assert disk.execute(attempt, (job.pack_id,)).fetchone() == (job.attempt, "running")
            for teacher in job.teachers:
                status = disk.execute("SELECT status FROM trials WHERE trial_id = ?", (teacher,)).fetchone()
                assert status == ("finished",), "a student begins before its teacher's end is on disk"
        super().start(job)


class FaultError(Exception):
    pass


def train(paths: RunPaths, executor: Scripted, fail_at: int | None = None) -> int:
    """Train forty trials; return how many statements that took. The write with the given number fails."""
    written = 0

    def count(*_: Any) -> None:
        nonlocal written
        written += 1
        if written == fail_at:
            raise FaultError

    with Store.create(paths, name="n", sweep_text="x", sweep_json=SWEEP) as store:
        lease = acquire(store)
        assert store._database is not None
        engine = store._database.engine
        sa.event.listen(engine, "before_cursor_execute", count)
        try:
            Controller(store, paths, trials(40), executor, Silent(), Resources(pack=2)).run(lease)
        finally:
            sa.event.remove(engine, "before_cursor_execute", count)
            store.release(lease)
    return written


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> int:
    paths = RunPaths.at(tmp_path_factory.mktemp("whole") / "run")
    return train(paths, Suspicious(paths))


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.65, 0.8, 0.99])
def test_a_write_that_fails_anywhere_loses_no_trial_and_repeats_none_that_is_recorded(
    tmp_path: Path, statements: int, share: float
) -> None:
    paths = RunPaths.at(tmp_path / "run")
    with pytest.raises(FaultError):
        train(paths, Suspicious(paths), fail_at=int(share * statements))
    with sqlite3.connect(paths.sqlite_file) as disk:
        recorded = {row[0] for row in disk.execute("SELECT trial_id FROM trials WHERE status = 'finished'")}
    again = Suspicious(paths)
    train(paths, again)
    assert recorded.isdisjoint(trial for job in again.jobs for trial in job.configs)
    with sqlite3.connect(paths.sqlite_file) as disk:
        assert disk.execute("SELECT status, count(*) FROM trials GROUP BY status").fetchall() == [("finished", 40)]
        assert disk.execute("SELECT count(*), count(DISTINCT trial_id) FROM epochs").fetchone() == (40, 40)
        assert disk.execute("SELECT count(*) FROM packs WHERE status <> 'closed'").fetchone() == (0,)
        assert disk.execute("SELECT count(*) FROM attempts WHERE ended_at IS NULL").fetchone() == (0,)
