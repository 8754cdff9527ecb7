"""The official client (delta-sharing 1.4) against the market on a socket, and what it is billed."""

import httpx
import pytest

from contracts import grants as grant_service
from contracts.receipts import verify_chain
from market.kernel.context import Kernel
from tests.contracts.factories import Trade, make_trade, mint
from tests.contracts.sharing.conftest import Profile, charged
from tests.contracts.sharing.official_client import use

ROWS = 1_000


async def test_it_lists_describes_and_loads(
    kernel: Kernel, client: httpx.AsyncClient, trade: Trade, token: str, profile: Profile
) -> None:
    name = f"{trade.grant}.data.flight_records"
    (
        tables,
        walked,
        version,
        old,
        metadata,
        protocol,
        whole,
        limited,
        nothing,
        pinned,
        batches,
        by_time,
        hinted,
    ) = await use(
        await profile(token),
        ("all_tables", {}),
        ("walk", {}),
        ("version", {}),
        ("version", {"starting_timestamp": "2020-01-01T00:00:00Z"}),
        ("metadata", {}),
        ("protocol", {}),
        ("load", {}),
        ("load", {"limit": 10}),
        ("load", {"limit": 0}),
        ("load", {"version": 1}),
        ("load", {"convert_in_batches": True}),
        ("load", {"timestamp": "2999-01-01T00:00:00Z", "limit": 5}),
        ("load", {"jsonPredicateHints": _less_than("id", 7)}),
    )
    assert tables == {"answer": [name]}
    assert walked == {"answer": [trade.grant, "data", name]}
    assert version == old == {"answer": 1}
    assert metadata["answer"][0].startswith("prd_")
    kinds = {field["name"]: field["type"] for field in metadata["answer"][1]["fields"]}
    assert kinds == {
        "id": "long",
        "carrier": "string",
        "delay": "integer",
        "distance": "double",
        "day": "date",
    }
    assert protocol == {"answer": 1}
    for loaded in (whole, pinned, batches):
        assert loaded["answer"]["rows"] == ROWS
        assert loaded["answer"]["sum"] == sum(range(ROWS))
    assert limited["answer"]["rows"] == 10
    assert limited["answer"]["sum"] == sum(range(10))
    assert (nothing["answer"]["rows"], nothing["answer"]["columns"]) == (0, list(kinds))
    assert by_time["answer"]["rows"] == 5
    assert hinted["answer"]["sum"] == sum(range(7))
    # 11 calls for each file, and each row of it is paid once.
    units = 3 * ROWS + 10 + 5 + 7
    assert await charged(kernel, trade, units) == units
    await _check_receipts(client, trade, 3 * ROWS + 10 + 5 + 7)


def _less_than(column: str, value: int) -> str:
    return (
        '{"op": "lessThan", "children": ['
        f'{{"op": "column", "name": "{column}", "valueType": "long"}}, '
        f'{{"op": "literal", "value": "{value}", "valueType": "long"}}]}}'
    )


async def _check_receipts(client: httpx.AsyncClient, trade: Trade, units: int) -> None:
    answer = await client.get(
        f"/v1/agreements/{trade.id}/receipts?limit=200", headers=trade.buyer.headers()
    )
    jwks = (await client.get("/.well-known/jwks.json")).json()
    payloads = verify_chain([item["jws"] for item in answer.json()["items"]], jwks)
    assert sum(payload["units"] for payload in payloads) == units
    assert {payload["format"] for payload in payloads} == {"sharing"}


async def test_it_is_refused_beyond_the_quota_and_pays_to_the_last_row(
    kernel: Kernel, profile: Profile
) -> None:
    small = await make_trade(kernel, lots=1, lot_units=100)
    path = await profile(await mint(kernel, small))
    over, exact, again, empty = await use(
        path,
        ("load", {}),
        ("load", {"limit": 100}),
        ("load", {"limit": 1}),
        ("load", {"limit": 0}),
    )
    assert over["error"] == "HTTPError"
    for word in ("402", "QUOTA_EXHAUSTED", "'remaining': 100"):
        assert word in over["text"]
    assert exact["answer"]["rows"] == 100
    assert "402" in again["text"]
    assert empty["answer"]["rows"] == 0
    units = 100
    assert await charged(kernel, small, units) == units


async def test_a_call_is_one_load(kernel: Kernel, profile: Profile) -> None:
    calls = await make_trade(kernel, lots=1, lot_units=2, unit="call")
    path = await profile(await mint(kernel, calls))
    first, second, third = await use(path, *[("load", {})] * 3)
    assert (first["answer"]["rows"], second["answer"]["rows"]) == (ROWS, ROWS)
    assert "402" in third["text"]
    units = 2
    assert await charged(kernel, calls, units) == units


async def test_revoked_and_expired_profiles(
    kernel: Kernel, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await make_trade(kernel)
    path = await profile(await mint(kernel, small))
    async with kernel.unit_of_work() as uow:
        assert await grant_service.revoke(uow, kernel, small.agreement.id)
    (revoked,) = await use(path, ("load", {"limit": 1}))
    assert (revoked["error"], "410" in revoked["text"]) == ("HTTPError", True)
    assert "grant_revoked" in revoked["text"]
    short = await make_trade(kernel)
    path = await profile(await mint(kernel, short, ttl_s=60))
    now_s = kernel.clock.timestamp_s
    monkeypatch.setattr(kernel.clock, "timestamp_s", lambda: now_s() + 61)
    (expired,) = await use(path, ("load", {"limit": 1}))
    assert "401" in expired["text"]
    assert "token_expired" in expired["text"]
    for ended in (small, short):
        units = 0
        assert await charged(kernel, ended, units) == units


async def test_what_is_not_shared_is_refused(profile: Profile, token: str) -> None:
    other, early, changes = await use(
        await profile(token),
        ("load", {"version": 2}),
        ("load", {"timestamp": "2001-01-01T00:00:00Z"}),
        ("changes", {}),
    )
    for refused in (other, early):
        assert "400" in refused["text"]
        assert "version_not_shared" in refused["text"]
    assert "change data feed" in changes["text"]
