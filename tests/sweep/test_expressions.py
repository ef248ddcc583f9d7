import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcomp.sweep.expressions import MAX_LENGTH, ExpressionError, compile_expression

ROW = {"size_bytes": 524288, "model.name": "v5", "distill.lambda": 0.2, "empty": None, "flag": True, "zero": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size_bytes <= 512 KiB", True),
        ("size_bytes < 512KiB", False),
        ("size_bytes < 0.6 MB", True),
        ("2 GiB == 2 * 1024 MiB", True),
        ("model.name == 'v5' and distill.lambda < 1", True),
        ('model.name in ["v1", "v5"]', True),
        ("model.name not in ['v5']", False),
        ("'v' in model.name", True),
        ("1 < 3 < 2", False),
        ("1 < 2 < 3 != 4", True),
        ("not flag or zero == 0", True),
        ("-7 // 2 == -4 and -7 % 3 == 2", True),
        ("2 - 3 - 4 == -5 and 12 / 3 / 2 == 2", True),
        ("1e3 == 1000 and .5 == 0.5", True),
        ("flag == true and flag == True", True),
    ],
)
def test_values(text: str, expected: bool) -> None:
    assert compile_expression(text)(ROW) is expected


@pytest.mark.parametrize("name", ["empty", "absent", "absent + 1", "1 / zero", "-absent"])
@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">=", "in", "not in"])
def test_a_comparison_with_something_missing_is_false(name: str, sign: str) -> None:
    assert compile_expression(f"{name} {sign} [1]" if "in" in sign else f"{name} {sign} 1")(ROW) is False
    assert not compile_expression(name)(ROW)


def test_missing_can_be_asked_for() -> None:
    for text in ("absent is null", "empty is None", "absent == null", "zero is not null", "zero != None"):
        assert compile_expression(text)(ROW) is True, text
    for text in ("zero is null", "zero == null", "absent is not null", "absent != null"):
        assert compile_expression(text)(ROW) is False, text


def test_names_are_those_that_are_read() -> None:
    expression = compile_expression("a.b < 2 KiB and (c or d in [e, 'f', true])")
    assert expression.names == {"a.b", "c", "d", "e"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 1: a value is missing"),
        ("1 +", "character 4: a value is missing at the end"),
        ("((1)", "expected ')', got 'the end'"),
        ("a b", "character 3: 'b' does not fit here"),
        ("a $ b", "character 3: '$' does not fit here"),
        ("3 KiX", "'KiX' is no unit"),
        ("a is 2", "followed by null"),
        ("a not b", "expected 'in'"),
        ("[1, 2", "expected ']'"),
        ("a = 1", "'=' does not fit here"),
        ("__import__('os')", "'(' does not fit here"),
        ("2 ** 3", "expected a value, got '*'"),
        ("(" * 60 + "1" + ")" * 60, "nested deeper"),
        ("not " * 60 + "1", "nested deeper"),
        ("-" * 60 + "1", "nested deeper"),
        ("[" * 60, "nested deeper"),
        ("1" * (MAX_LENGTH + 1), "at most"),
    ],
)
def test_what_does_not_parse_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["model.name < 3", "3 in 4", "model.name + 1 == 2", "'a' * 1000000000 == 1", "[1] * 9 == 1", "-'a' == 1"]
)
def test_what_cannot_be_compared_is_an_error(text: str) -> None:
    with pytest.raises(ExpressionError, match="cannot"):
        compile_expression(text)(ROW)


def test_a_thousand_terms_are_not_a_thousand_calls_deep() -> None:
    assert compile_expression("1" + "+1" * 499)({}) == 500
    assert compile_expression("1" + " or 1" * 190)({}) == 1


# Python itself is the reference for whatever it also understands.
NUMBERS = st.one_of(st.integers(0, 50).map(str), st.floats(0, 50).map(lambda x: f"{x:.3f}"), st.sampled_from(["x", "y", "z"]))
TEXTS = st.sampled_from(["'a'", '"ab"', "s", "''"])


def _binary(signs: list[str]) -> Any:
    return lambda inner: st.tuples(inner, st.sampled_from(signs), inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}")


ARITHMETIC = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        _binary(["+", "-", "*", "/", "//", "%"])(inner),
        inner.map(lambda t: f"({t})"),
        inner.map(lambda t: f"-{t}"),
    ),
    max_leaves=6,
)
COMPARISONS = st.one_of(
    st.lists(ARITHMETIC, min_size=2, max_size=4).flatmap(
        lambda parts: st.lists(
            st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), min_size=len(parts) - 1, max_size=len(parts) - 1
        ).map(lambda signs: parts[0] + "".join(f" {sign} {part}" for sign, part in zip(signs, parts[1:], strict=True)))
    ),
    _binary(["==", "!=", "<", ">=", "in", "not in"])(TEXTS),
    st.tuples(ARITHMETIC, st.sampled_from(["in", "not in"]), st.lists(ARITHMETIC, max_size=3)).map(
        lambda t: f"{t[0]} {t[1]} [{', '.join(t[2])}]"
    ),
)
LOGIC = st.recursive(
    st.one_of(COMPARISONS, ARITHMETIC, st.sampled_from(["True", "False"])),
    lambda inner: st.one_of(_binary(["and", "or"])(inner), inner.map(lambda t: f"not ({t})"), inner.map(lambda t: f"({t})")),
    max_leaves=5,
)


@given(LOGIC, st.integers(-5, 5), st.floats(-5, 5), st.booleans(), st.sampled_from(["a", "ab", ""]))
def test_agrees_with_python(text: str, x: int, y: float, z: bool, s: str) -> None:
    row = {"x": x, "y": y, "z": z, "s": s}
    try:
        expected = eval(text, {"__builtins__": {}}, row)
    except ArithmeticError:  # division by zero is missing here and an error there
        return
    if len(text) > MAX_LENGTH:
        return
    found = compile_expression(text)(row)
    assert found == expected or (isinstance(expected, float) and math.isnan(expected))
