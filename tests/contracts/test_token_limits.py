"""Delivery tokens that may do less than their grant: tried as somebody would who wants more."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from contracts.delivery.gate import gate_of
from contracts.delivery.requests import RowsRequest
from contracts.errors import TokenOperationRefused, TokenTooNarrow
from contracts.token_limits import Limits, WayOut
from market.kernel.context import Kernel
from market.kernel.schemas import decode_cursor, encode_cursor
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, make_trade, settled
from tests.market.parties.factories import make_party

ROWS, COUNT = "/v1/delivery/rows", "/v1/delivery/rows/count"
BULK, MANIFEST = "/v1/delivery/bulk", "/v1/delivery/bulk/manifest"
SHARES, PROFILE = "/v1/delta-sharing/shares", "/v1/delta-sharing/profile"


async def mint(client: httpx.AsyncClient, trade: Trade, **limits: Any) -> dict[str, Any]:
    answer = await client.post(
        f"/v1/grants/{trade.grant}/tokens",
        json={"label": "limited", **limits},
        headers=trade.buyer.headers(),
    )
    assert answer.status_code == 201, answer.text
    minted: dict[str, Any] = answer.json()
    return minted


async def read(
    client: httpx.AsyncClient, token: str, path: str = ROWS, **params: Any
) -> tuple[int, Any]:
    answer = await client.get(path, params=params, headers=bearer(token))
    body = answer.json()
    return answer.status_code, body.get("code", body)


async def names_of(client: httpx.AsyncClient, token: str) -> list[str]:
    _, page = await read(client, token, limit=1)
    return list(page["items"][0])


async def test_operations(client: httpx.AsyncClient, trade: Trade) -> None:
    refused = (403, "token_operation_refused")
    counting = (await mint(client, trade, operations=["count"]))["token"]
    assert (await read(client, counting, COUNT))[0] == 200
    for path in (ROWS, SHARES, PROFILE, "/v1/delivery/proxy", BULK, MANIFEST):
        assert await read(client, counting, path) == refused
    sharing = (await mint(client, trade, operations=["sharing"]))["token"]
    assert (await read(client, sharing, SHARES))[0] == 200
    assert await read(client, sharing) == await read(client, sharing, COUNT) == refused


async def test_a_hidden_field_cannot_be_read_asked_or_sorted_by(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, token: str
) -> None:
    names = await names_of(client, token)
    assert names[:2] == ["id", "carrier"]
    assert "delay" in names
    narrow = (await mint(client, trade, fields=["id", "carrier", "id"]))["token"]
    before = await settled(kernel, trade)
    for params in (
        {"select": "delay"},
        {"select": "id,delay"},
        {"order": "delay"},
        {"order": "-delay"},
        {"filter": "delay > 15"},
        {"filter": '"delay" > 15'},
        {"filter": "id = 1 or not (delay is null)"},
    ):
        answer = await client.get(ROWS, params=params, headers=bearer(narrow))
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (403, "token_field_refused"), params
        assert problem["field"] == "delay"
        if "filter" in params:
            assert await read(client, narrow, COUNT, **params) == (403, "token_field_refused")
    for params in ({"select": "DELAY"}, {"select": '"delay"'}, {"select": "t.delay"}):
        assert await read(client, narrow, **params) == (422, "column_unknown")
    assert (await read(client, narrow, order='"delay"')) == (422, "order_invalid")
    assert (await read(client, narrow, filter="DELAY > 15")) == (422, "filter_invalid")
    assert await settled(kernel, trade) == before
    assert await names_of(client, narrow) == ["id", "carrier"]
    status, page = await read(client, narrow, filter="carrier = 'UA'", order="-id", limit=2)
    assert (status, len(page["items"])) == (200, 2)


@pytest.mark.parametrize("limits", [{"fields": ["id"]}, {"row_filter": "id < 5"}])
async def test_a_narrow_token_is_closed_to_ways_out_that_send_everything(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade, limits: dict[str, Any]
) -> None:
    narrow = (await mint(client, trade, **limits))["token"]
    for path in (
        "/v1/delivery/proxy",
        BULK,
        MANIFEST,
    ):
        assert await read(client, narrow, path) == (403, "token_too_narrow")
    with pytest.raises(TokenTooNarrow):
        await gate_of(kernel).authorize(RowsRequest(token=narrow))


async def test_a_row_filter_holds_under_every_question(
    client: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    narrow = (await mint(client, trade, row_filter="carrier = 'UA' or id < 3"))["token"]
    only = "(carrier = 'UA' or id < 3)"
    for asked in (None, "id > 100", "id > 100 or true_or = 1", "carrier != 'UA' or id >= 0"):
        wanted = {} if asked is None else {"filter": asked}
        full = await read(
            client, token, COUNT, filter=only if asked is None else f"{only} and ({asked})"
        )
        found = await read(client, narrow, COUNT, **wanted)
        assert found[0] == full[0]
        if full[0] == 200:
            assert found[1] == full[1]
            assert found[1]["count"] > 0
    _, everything = await read(client, token, COUNT)
    _, mine = await read(client, narrow, COUNT)
    assert mine["count"] < everything["count"]
    seen: list[int] = []
    after: dict[str, str] = {}
    while True:
        _, page = await read(client, narrow, order="-delay,id", limit=200, select="id", **after)
        seen += [row["id"] for row in page["items"]]
        if page["next_after"] is None:
            break
        after = {"after": page["next_after"]}
    assert len(seen) == len(set(seen)) == mine["count"]


async def test_a_cursor_of_a_wider_token_is_refused(
    client: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    narrow = (await mint(client, trade, row_filter="carrier = 'UA'"))["token"]
    _, page = await read(client, token, order="delay", limit=3)
    assert await read(client, narrow, order="delay", limit=3, after=page["next_after"]) == (
        422,
        "cursor_invalid",
    )


async def test_a_forged_cursor_tells_nothing_of_hidden_rows(
    client: httpx.AsyncClient, trade: Trade
) -> None:
    narrow = (await mint(client, trade, row_filter="id >= 500"))["token"]
    _, page = await read(client, narrow, order="delay", limit=3)
    place, sequence = decode_cursor(page["next_after"], 2)
    assert int(place) >= 499
    forged = encode_cursor(7, sequence)
    _, page = await read(client, narrow, order="delay", limit=3, after=forged)
    assert page["items"] == []


async def test_a_delivery_of_a_wider_token_is_not_repeated_to_a_narrow_one(
    client: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    narrow = (await mint(client, trade, fields=["id"]))["token"]
    params = {"limit": 2}
    mark = {"Delivery-Id": "shared-by-two-tokens"}
    wide = await client.get(ROWS, params=params, headers=bearer(token, **mark))
    assert wide.status_code == 200
    again = await client.get(ROWS, params=params, headers=bearer(narrow, **mark))
    assert (again.status_code, again.json()["code"]) == (422, "delivery_id_reused")


@pytest.fixture
async def far_client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose socket is elsewhere."""
    transport = httpx.ASGITransport(app, client=("2001:db8::7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://far") as client:
        yield client


async def test_networks_go_by_the_socket_alone(
    client: httpx.AsyncClient, far_client: httpx.AsyncClient, trade: Trade
) -> None:
    refused = (403, "token_address_refused")
    near = (await mint(client, trade, networks=["127.0.0.0/8"]))["token"]
    far = (await mint(client, trade, networks=["192.0.2.0/24", "2001:db8::7/128"]))["token"]
    assert (await read(client, near, limit=1))[0] == 200
    assert (await read(far_client, far, limit=1))[0] == 200
    assert (await read(far_client, far, SHARES))[0] == 200
    for path in (ROWS, COUNT, SHARES, PROFILE, "/v1/delivery/proxy", BULK, MANIFEST):
        assert await read(client, far, path) == refused
        assert await read(far_client, near, path) == refused
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "Client-IP"):
        value = "for=192.0.2.1" if name == "Forwarded" else "192.0.2.1"
        answer = await client.get(ROWS, headers=bearer(far, **{name: value}))
        assert (answer.status_code, answer.json()["code"]) == refused


