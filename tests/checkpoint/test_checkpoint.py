"""Orbax files: what is written comes back, what is damaged is not believed."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxcomp.checkpoint import room, trees
from flaxcomp.checkpoint.models import load_model, save_models
from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.errors import UserError


def state(seed: int) -> trees.Flat:
    rng = np.random.default_rng(seed)
    return {
        "train/params/a/0/kernel": rng.normal(size=(8, 40, 40)).astype(np.float32),
        "train/opt/count": np.asarray(3, np.int32),
    }


def damage(folder: Path) -> None:
    """Turn one bit in the middle of the largest file."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def overwrite(folder: Path) -> None:
    """Overwrite twelve bytes in each of the files that the arrays lie in."""
    for file in (folder / "d").iterdir():
        content = bytearray(file.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 12] = b"twelve bytes"
        file.write_bytes(content)


def many(seed: int) -> trees.Flat:
    """So many arrays that some are still being read when the first turns out to be damaged."""
    rng = np.random.default_rng(seed)
    return {f"params/layers/{i}/kernel": rng.normal(size=(3, 3, 16, 16)).astype(np.float32) for i in range(20)}


READING = """
import sys
from pathlib import Path
from flaxcomp.checkpoint.models import load_model
from flaxcomp.checkpoint.packs import PackCheckpoints
from flaxcomp.errors import UserError
with PackCheckpoints(Path(sys.argv[1]), 2) as checkpoints:
    print(checkpoints.restore(lambda note: print(note, file=sys.stderr))[0])
try:
    load_model(Path(sys.argv[2]))
except UserError as error:
    print(error, file=sys.stderr)
"""


def write(folder: Path, *epochs: int) -> None:
    with PackCheckpoints(folder, 1) as checkpoints:
        for epoch in epochs:
            checkpoints.save(epoch, state(epoch), {"epoch": epoch})


def restore(folder: Path, attempt: int = 2) -> tuple[tuple[int, trees.Flat, dict[str, object]] | None, list[str]]:
    notes: list[str] = []
    with PackCheckpoints(folder, attempt) as checkpoints:
        return checkpoints.restore(notes.append), notes


def test_newest_comes_back_bit_for_bit_to_the_next_attempt(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    found, notes = restore(tmp_path)
    assert found is not None
    assert (found[0], found[2]["epoch"], notes) == (3, 3, [])
    for name, array in state(3).items():
        np.testing.assert_array_equal(found[1][name], array)
        assert found[1][name].dtype == array.dtype


def test_only_two_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    assert sorted(int(p.name) for p in (tmp_path / "1").iterdir() if p.name.isdigit()) == [3, 4]


def test_a_step_is_written_once(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 2)  # stopped right after an epoch's checkpoint
    found, notes = restore(tmp_path)
    assert found is not None
    assert (found[0], notes) == (2, [])


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(room, "SPARE_BYTES", 1 << 62)
    with pytest.raises(OSError, match="No space left") as caught, PackCheckpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(2, state(2), {"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        save_models({tmp_path / "models" / "a": {"params": {"k": np.ones(3)}, "stats": {}}})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    damage(tmp_path / "1" / "2")
    found, notes = restore(tmp_path)
    assert found is not None
    assert found[0] == 1
    assert len(notes) == 1
    assert "checkpoint 2 is damaged" in notes[0]
    np.testing.assert_array_equal(found[1]["train/params/a/0/kernel"], state(1)["train/params/a/0/kernel"])


def test_all_damaged_means_from_the_start(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    damage(tmp_path / "1" / "1")
    damage(tmp_path / "1" / "2")
    found, notes = restore(tmp_path)
    assert found is None
    assert [note.rpartition(": ")[2] for note in notes] == [
        "going back to the one before",
        "none is left before it, training starts anew",
    ]


def test_an_older_attempt_that_still_writes_does_not_meet_the_new_one(tmp_path: Path) -> None:
    with PackCheckpoints(tmp_path, 1) as old:
        old.save(1, state(1), {"epoch": 1})
        old.wait()
        with PackCheckpoints(tmp_path, 2) as new:
            found = new.restore(print)
            assert found is not None
            old.save(2, state(5), {"epoch": 2})
            new.save(2, state(2), {"epoch": 2})
    found, _ = restore(tmp_path, attempt=3)
    assert found is not None
    assert found[0] == 2


def test_models_round_trip_without_a_template(tmp_path: Path) -> None:
    model = {
        "params": {"convolutions": {0: {"kernel": np.ones((2, 3), np.float32)}, 11: {"kernel": np.zeros(4, np.float32)}}},
        "stats": {},
    }
    save_models({tmp_path / "a": model, tmp_path / "b": model})
    loaded = load_model(tmp_path / "a")
    assert loaded["stats"] == {}
    assert list(loaded["params"]["convolutions"]) == [0, 11]
    np.testing.assert_array_equal(loaded["params"]["convolutions"][0]["kernel"], np.ones((2, 3)))


def test_a_missing_or_damaged_model_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Has its trial finished"):
        load_model(tmp_path / "none")
    save_models({tmp_path / "a": {"params": {"k": np.random.default_rng(0).normal(size=3000)}, "stats": {}}})
    damage(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(tmp_path / "a")


def test_damage_is_told_of_in_a_line_and_nothing_else(tmp_path: Path) -> None:
    with PackCheckpoints(tmp_path / "pack", 1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, many(step), {})
    save_models({tmp_path / "model": trees.nest(many(3))})
    overwrite(tmp_path / "pack" / "1" / "2" / "state")
    overwrite(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", READING, tmp_path / "pack", tmp_path / "model"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert "Traceback" not in done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("checkpoint 2 is damaged (")
    assert first.endswith(": going back to the one before")
    assert second.startswith(f"{tmp_path}/model: the trained network cannot be read (")


def test_every_kind_of_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    params = {
        "scalar": np.asarray(-3, np.int32), "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "mask": np.asarray([True, False]), "key": np.arange(4, dtype=np.uint32), "a.b *": np.arange(5.0),
    }  # fmt: skip
    save_models({tmp_path / "a": {"params": params, "stats": {}}})
    loaded = load_model(tmp_path / "a")["params"]
    assert loaded.keys() == params.keys()
    for name, array in params.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)


def test_unflatten_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"a/b: the network needs shape \(3,\), the checkpoint has \(2,\)"):
        trees.unflatten({"a/b": np.zeros(2)}, {"a": {"b": np.zeros(3)}})
