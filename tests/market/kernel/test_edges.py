"""HTTP edges: request ids, body cap, security headers, problem form, cursors, ids, ETags."""

from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from hypothesis import given, strategies as st

from market.kernel.errors import PreconditionFailed
from market.kernel.http import etag, require_version
from market.kernel.ids import PREFIXES, new_id, parse, show
from market.kernel.logging import redact
from market.kernel.schemas import BadCursor, Page, decode_cursor, encode_cursor
from market.kernel.settings import Settings, load_settings


async def test_request_id_in_and_out(client: httpx.AsyncClient) -> None:
    given_id = await client.get("/livez", headers={"X-Request-Id": "abcdefgh-1"})
    assert given_id.headers["x-request-id"] == "abcdefgh-1"
    made = await client.get("/livez", headers={"X-Request-Id": "bad id\n"})
    assert made.headers["x-request-id"].startswith("req_")


async def test_unknown_route_and_method_are_problems(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    body = missing.json()
    assert body["code"] == "route_not_found"
    assert body["request_id"] == missing.headers["x-request-id"]
    wrong = await client.put("/livez")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")


async def test_security_headers(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/livez")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"


async def test_oversized_body_is_413(client: httpx.AsyncClient, settings: Settings) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(settings.body_max_bytes // 65_536 + 2):
            yield b" " * 65_536

    headers = {"Idempotency-Key": "oversized-body"}
    large = b" " * (settings.body_max_bytes + 1)
    declared = await client.post("/v1/parties", content=large, headers=headers)
    chunked = await client.post("/v1/parties", content=chunks(), headers=headers)
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).json()["status"] == "ok"
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["cache"]) == (200, "up")
    assert "market_http_requests_total" in (await client.get("/metrics")).text
    keys = (await client.get("/.well-known/jwks.json")).json()["keys"]
    assert [key["alg"] for key in keys] == ["EdDSA"]


@given(st.sampled_from(sorted(PREFIXES)), st.uuids())
def test_ids_round_trip(prefix: str, value: UUID) -> None:
    assert parse(prefix, show(prefix, value)) == value


@pytest.mark.parametrize("text", ["prd_", "prd_" + "G" * 32, "lst_" + "0" * 32, "prd_" + "0" * 31])
def test_ids_refuse(text: str) -> None:
    with pytest.raises(ValueError, match="prd_"):
        parse("prd", text)


def test_ids_are_ordered() -> None:
    made = [new_id() for _ in range(200)]
    assert [value.version for value in made] == [7] * 200
    assert made == sorted(made)


@given(st.lists(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))))
def test_cursor_round_trip(parts: list[str]) -> None:
    assert decode_cursor(encode_cursor(*parts), len(parts)) == parts


@given(st.text(max_size=80))
def test_cursor_never_fails_otherwise(text: str) -> None:
    try:
        parts = decode_cursor(text, 2)
    except BadCursor:
        parts = ["refused", "422"]
    assert len(parts) == 2


def test_page_of() -> None:
    page = Page[int].of([1, 2, 3], 2, [(1,), (2,), (3,)])
    assert (page.items, page.has_more, page.next_after) == ([1, 2], True, encode_cursor(2))
    assert Page[int].of([1], 2, [(1,)]).next_after is None


def test_versions() -> None:
    assert etag(7) == '"7"'
    require_version(7, 7)
    with pytest.raises(PreconditionFailed):
        require_version(6, 7)


def test_logs_mask_secrets() -> None:
    masked = redact(
        None,
        "info",
        {
            "client_secret": "x",
            "token_id": "keep",
            "event": "eyJhbGciOiJF.eyJzdWIi.c2ln and postgresql://u:pw@h/d",
            "n": 1,
        },
    )
    assert masked["client_secret"] == "***"
    assert masked["token_id"] == "keep"
    assert "eyJ" not in masked["event"]
    assert "pw" not in masked["event"]


def test_production_needs_its_secrets() -> None:
    with pytest.raises(ValueError, match="MARKET_SIGNING_KEY_DIR"):
        load_settings(environment="production")
