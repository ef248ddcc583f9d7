"""Expressions over rows, as `exclude` and `constraints` hold them: `model.name == 'wide' and distill.temperature == 10`.

    names        dotted columns: size_bytes, train.optimizer.learning_rate
    literals     1  1e-3  512 KiB  'text'  "text"  true  false  null (also True, False, None)  [1, 2]
    units        B  KB MB GB TB (powers of 1000)  KiB MiB GiB TiB (powers of 1024), after a number
    arithmetic   + - * / // %
    comparison   == != < <= > >=, chained as in Python; in, not in
    logic        and or not, parentheses
    missing      x is null, x is not null (or == and !=)

A column that a row lacks, or where it holds None, is missing. Arithmetic with something missing, or a division by zero, is
missing too; a comparison with it is false (so `not x > 3` is true where x is missing), and so is `x` alone. For the rest,
values are what they are in Python. Nothing is ever given to Python's own `eval`.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from flaxcomp.errors import UserError
from flaxcomp.sweep.sizes import UNITS

MAX_LENGTH = 1000
MAX_DEPTH = 50

Row = Mapping[str, Any]
Evaluate = Callable[[Row], Any]

_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_WORDS = {"and", "or", "not", "in", "is"}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
  | (?P<text>'[^'\\\n]*'|"[^"\\\n]*")
  | (?P<name>[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_0-9]+)*)
  | (?P<sign>==|!=|<=|>=|//|[-+*/%<>()\[\],])
  | (?P<end>$)
    )""",
    re.VERBOSE,
)
_ORDERINGS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_SUMS = {"+": operator.add, "-": operator.sub}
_PRODUCTS = {"*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod}


class ExpressionError(UserError):
    """An expression does not parse, or compares what cannot be compared."""


@dataclass(frozen=True)
class Expression:
    """A compiled expression; call it with a row.

    Attributes:
        text: as it was written.
        names: the columns it reads.
    """

    text: str
    names: frozenset[str]
    evaluate: Evaluate

    def __call__(self, row: Row) -> Any:
        """Evaluate the expression on one row.

        Raises:
            ExpressionError: text is ordered against a number, or calculated with.
        """
        return self.evaluate(row)


def compile_expression(text: str) -> Expression:
    """Compile an expression; its names are not checked, see `Expression.names`.

    >>> compile_expression("size_bytes <= 512 KiB")({"size_bytes": 524288})
    True

    Raises:
        ExpressionError: it does not parse, is longer than `MAX_LENGTH` or nested deeper than `MAX_DEPTH`.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expression may have {MAX_LENGTH} characters at most, got {len(text)}")
    parser = _Parser(text)
    evaluate = parser.whole()
    return Expression(text, frozenset(parser.names), evaluate)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent; every method returns a function from a row to a value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.names: set[str] = set()
        self._tokens = self._tokenize()
        self._position = 0
        self._depth = 0

    def whole(self) -> Evaluate:
        value = self._either()
        if self._here.kind != "end":
            raise self._error(self._here, f"{self._here.text!r} does not fit here")
        return value

    def _tokenize(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while not tokens or tokens[-1].kind != "end":
            match = _TOKEN.match(self._text, at)
            if match is None:
                start = at + len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._error(_Token("", "", start), f"{self._text[start]!r} does not fit here")
            kind = str(match.lastgroup)
            text = match[kind]
            tokens.append(_Token("word" if text in _WORDS else kind, text, match.start(kind)))
            at = match.end()
        return tokens

    @property
    def _here(self) -> _Token:
        return self._tokens[self._position]

    def _error(self, token: _Token, problem: str) -> ExpressionError:
        return ExpressionError(f"in {self._text!r}, character {token.at + 1}: {problem}")

    def _take(self, *texts: str) -> str | None:
        """Step over the next token if it is one of these signs or words."""
        if self._here.kind in ("sign", "word") and self._here.text in texts:
            self._position += 1
            return self._tokens[self._position - 1].text
        return None

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._error(self._here, f"expected {text!r}, got {self._here.text or 'the end'!r}")

    def _nested(self, inner: Callable[[], Evaluate]) -> Evaluate:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(self._here, f"nested deeper than {MAX_DEPTH}")
        value = inner()
        self._depth -= 1
        return value

    def _either(self) -> Evaluate:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda row: _first(parts, row, stop_at=True)

    def _both(self) -> Evaluate:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else lambda row: _first(parts, row, stop_at=False)

    def _negation(self) -> Evaluate:
        if self._take("not"):
            value = self._nested(self._negation)
            return lambda row: not value(row)
        return self._comparison()

    def _comparison(self) -> Evaluate:
        first = self._sum()
        links: list[tuple[Callable[[Any, Any], bool], Evaluate]] = []
        while (sign := self._comparison_sign()) is not None:
            token = self._here
            right = self._sum()
            literal_null = token.text in ("null", "None") and self._tokens[self._position - 1] is token
            if sign in ("is", "is not") and not literal_null:
                raise self._error(token, f"{sign!r} is followed by null")
            links.append((_NULL_TESTS[sign] if literal_null and sign in _NULL_TESTS else self._compare(sign), right))
        if not links:
            return first
        if len(links) == 1:
            ((compare, right),) = links
            return lambda row: compare(first(row), right(row))
        return lambda row: _chain(first, links, row)

    def _comparison_sign(self) -> str | None:
        if self._take("not"):
            self._expect("in")
            return "not in"
        if self._take("is"):
            return "is not" if self._take("not") else "is"
        return self._take("==", "!=", *_ORDERINGS, "in")

    def _compare(self, sign: str) -> Callable[[Any, Any], bool]:
        if sign == "==":
            return lambda a, b: a is not None and b is not None and bool(a == b)
        if sign == "!=":
            return lambda a, b: a is not None and b is not None and bool(a != b)
        compare = _ORDERINGS.get(sign) or (_contains if sign == "in" else _lacks)

        def guarded(a: Any, b: Any) -> bool:
            if a is None or b is None:
                return False
            try:
                return bool(compare(a, b))
            except TypeError:
                raise ExpressionError(f"in {self._text!r}: cannot tell whether {a!r} {sign} {b!r}") from None

        return guarded

    def _sum(self) -> Evaluate:
        return self._calculation(self._product, _SUMS)

    def _product(self) -> Evaluate:
        return self._calculation(self._signed, _PRODUCTS)

    def _calculation(self, operand: Callable[[], Evaluate], signs: Mapping[str, Callable[[Any, Any], Any]]) -> Evaluate:
        first = operand()
        links: list[tuple[str, Evaluate]] = []
        while sign := self._take(*signs):
            links.append((sign, operand()))
        if not links:
            return first

        def value(row: Row) -> Any:  # a loop, because a thousand terms must not be a thousand calls deep
            result = first(row)
            for sign, right in links:
                result = self._calculate(sign, signs[sign], result, right(row))
            return result

        return value

    def _calculate(self, sign: str, calculate: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        if not (isinstance(a, int | float) and isinstance(b, int | float)):  # 'a' * 10**9 would fill the memory
            raise ExpressionError(f"in {self._text!r}: cannot calculate {a!r} {sign} {b!r}")
        try:
            return calculate(a, b)
        except ArithmeticError:
            return None

    def _signed(self) -> Evaluate:
        if self._take("-"):
            value = self._nested(self._signed)
            return lambda row: self._calculate("-", operator.sub, 0, value(row))
        if self._take("+"):
            return self._nested(self._signed)
        return self._atom()

    def _atom(self) -> Evaluate:
        token = self._here
        self._position += 1
        if token.kind == "number":
            number = int(token.text) if token.text.isdigit() else float(token.text)
            return _constant(number * self._unit())
        if token.kind == "text":
            return _constant(token.text[1:-1])
        if token.kind == "name":
            if token.text in _CONSTANTS:
                return _constant(_CONSTANTS[token.text])
            name = token.text
            self.names.add(name)
            return lambda row: _text_of_list(row.get(name))
        if token.text == "(":
            value = self._nested(self._either)
            self._expect(")")
            return value
        if token.text == "[":
            return self._nested(self._list)
        self._position -= 1
        raise self._error(token, f"expected a value, got {token.text!r}" if token.text else "a value is missing at the end")

    def _unit(self) -> int:
        token = self._here
        if token.kind != "name":
            return 1
        if token.text not in UNITS:
            raise self._error(token, f"{token.text!r} is no unit; known: {', '.join(UNITS)}")
        self._position += 1
        return UNITS[token.text]

    def _list(self) -> Evaluate:
        items: list[Evaluate] = []
        while not self._take("]"):
            items.append(self._either())
            if not self._take(","):
                self._expect("]")
                break
        return lambda row: [item(row) for item in items]


def _constant(value: Any) -> Evaluate:
    return lambda _: value


def _first(parts: Iterable[Evaluate], row: Row, *, stop_at: bool) -> Any:
    """The first value whose truth is `stop_at`, else the last value: `or` and `and` of Python."""
    value = None
    for part in parts:
        value = part(row)
        if bool(value) is stop_at:
            break
    return value


def _text_of_list(value: Any) -> Any:
    """A list as its JSON text, which can be compared."""
    return msgspec.json.encode(value).decode() if isinstance(value, list) else value


def _chain(first: Evaluate, links: list[tuple[Callable[[Any, Any], bool], Evaluate]], row: Row) -> bool:
    left = first(row)
    for compare, right_of in links:
        right = right_of(row)
        if not compare(left, right):
            return False
        left = right
    return True


def _contains(item: Any, values: Any) -> bool:
    return item in values


def _lacks(item: Any, values: Any) -> bool:
    return item not in values


_NULL_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "is": lambda a, _: a is None,
    "==": lambda a, _: a is None,
    "is not": lambda a, _: a is not None,
    "!=": lambda a, _: a is not None,
}
