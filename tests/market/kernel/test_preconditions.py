"""The order of refusals at the edge: who, then what form, then key and version, then the rule."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.schemas import LongText, Moment, ShortText
from market.kernel.security import Role
from tests.market.parties.factories import Member, make_party

CREDENTIALS = "/v1/credentials"
KEY = "Idempotency-Key"


@pytest.fixture(scope="module")
async def member(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


def without(member: Member, *names: str) -> dict[str, str]:
    return {name: value for name, value in member.headers().items() if name not in names}


async def stored(kernel: Kernel) -> tuple[int, int, int]:
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT (SELECT count(*) FROM parties.credential),"
            " (SELECT sum(version) FROM parties.party),"
            " (SELECT count(*) FROM kernel.idempotent_answer)"
        )
    assert row is not None
    return tuple(row)


@pytest.mark.parametrize("key", [None, "short", "with space!"])
async def test_key_is_asked_for_after_caller_and_form(
    client: httpx.AsyncClient, kernel: Kernel, member: Member, key: str | None
) -> None:
    before = await stored(kernel)
    sent = {} if key is None else {KEY: key}
    good, bad = {"label": "spare"}, {"label": 7}
    stranger = await client.post(CREDENTIALS, json=good, headers=sent)
    known = {**without(member, KEY), **sent}
    malformed = await client.post(CREDENTIALS, json=bad, headers=known)
    keyless = await client.post(CREDENTIALS, json=good, headers=known)
    codes = [
        (answer.status_code, answer.json()["code"]) for answer in (stranger, malformed, keyless)
    ]
    assert codes == [
        (401, "token_missing"),
        (422, "validation_failed"),
        (400, "idempotency_key_required"),
    ]
    assert await stored(kernel) == before


async def test_if_match_is_asked_for_after_caller_and_form(
    client: httpx.AsyncClient, kernel: Kernel, member: Member
) -> None:
    before = await stored(kernel)
    path = f"/v1/parties/{member.id}"
    tries: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {"contact": None}),
        (member.headers(), {"contact": 7}),
        (member.headers(), {"contact": None}),
        ({**member.headers(), "If-Match": 'W/"1"'}, {"contact": None}),
        ({**member.headers(), "If-Match": '"999"'}, {"contact": None}),
    ]
    answers = [await client.patch(path, json=body, headers=headers) for headers, body in tries]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (401, "token_missing"),
        (422, "validation_failed"),
        (428, "if_match_required"),
        (412, "stale_version"),
        (412, "stale_version"),
    ]
    assert await stored(kernel) == before


def test_required_headers_are_declared_so(app: FastAPI) -> None:
    paths = app.openapi()["paths"]

    def header(method: str, path: str, name: str) -> dict[str, Any]:
        (found,) = (item for item in paths[path][method]["parameters"] if item["name"] == name)
        return dict(found)

    if_match = header("patch", "/v1/parties/{party_id}", "If-Match")
    assert (if_match["required"], if_match["schema"]["pattern"]) == (True, '^"[0-9]{1,18}"$')
    assert header("post", CREDENTIALS, KEY)["required"] is True


async def test_allow_names_every_method_of_the_path(
    client: httpx.AsyncClient, member: Member
) -> None:
    order = f"/v1/orders/{show('ord', new_id())}"
    for path, allowed in ((order, "DELETE, GET, PATCH"), ("/v1/orders", "GET, POST")):
        answer = await client.put(path, headers=member.headers())
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_a_body_that_is_no_text_is_a_400(client: httpx.AsyncClient, member: Member) -> None:
    headers = {**member.headers(), "Content-Type": "application/json"}
    answer = await client.post(CREDENTIALS, content=b'{"label": "\xff"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "body_unreadable")


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        (ShortText, " 气象 bureau ", "气象 bureau"),
        (LongText, "\n one\ttwo\n", "one\ttwo"),
        (ShortText, "x" * 200, "x" * 200),
    ],
)
def test_texts_lose_their_outer_space(kind: Any, given: str, kept: str) -> None:
    assert TypeAdapter(kind).validate_python(given) == kept


@pytest.mark.parametrize(
    "text", ["", " ", "\u3000", "\xa0\ufeff", "a\x00", "a\nb", "a\x7f", "a\x85b", "x" * 201]
)
def test_texts_that_show_nothing_or_too_much_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ShortText).validate_python(text)


@pytest.mark.parametrize(
    "given", ["0.5", "1700000000", 0, 1.5, True, "2026-01-01", "2026-01-01T00:00"]
)
def test_moments_are_written_out_with_an_offset(given: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(given)
    assert TypeAdapter(Moment).validate_python("2026-01-01T00:00:00Z").year == 2026


@pytest.mark.parametrize(
    "given",
    [
        "0001-01-01T00:00:00+14:00",
        "0999-12-31T23:59:59Z",
        "1000-01-01T00:00:00+00:01",
        "9000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_moments_that_cannot_be_reckoned_with_are_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="the years 1000 to 8999"):
        TypeAdapter(Moment).validate_python(given)
    assert TypeAdapter(Moment).validate_python("1000-01-01T00:00:00Z").year == 1000
