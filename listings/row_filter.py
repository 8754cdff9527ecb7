"""The filter language of rows: text in, parameterized DuckDB condition out. Pure.

    carrier = 'UA' and (dep_delay > 15 or dep_delay is null) and not dest in ('SFO', 'LAX')

Grammar (keywords in any case, columns exactly as in the schema, ``"quoted"`` when needed):

    expression = term { "or" term }
    term       = factor { "and" factor }
    factor     = "not" factor | "(" expression ")" | predicate
    predicate  = column ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) literal
               | column ["not"] "in" "(" literal { "," literal } ")"
               | column ["not"] "like" string
               | column "is" ["not"] "null"
    literal    = string | number | "true" | "false"

Literals never enter the SQL text: they become parameters. Column names come from the version's
own schema and are quoted. Dates and times are ISO 8601 strings in the years 1 to 9999, or 1678 to
2261 where a column keeps nanoseconds. NULL compares as in SQL, and NaN compares like NULL.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal

from listings.errors import FilterInvalid
from listings.typed_columns import Column, Family

FILTER_MAX_CHARS = 4_096
FILTER_MAX_DEPTH = 24
FILTER_MAX_LITERALS = 500
# DuckDB's DECIMAL holds 38 digits.
NUMBER_MAX_DIGITS = 38
INT64_MAX = 2**63 - 1
# Whole years that 64 bits of nanoseconds reach; DuckDB fails to compare them with any other.
NANOSECOND_YEARS = range(1678, 2262)

Parameter = str | bytes | int | float | bool | Decimal | date | datetime | time

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<number>-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)
    | (?P<word>[^\W\d]\w*)
    | (?P<operator><=|>=|!=|<>|=|<|>)
    | (?P<mark>[(),])
    """,
    re.VERBOSE,
)
_OPERATORS = {"=": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "like", "true", "false"})
_ORDERED = frozenset(Family) - {Family.BOOLEAN, Family.OTHER}


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL with ``?`` placeholders, and their values in order."""

    sql: str
    parameters: tuple[Parameter, ...]


ALWAYS = Condition("TRUE", ())


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int

    @property
    def keyword(self) -> str | None:
        lowered = self.text.lower()
        return lowered if self.kind == "word" and lowered in _KEYWORDS else None


def both(first: Condition, second: Condition) -> Condition:
    """Rows that satisfy each of the two."""
    if first is ALWAYS or second is ALWAYS:
        return second if first is ALWAYS else first
    return Condition(f"({first.sql}) AND ({second.sql})", (*first.parameters, *second.parameters))


def compile_filter(text: str | None, columns: Mapping[str, Column]) -> Condition:
    """Parse and type-check ``text`` against ``columns``.

    None or blank selects everything. Raises FilterInvalid (422, with ``position``) and nothing
    else, whatever the text.
    """
    if text is None or not text.strip():
        return ALWAYS
    if len(text) > FILTER_MAX_CHARS:
        raise _refuse(f"A filter has at most {FILTER_MAX_CHARS} characters.", FILTER_MAX_CHARS)
    parser = _Parser(_tokens(text), columns, end=len(text))
    sql = parser.expression(0)
    parser.expect_end()
    return Condition(sql, tuple(parser.parameters))


def _refuse(detail: str, position: int) -> FilterInvalid:
    return FilterInvalid(detail, param="filter", position=position)


def _tokens(text: str) -> list[_Token]:
    if "\x00" in text:
        raise _refuse("A filter holds no NUL character.", text.index("\x00"))
    found: list[_Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _refuse(f"Unexpected character {text[position]!r}.", position)
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(_Token(kind, match.group(), position))
        position = match.end()
    return found


class _Parser:
    """Recursive descent; depth and literal count are bounded."""

    def __init__(self, tokens: list[_Token], columns: Mapping[str, Column], *, end: int) -> None:
        self.parameters: list[Parameter] = []
        self._tokens = tokens
        self._columns = columns
        self._at = 0
        self._end = _Token("end", "", end)

    @property
    def _current(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._end

    def _take(self) -> _Token:
        token = self._current
        self._at += 1
        return token

    def _accept(self, keyword: str) -> bool:
        if self._current.keyword == keyword:
            self._at += 1
            return True
        return False

    def _expect_mark(self, mark: str) -> None:
        token = self._take()
        if token.kind != "mark" or token.text != mark:
            raise _refuse(f"Expected {mark!r}.", token.position)

    def expect_end(self) -> None:
        if self._current.kind != "end":
            raise _refuse("Expected 'and', 'or' or the end.", self._current.position)

    def expression(self, depth: int) -> str:
        terms = [self._term(depth)]
        while self._accept("or"):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else "(" + " OR ".join(terms) + ")"

    def _term(self, depth: int) -> str:
        factors = [self._factor(depth)]
        while self._accept("and"):
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else "(" + " AND ".join(factors) + ")"

    def _factor(self, depth: int) -> str:
        if depth > FILTER_MAX_DEPTH:
            raise _refuse(
                f"A filter nests at most {FILTER_MAX_DEPTH} deep.", self._current.position
            )
        if self._accept("not"):
            return f"(NOT {self._factor(depth + 1)})"
        if self._current.kind == "mark" and self._current.text == "(":
            self._at += 1
            inner = self.expression(depth + 1)
            self._expect_mark(")")
            return inner
        return self._predicate()

    def _predicate(self) -> str:
        column = self._column()
        token = self._current
        if token.kind == "operator":
            return self._comparison(column)
        if self._accept("is"):
            negated = self._accept("not")
            if not self._accept("null"):
                raise _refuse("Expected 'null'.", self._current.position)
            return f"({column.sql} IS {'NOT ' if negated else ''}NULL)"
        negation = "NOT " if self._accept("not") else ""
        if self._accept("in"):
            return self._membership(column, negation)
        if self._accept("like"):
            return self._like(column, negation)
        raise _refuse("Expected a comparison, 'in', 'like' or 'is'.", self._current.position)

    def _column(self) -> Column:
        token = self._take()
        if token.kind == "quoted":
            name = token.text[1:-1].replace('""', '"')
        elif token.kind == "word" and token.keyword is None:
            name = token.text
        else:
            raise _refuse("Expected a column name.", token.position)
        column = self._columns.get(name)
        if column is None:
            raise _refuse(f"There is no column {name!r}.", token.position)
        return column

    def _comparison(self, column: Column) -> str:
        operator = self._take()
        sql = _OPERATORS[operator.text]
        if sql not in {"=", "<>"} and column.family not in _ORDERED:
            raise _refuse(f"Column {column.name!r} has no order.", operator.position)
        self._literal(column)
        return f"({column.comparable} {sql} ?)"

    def _membership(self, column: Column, negation: str) -> str:
        self._expect_mark("(")
        self._literal(column)
        count = 1
        while self._current.kind == "mark" and self._current.text == ",":
            self._at += 1
            self._literal(column)
            count += 1
        self._expect_mark(")")
        return f"({column.comparable} {negation}IN ({', '.join('?' * count)}))"

    def _like(self, column: Column, negation: str) -> str:
        if column.family is not Family.TEXT:
            raise _refuse(f"Column {column.name!r} is not text.", self._current.position)
        self._literal(column)
        return f"({column.sql} {negation}LIKE ?)"

    def _literal(self, column: Column) -> None:
        token = self._take()
        if len(self.parameters) >= FILTER_MAX_LITERALS:
            raise _refuse(f"A filter has at most {FILTER_MAX_LITERALS} literals.", token.position)
        self.parameters.append(_value(token, column))


def _value(token: _Token, column: Column) -> Parameter:
    if token.kind == "string":
        return _from_string(token.text[1:-1].replace("''", "'"), token, column)
    if token.kind == "number":
        return _from_number(token, column)
    if token.keyword in {"true", "false"}:
        if column.family is not Family.BOOLEAN:
            raise _mismatch(token, column)
        return token.keyword == "true"
    raise _refuse("Expected a literal: a 'string', a number, true or false.", token.position)


def _mismatch(token: _Token, column: Column) -> FilterInvalid:
    return _refuse(
        f"Column {column.name!r} is {column.family.value}; {token.text[:40]} does not fit.",
        token.position,
    )


def _from_string(text: str, token: _Token, column: Column) -> Parameter:
    try:
        if column.family is Family.TEXT:
            # A lone surrogate cannot be encoded for DuckDB.
            text.encode()
            return text
        if column.family is Family.DATE:
            return date.fromisoformat(text)
        if column.family is Family.TIME:
            return time.fromisoformat(text).replace(tzinfo=None)
        if column.family is Family.TIMESTAMP:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                moment = moment.astimezone(UTC).replace(tzinfo=None)
            if column.nanoseconds and moment.year not in NANOSECOND_YEARS:
                raise ValueError
            return moment
        if column.family is Family.TIMESTAMP_UTC:
            moment = datetime.fromisoformat(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _mismatch(token, column) from None
    raise _mismatch(token, column)


def _from_number(token: _Token, column: Column) -> Parameter:
    if column.family not in {Family.INTEGER, Family.FLOAT, Family.DECIMAL}:
        raise _mismatch(token, column)
    digits = sum(character.isdigit() for character in token.text)
    if digits > NUMBER_MAX_DIGITS:
        raise _refuse(f"A number has at most {NUMBER_MAX_DIGITS} digits.", token.position)
    if token.text.lstrip("-").isdigit():
        whole = int(token.text)
        if abs(whole) > INT64_MAX:
            raise _refuse("The number does not fit 64 bits.", token.position)
        return whole
    if column.family is Family.DECIMAL and "e" not in token.text.lower():
        return Decimal(token.text)
    value = float(token.text)
    if not math.isfinite(value):
        raise _refuse("The number is too large.", token.position)
    return value
