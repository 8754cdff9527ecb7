"""Schemas are foreign programs: what is refused, and what they may say."""

from typing import Any

import pytest

from contracts.proxy.errors import SchemaInvalid
from contracts.proxy.json_schemas import ERRORS_MAX, checked, errors_of


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"required": "a"},
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1/schema"},
        {"$ref": "file:///etc/passwd"},
        {"properties": {"a": {"$dynamicRef": "#x"}}},
        {"allOf": [{"$id": "x"}]},
        {"pattern": "("},
        {"pattern": "(?=a)b"},
        {"pattern": "((a{1000}){1000}){1000}"},
        {"description": "x" * 40_000},
        {"const": "nul \x00"},
        {"const": "\ud800"},
        {"maximum": 2**80},
        nested(5_000),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaInvalid) as refused:
        checked(schema, param="answer")
    assert refused.value.status == 422
    assert refused.value.param == "answer"


def test_what_is_stored_is_the_canonical_form() -> None:
    assert list(checked({"type": "object", "minProperties": 1}, param="x")) == [
        "minProperties",
        "type",
    ]


def test_findings_name_places_and_never_values() -> None:
    schema = checked(
        {"type": "array", "items": {"type": "object", "properties": {"n": {"maximum": 3}}}},
        param="answer",
    )
    assert errors_of(schema, [{"n": 1}]) == []
    (finding,) = errors_of(schema, [{"n": 1}, {"n": 123_456}])
    assert finding["path"] == "/1/n"
    assert finding["rule"] == "/items/properties/n/maximum"
    assert "123456" not in finding["message"]


def test_findings_are_few_short_and_printable() -> None:
    schema = checked({"items": {"additionalProperties": False}}, param="answer")
    names = ["\x00\x1b[31m" + "x" * 5_000, "y"]
    found = errors_of(schema, [dict.fromkeys(names, 1)] * 50)
    assert len(found) == ERRORS_MAX
    for finding in found:
        assert all(len(text) <= 200 and text.isprintable() for text in finding.values())


def test_patterns_take_linear_time() -> None:
    schema = checked({"pattern": "^(a+)+$"}, param="answer")
    assert len(errors_of(schema, "a" * 100_000 + "!")) == 1
