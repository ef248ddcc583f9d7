"""Weight files and model folders from outside a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flaxcomp.checkpoint import weights
from flaxcomp.checkpoint.models import load_model, save_models
from flaxcomp.errors import UserError

ARRAYS = {"a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(3, np.float16)}


def write(folder: Path, kind: str) -> Path:
    file = folder / f"weights.{kind}"
    if kind == "npz":
        np.savez(file, **ARRAYS)  # type: ignore[arg-type]
    elif kind == "safetensors":
        save_file(ARRAYS, file)
    else:
        save_models({file: {"params": {"a": {"kernel": ARRAYS["a.kernel"]}}, "stats": {}}})
    return file


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_files_are_read_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, kind).rename(tmp_path / "w")
    weights.check(file)
    read = weights.read(file)
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_every_damage_is_refused(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path, kind)
    whole = file.read_bytes()
    for content in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], b"\x80\x02}q" + whole, b"PK" + whole[2:40]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"a .safetensors or .npz file must be given; this one cannot be read"):
            weights.check(file)


def test_what_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", a=np.asarray(["x"]))
    with pytest.raises(UserError, match="weights must be numbers, 'a' is <U1"):
        weights.check(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", a=np.asarray([{}], object))
    with pytest.raises(UserError, match="cannot be read"):  # it would have to be unpickled
        weights.check(tmp_path / "objects.npz")


def test_folders(tmp_path: Path) -> None:
    folder = write(tmp_path, "model")
    weights.check(folder)
    for path, words in ((tmp_path / "gone", "there is nothing"), (tmp_path, "this is none")):
        with pytest.raises(UserError, match=words):
            weights.check(path)
    (folder / "_METADATA").write_text('{"tree_metadata": {"(\'w\',)": {}}}')
    with pytest.raises(UserError, match="another checkpoint"):
        weights.check(folder)
    (folder / "_METADATA").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        weights.check(folder)


@pytest.mark.parametrize("kind", ["npz", "model"])
def test_the_fingerprint_is_of_the_content(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind)
    before = weights.fingerprint(source)
    source = source.rename(tmp_path / "elsewhere")
    assert weights.fingerprint(source) == before
    changed = source if source.is_file() else source / "_METADATA"
    changed.write_bytes(changed.read_bytes() + b" ")
    assert weights.fingerprint(source) != before


@pytest.mark.parametrize("kind", ["npz", "model"])
def test_a_copy_is_whole_or_not_there(tmp_path: Path, kind: str) -> None:
    source, target = write(tmp_path, kind), tmp_path / "run" / "weights" / "copy"
    content = weights.fingerprint(source)
    with pytest.raises(UserError, match="have changed while they were read"):
        weights.keep(source, "0" * 64, target)
    assert list(target.parent.iterdir()) == []
    weights.keep(source, content, target)
    assert weights.fingerprint(target) == content
    if kind == "model":
        np.testing.assert_array_equal(load_model(target)["params"]["a"]["kernel"], ARRAYS["a.kernel"])
        shutil.rmtree(source)
    else:
        source.unlink()
    weights.keep(source, content, target)  # is there already
    assert [path.name for path in target.parent.iterdir()] == ["copy"]
