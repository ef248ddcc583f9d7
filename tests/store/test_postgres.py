"""What is special to a server: its URL, its password, its absence, its loss."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from flaxcomp.errors import UserError
from flaxcomp.store.database import parse_url
from run_stores import Runs, trial

pytest_plugins = ("store_fixtures",)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_any_postgresql_url_means_psycopg_3(scheme: str) -> None:
    assert parse_url(f"{scheme}://me@host/db").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("text", "got"), [("mysql://h/db", "mysql://"), ("runs/store", "cannot be read"), ("", "cannot be read")]
)
def test_other_addresses_are_refused(text: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=got):
        Runs(tmp_path / "run", None).create(url=text or "//")
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)Cannot use the store .*Check the address"):
        Runs(tmp_path / "run", "postgresql://me:secret@127.0.0.1:1/db").create()


@pytest.mark.integration
def test_a_password_is_used_but_not_written(new_database: Callable[[], str], tmp_path: Path) -> None:
    url = new_database()
    runs = Runs(tmp_path / "run", url.replace("flaxcomp@", "flaxcomp:secret@") + "&password=secret")
    store = runs.create()
    assert "secret" not in runs.paths.run_file.read_text()
    assert "secret" not in store.url
    assert runs.open().name() == "study"
    assert runs.create(url=url).run_id == store.run_id
    runs.close()


@pytest.mark.integration
def test_a_run_stays_in_its_database(new_database: Callable[[], str], tmp_path: Path) -> None:
    runs = Runs(tmp_path / "run", new_database())
    runs.create()
    with pytest.raises(UserError, match="leave the store out, or use a new run folder"):
        runs.create(url=new_database())
    runs.close()


@pytest.mark.integration
def test_an_empty_database_is_not_a_store(new_database: Callable[[], str], tmp_path: Path) -> None:
    runs = Runs(tmp_path / "run", new_database())
    runs.create()
    run_file = runs.paths.run_file
    named = msgspec.json.decode(run_file.read_bytes())
    for url, message in (
        (new_database(), "is not a store of flaxcomp"),
        (runs.url.replace("/test", "/none"), "Cannot use the store"),
    ):
        run_file.write_bytes(msgspec.json.encode(named | {"store_url": url}))
        with pytest.raises(UserError, match=message):
            runs.open()
    runs.close()


@pytest.mark.integration
def test_a_connection_that_the_server_ends_is_made_again(new_database: Callable[[], str], tmp_path: Path) -> None:
    runs = Runs(tmp_path / "run", new_database())
    store = runs.create()
    lease = store.acquire(host="h", pid=1)
    engine = sa.create_engine(parse_url(runs.url or ""), isolation_level="AUTOCOMMIT")
    with engine.connect() as other:
        other.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    engine.dispose()
    store.add_trials(lease, [trial("a")])
    assert store.statuses() == {"a": "pending"}
    runs.close()
