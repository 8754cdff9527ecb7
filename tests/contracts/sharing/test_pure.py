"""Ranges, predicates and Delta's lines."""

import json

import pytest
from hypothesis import given, strategies as st

from contracts.sharing import delta, ranges
from contracts.sharing.predicates import condition_of
from listings.typed_columns import columns_of

SIZE = 1_000
SPANS = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda two: (min(two), max(two)))


@given(st.lists(SPANS, max_size=30), st.integers(0, 10**9))
def test_any_sequence_of_pieces_costs_what_was_covered(
    pieces: list[tuple[int, int]], units: int
) -> None:
    covered: list[tuple[int, int]] = []
    charged = 0
    for piece in pieces:
        covered = ranges.add(covered, piece)
        due = ranges.owed(units, SIZE, ranges.size_of(covered)) - charged
        assert due >= 0
        charged += due
    sent = {byte for start, end in pieces for byte in range(start, end)}
    assert ranges.size_of(covered) == len(sent)
    assert charged == units * len(sent) // SIZE


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-", (10, SIZE)),
        ("bytes=-8", (992, SIZE)),
        ("bytes=-5000", (0, SIZE)),
        ("bytes=990-5000", (990, SIZE)),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=5-2", None),
    ],
)
def test_range_headers(header: str | None, span: tuple[int, int] | None) -> None:
    assert ranges.parse(header, SIZE) == span


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=-0"])
def test_ranges_outside_of_the_file(header: str) -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.parse(header, SIZE)


COLUMNS = columns_of(
    [
        {"name": "id", "type": "BIGINT"},
        {"name": 'na"me', "type": "VARCHAR"},
        {"name": "ok", "type": "BOOLEAN"},
    ]
)


def _leaf(op: str, name: str, value: object, kind: str) -> dict[str, object]:
    column = {"op": "column", "name": name, "valueType": kind}
    return {"op": op, "children": [column, {"op": "literal", "value": value, "valueType": kind}]}


def test_a_predicate_tree_becomes_parameters() -> None:
    either = {
        "op": "or",
        "children": [
            _leaf("greaterThanOrEqual", "ID", "5", "long"),
            {"op": "not", "children": [_leaf("equal", 'na"me', "x' or 1=1 --", "string")]},
        ],
    }
    both = {"op": "and", "children": [either, _leaf("equal", "ok", "true", "bool")]}
    condition, text = condition_of(json.dumps(both), (), COLUMNS)
    assert condition.parameters == (5, "x' or 1=1 --", True)
    assert "1=1" not in condition.sql
    assert text


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "{",
        "[]",
        "7",
        '{"op": "equal"}',
        json.dumps(_leaf("like", "id", "5", "long")),
        json.dumps(_leaf("equal", "other", "5", "long")),
        json.dumps(_leaf("equal", "id", "inf", "double")),
        json.dumps(_leaf("equal", "id", "1) or (1=1", "long")),
        json.dumps(_leaf("equal", "id", None, "long")),
        '{"op": "not", "children": [' * 50 + "]}" * 50,
    ],
)
def test_a_hint_that_is_not_understood_selects_everything(hint: str) -> None:
    condition, text = condition_of(hint, (), COLUMNS)
    assert (condition.sql, condition.parameters, text) == ("TRUE", (), "")


def test_simple_sql_hints_count_and_others_do_not() -> None:
    condition, _ = condition_of(None, ["id > 5", "upper(x) = 'A'", "ok = true"], COLUMNS)
    assert condition.parameters == (5, True)


def test_lines_are_physical_lines() -> None:
    body = delta.lines([{"a": "one\u2028two\n\u0085"}, {"b": "航班"}]).decode()
    assert body.isascii()
    assert [json.loads(line) for line in body.splitlines()] == [
        {"a": "one\u2028two\n\u0085"},
        {"b": "航班"},
    ]


def test_types_that_delta_lacks_are_cast() -> None:
    stored = [
        {"name": "a", "type": "UINTEGER"},
        {"name": "b", "type": "TIMESTAMP_NS"},
        {"name": "c", "type": "TIME"},
        {"name": "d", "type": "DECIMAL(12,3)"},
    ]
    fields = delta.fields_of(stored)
    assert [field.type for field in fields] == ["long", "timestamp", "string", "decimal(12,3)"]
    assert fields[2].sql == 'CAST(t."c" AS VARCHAR) AS "c"'