def test_addresses() -> None:
    limits = Limits.of({"networks": ["192.0.2.0/24", "2001:db8:1::/48"]})
    for address in ("192.0.2.255", "::ffff:192.0.2.1", "2001:db8:1:ffff::1"):
        limits.require_address(address)
    for wrong in (None, "", "unknown", "192.0.3.0", "2001:db8:2::", "::192.0.2.1", "192.0.2.1/24"):
        with pytest.raises(Exception, match=r"address"):
            limits.require_address(wrong)


async def test_a_shared_file_is_bound_to_the_network_of_its_token(
    client: httpx.AsyncClient, far_client: httpx.AsyncClient, trade: Trade
) -> None:
    near = (await mint(client, trade, networks=["127.0.0.1/32"]))["token"]
    _, tables = await read(client, near, f"{SHARES}/{trade.grant}/all-tables")
    path = f"{SHARES}/{trade.grant}/schemas/data/tables/{tables['items'][0]['name']}/query"
    made = await client.post(path, json={"limitHint": 3}, headers=bearer(near))
    url = str(httpx.Response(200, content=made.text.splitlines()[2]).json()["file"]["url"])
    url = url[url.index("/v1/") :]
    stolen = await far_client.get(url)
    assert (stolen.status_code, stolen.json()["code"]) == (403, "token_address_refused")
    assert (await far_client.head(url)).status_code == 403
    assert (await client.get(url)).status_code == 200


