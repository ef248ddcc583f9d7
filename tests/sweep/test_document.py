import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.errors import SweepFileError
from flaxcomp.sweep.document import MAX_BYTES, parse, read_text


def fault(text: str) -> SweepFileError:
    with pytest.raises(SweepFileError) as caught:
        parse(text, "s.yaml")
    assert caught.value.file == "s.yaml"
    return caught.value


def value(text: str) -> object:
    return parse(text, "s.yaml").value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3.", -3.0),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2020-01-01", "2020-01-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ('"null"', "null"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, expected: object) -> None:
    found = value(f"- {text}")
    assert found == [expected]
    assert type(found[0]) is type(expected)  # type: ignore[index]


def test_negative_zero_is_zero() -> None:
    assert str(value("[-0.0]")) == "[0.0]"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_comes_back(number: float) -> None:
    assert value(f"[{number!r}]") == [number]


def test_lines_of_keys_items_and_merged_parts() -> None:
    place = parse("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\nc:\n  - 1\n  - k: *a\n", "s.yaml").place
    lines = {
        route: place.at(route).line for route in [("a",), ("a", "y"), ("b", "x"), ("b", "y"), ("c", 1, "k"), ("c", 1, "k", "y")]
    }
    assert lines == {("a",): 1, ("a", "y"): 3, ("b", "x"): 2, ("b", "y"): 6, ("c", 1, "k"): 9, ("c", 1, "k", "y"): 3}
    assert place.at(("b", "unknown", "deeper")).line == 4  # the nearest that is known


def test_merge_gives_what_is_not_written() -> None:
    assert value("a: &a {x: 1, y: 2}\nb: {y: 3, <<: *a}\nc: {<<: [*a, {x: 9, z: 4}]}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' stands here twice, first in line 1"),
        ("a:\n  1: 2", 2, "a key must be text, got 1"),
        ("a:\n  true: 2", 2, "a key must be text, got true"),
        ("a: 1\nb: .inf", 2, "must be finite"),
        ("a: -1e999", 1, "must be finite"),
        ("a: .NaN", 1, "must be finite"),
        (f"a: {'9' * 5000}", 1, "64 bits"),
        (f"a: {1 << 63}", 1, "64 bits"),
        ("a: [1\nb: 2", 2, "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tags"),
        ("a: !!set {x}", 1, "tags"),
        ("a: *b", 1, "names no anchor"),
        ("a: 1\n---\nb: 2", 2, "a second one starts"),
        ("a: {<<: 3}", 1, "merges a mapping"),
        ("- " * 100_000, 1, "nested"),
        ("[" * 100_000, 1, "nested"),
        ("{a: " * 100_000, 1, "nested"),
    ],
)
def test_refused_with_the_line(text: str, line: int, words: str) -> None:
    error = fault(text)
    assert error.line == line
    assert words in str(error)


def test_an_alias_that_contains_itself_is_shown_as_a_cycle() -> None:
    error = fault("base:\n  distill: &d\n    teacher:\n      distill: *d\n")
    assert error.line == 4
    assert "base.distill -> base.distill.teacher -> base.distill.teacher.distill -> base.distill" in str(error)


@pytest.mark.parametrize("bomb", ["list", "mapping", "merge"])
def test_alias_bombs_are_refused_quickly(bomb: str) -> None:
    if bomb == "list":
        lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    elif bomb == "mapping":
        lines = ["a0: &a0 {x: 1}"]
        lines += [f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 30)]
    else:
        lines = [f"a: &a {{{', '.join(f'k{i}: 1' for i in range(2000))}}}"] + [f"b{i}: {{<<: *a}}" for i in range(20_000)]
    started = time.process_time()
    assert "aliases written out" in str(fault("\n".join(lines)))
    assert time.process_time() - started < 5


def test_a_large_file_is_refused_before_it_is_read(tmp_path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(SweepFileError, match="1 MiB"):
        read_text(path, "s.yaml")
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_text(path, "s.yaml")) == MAX_BYTES


@pytest.mark.parametrize("data", [b"a: 1\nb: \xff\xfe\n", b"a: 1\nb: '\xc3'\n"])
def test_not_utf8_names_the_line(tmp_path, data: bytes) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(data)
    with pytest.raises(SweepFileError, match="UTF-8") as caught:
        read_text(path, "s.yaml")
    assert caught.value.line == 2


def test_a_byte_order_mark_is_no_text(tmp_path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes("\ufeffa: ä".encode())
    assert value(read_text(path, "s.yaml")) == {"a": "ä"}


def test_missing_files_and_folders(tmp_path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SweepFileError, match="cannot read"):
            read_text(path, str(path))
