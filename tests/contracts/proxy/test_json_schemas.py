"""Schemas are foreign programs: what is refused, and what they may say."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.proxy import checkers
from contracts.proxy.checkers import Late, TooCostly
from contracts.proxy.errors import SchemaInvalid
from contracts.proxy.json_schemas import NotJson, checked, errors_of, json_of
from contracts.proxy.schema_process import ADDRESS_SPACE_MAX_BYTES, ERRORS_MAX, HEAD


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
async def test_schemas_that_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaInvalid) as refused:
        await checked(schema, param="answer")
    assert refused.value.status == 422
    assert refused.value.param == "answer"


async def test_what_is_stored_is_the_canonical_form() -> None:
    assert list(await checked({"type": "object", "minProperties": 1}, param="x")) == [
        "minProperties",
        "type",
    ]


async def test_findings_name_places_and_never_values() -> None:
    schema = await checked(
        {"type": "array", "items": {"type": "object", "properties": {"n": {"maximum": 3}}}},
        param="answer",
    )
    assert await errors_of(schema, b'[{"n": 1}]') == []
    (finding,) = await errors_of(schema, b'[{"n": 1}, {"n": 123456}]')
    assert finding["path"] == "/1/n"
    assert finding["rule"] == "/items/properties/n/maximum"
    assert "123456" not in finding["message"]


async def test_findings_are_few_short_and_printable() -> None:
    schema = await checked({"items": {"additionalProperties": False}}, param="answer")
    names = ["\x00\x1b[31m" + "x" * 500, "y"]
    found = await errors_of(schema, json_of([dict.fromkeys(names, 1)] * 50))
    assert len(found) == ERRORS_MAX
    for finding in found:
        assert all(len(text) <= 200 and text.isprintable() for text in finding.values())


async def test_patterns_take_linear_time() -> None:
    schema = await checked({"pattern": "^(a+)+$"}, param="answer")
    assert len(await errors_of(schema, b'"' + b"a" * 100_000 + b'!"')) == 1


async def test_of_a_large_answer_the_first_finding_is_told() -> None:
    schema = await checked({"items": {"maximum": 3}}, param="answer")
    (finding,) = await errors_of(schema, json_of([7] * 100_000))
    assert finding["path"] == "/0"


async def test_no_schema_takes_all_json_and_nothing_else() -> None:
    assert await errors_of(None, b"[1e300, {}]") == []
    for text in (b"", b"{", b"NaN", b"[" * 100_000, b'"\xff"'):
        with pytest.raises(NotJson):
            await errors_of(None, text)
    for value in ("\ud800", 2**80, {1}):
        with pytest.raises(NotJson):
            json_of(value)


COSTLY = {"items": {"allOf": [{"minimum": number} for number in range(500)]}}


async def test_what_costs_too_much_is_given_up_and_keeps_nobody_waiting() -> None:
    pattern = await checked({"pattern": "[ab]*a[ab]{5000}c"}, param="answer")
    text = b"".join(random.Random(1).choices((b"a", b"b"), k=1 << 20))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    with pytest.raises(TooCostly):
        await errors_of(pattern, b'"' + text + b'"', deadline=time.monotonic() + 300)
    counting.cancel()
    # Holding the interpreter for even one of the seconds that it took would leave a handful.
    assert turns > 50
    # The process that was ended is replaced.
    assert await errors_of({"type": "null"}, b"null") == []


async def test_a_check_that_begins_too_late_blames_nobody() -> None:
    with pytest.raises(Late):
        await errors_of(COSTLY, json_of([999] * 1_000_000), deadline=time.monotonic() + 0.01)
    assert await errors_of(None, b"null") == []


def test_the_process_has_little_memory_and_no_environment() -> None:
    process = checkers._start()
    try:
        frame = HEAD.pack(4, 4) + b"truenull"
        assert checkers._exchange(process, frame, time.monotonic() + 60) == b'{"findings":[]}'
        place = Path(f"/proc/{process.pid}")
        assert b"MARKET" not in (place / "environ").read_bytes()
        limits = (place / "limits").read_text()
    finally:
        checkers._end(process)
    (memory,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
    assert memory.split()[3:5] == [str(ADDRESS_SPACE_MAX_BYTES)] * 2


async def test_a_dead_process_is_replaced_without_a_word() -> None:
    process = checkers._start()
    process.kill()
    process.wait()
    checkers._idle.append(process)
    assert await errors_of(None, b"null") == []