async def test_each_token_has_its_own_pace(client: httpx.AsyncClient, trade: Trade) -> None:
    slow = (await mint(client, trade, rate_per_minute=2))["token"]
    free = (await mint(client, trade))["token"]
    answers = [await client.get(COUNT, headers=bearer(slow)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    last = answers[-1]
    assert last.json()["code"] == "rate_limited"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert last.headers["ratelimit-policy"] == '"delivery";q=2;w=60'
    assert last.headers["ratelimit"].startswith('"delivery";r=0;t=')
    assert (await read(client, free, COUNT))[0] == 200


async def test_views_show_limits_and_what_is_left(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lot_units=10)
    limits = {
        "operations": ["rows"],
        "fields": ["id"],
        "row_filter": "id >= 0",
        "networks": ["127.0.0.1/32"],
        "rate_per_minute": 60,
    }
    minted = await mint(client, trade, **limits)
    assert {name: minted[name] for name in limits} == limits
    await read(client, minted["token"], limit=4)
    path = f"/v1/tokens/{minted['id']}"
    for member in (trade.buyer, trade.seller):
        shown = (await client.get(path, headers=member.headers())).json()
        assert {name: shown[name] for name in limits} == limits
        assert (shown["remaining_units"], shown["unit"]) == (6, "row")
        assert "token" not in shown
    stranger = await make_party(kernel, Role.BUYER)
    answer = await client.get(path, headers=stranger.headers())
    assert (answer.status_code, answer.json()["code"]) == (404, "token_not_found")
    await client.delete(path, headers=trade.buyer.headers())
    assert (await client.get(path, headers=trade.buyer.headers())).status_code == 404


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"fields": ["id", "nope"]}, "column_unknown"),
        ({"fields": ["ID"]}, "column_unknown"),
        ({"fields": ["id\x00"]}, "column_unknown"),
        ({"fields": []}, "validation_failed"),
        ({"row_filter": "nope = 1"}, "filter_invalid"),
        ({"row_filter": "id = 1) or (id = id"}, "filter_invalid"),
        ({"operations": ["everything"]}, "validation_failed"),
        ({"networks": ["192.0.2.1/24"]}, "validation_failed"),
        ({"networks": ["localhost"]}, "validation_failed"),
        ({"networks": ["::ffff:192.0.2.0/120"]}, "validation_failed"),
        ({"rate_per_minute": 0}, "validation_failed"),
    ],
)
async def test_limits_that_cannot_hold_are_refused(
    client: httpx.AsyncClient, trade: Trade, limits: dict[str, Any], code: str
) -> None:
    answer = await client.post(
        f"/v1/grants/{trade.grant}/tokens",
        json={"label": "limited", **limits},
        headers=trade.buyer.headers(),
    )
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_an_unnamed_way_out_is_closed_to_a_token_for_named_ones() -> None:
    limits = Limits(operations=frozenset({WayOut.ROWS}))
    limits.require(WayOut.ROWS, None)
    with pytest.raises(TokenOperationRefused):
        limits.require(None, None)
    with pytest.raises(TokenTooNarrow):
        replace(limits, operations=None, fields=frozenset({"id"})).require(None, None)
    Limits().require(None, None)
