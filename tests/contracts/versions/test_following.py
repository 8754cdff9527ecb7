"""Pinned grants and followers, as buyers see new versions arrive."""

from typing import Any

import httpx
import pyarrow as pa
import pytest

from contracts.delivery import gate
from market.kernel.context import Kernel
from market.kernel.security import Role
from market.operations.sandbox import AdvanceClock, advance_clock
from tests.contracts.factories import Trade, bearer, mint, settled
from tests.contracts.versions.factories import announce, make_follower, publish
from tests.listings.factories import any_operator, flights_table
from tests.market.parties.factories import make_party

ROWS = "/v1/delivery/rows"
DAY_S = 86_400


@pytest.fixture(autouse=True)
def _fresh_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONTEXT_TTL_S", -1.0)


async def _read(client: httpx.AsyncClient, token: str, **params: Any) -> httpx.Response:
    return await client.get(ROWS, params={"limit": 1, **params}, headers=bearer(token))


async def _version(client: httpx.AsyncClient, token: str) -> int:
    answer = await _read(client, token)
    assert answer.status_code == 200, answer.text
    return int(answer.headers["data-version"])


async def _notices(client: httpx.AsyncClient, trade: Trade, kernel: Kernel) -> list[dict[str, Any]]:
    buyer = trade.buyer.with_fresh_token(kernel)
    answer = await client.get("/v1/events", params={"limit": 200}, headers=buyer.headers())
    assert answer.status_code == 200, answer.text
    found = [event for event in answer.json()["items"] if event["type"] == "version.published"]
    return [event["data"] for event in found if event["object_id"] == str(trade.grant_id)]


async def test_a_pinned_grant_stays_with_what_it_bought(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_follower(kernel, flights_table(10), versions="pinned")
    token = await mint(kernel, trade)
    await publish(kernel, trade, flights_table(11))
    await announce(kernel)
    assert await _version(client, token) == 1
    assert (await _read(client, token, version=1)).status_code == 200
    for path in (ROWS, f"{ROWS}/count", "/v1/delivery/bulk", "/v1/delivery/bulk/manifest"):
        refused = await client.get(path, params={"version": 2}, headers=bearer(token))
        assert (refused.status_code, refused.json()["clause"]) == (403, "versions")
    assert await settled(kernel, trade) == 2
    assert await _notices(client, trade, kernel) == []
    shown = await client.get(f"/v1/grants/{trade.grant}/versions", headers=trade.buyer.headers())
    assert [(item["number"], item["in_effect"]) for item in shown.json()["items"]] == [(1, True)]


async def test_a_follower_reads_the_latest_and_is_told(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    first = flights_table(10)
    trade = await make_follower(kernel, first)
    token = await mint(kernel, trade)
    assert await _version(client, token) == 1
    wider = flights_table(12).append_column("gate", pa.array(["A1"] * 12))
    assert await publish(kernel, trade, wider) == 2
    await announce(kernel)
    await announce(kernel)
    assert await _version(client, token) == 2
    count = await client.get(f"{ROWS}/count", headers=bearer(token))
    before = await client.get(f"{ROWS}/count", params={"version": 1}, headers=bearer(token))
    assert (count.json()["count"], before.json()["count"]) == (12, 10)
    file = await client.get(
        "/v1/delivery/bulk/manifest", params={"version": 1}, headers=bearer(token)
    )
    assert (file.json()["version"], file.json()["rows"]) == (1, 10)
    missing = await _read(client, token, version=3)
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")
    (notice,) = await _notices(client, trade, kernel)
    assert notice["changes"] == {
        "added": ["gate"],
        "removed": [],
        "retyped": [],
        "breaking": False,
    }
    assert (notice["version"], notice["previous_version"], notice["rows"]) == (2, 1, 12)
    assert notice["effective_at"] == notice["certified_at"]
    shown = (
        await client.get(f"/v1/grants/{trade.grant}/versions", headers=trade.buyer.headers())
    ).json()["items"]
    assert [(item["number"], item["in_effect"]) for item in shown] == [(2, True), (1, False)]
    assert shown[0]["sha256"] == notice["sha256"]
    assert shown[0]["changes"]["added"] == ["gate"]
    assert shown[1]["changes"] is None


async def test_a_breaking_version_is_seen_before_it_hits(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_follower(kernel, flights_table(10), breaking_notice_days=3)
    token = await mint(kernel, trade, ttl_s=10 * DAY_S)
    retyped = flights_table(12).drop_columns(["day", "delay"])
    retyped = retyped.append_column("delay", pa.array(range(12), pa.int64()))
    await publish(kernel, trade, retyped)
    await announce(kernel)
    assert await _version(client, token) == 1
    (notice,) = await _notices(client, trade, kernel)
    assert notice["changes"]["breaking"] is True
    assert notice["changes"]["removed"] == ["day"]
    assert notice["changes"]["retyped"] == [
        {"name": "delay", "before": "INTEGER", "after": "BIGINT"}
    ]
    early = await _read(client, token, version=2)
    assert early.headers["data-version"] == "2"
    assert "day" not in early.json()["items"][0]
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=3 * DAY_S))
    assert await _version(client, token) == 2
    assert (await _read(client, token, version=1)).headers["data-version"] == "1"


async def test_pages_of_a_named_version_follow_one_another(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_follower(kernel, flights_table(3))
    token = await mint(kernel, trade)
    first = await _read(client, token)
    await publish(kernel, trade, flights_table(4))
    after = first.json()["next_after"]
    moved = await _read(client, token, after=after)
    assert (moved.status_code, moved.json()["code"]) == (422, "cursor_invalid")
    rest = await _read(client, token, after=after, version=1, limit=10)
    assert [row["id"] for row in rest.json()["items"]] == [1, 2]


async def test_versions_are_for_the_parties(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_follower(kernel, flights_table(3))
    path = f"/v1/grants/{trade.grant}/versions"
    stranger = await make_party(kernel, Role.BUYER)
    assert (await client.get(path, headers=trade.seller.headers())).status_code == 200
    assert (await client.get(path, headers=stranger.headers())).status_code == 404
    wrong = await client.get(path, params={"after": "!"}, headers=trade.seller.headers())
    assert wrong.status_code == 422


async def test_sharing_reads_a_named_version(client: httpx.AsyncClient, kernel: Kernel) -> None:
    for versions, statuses in (("follow_latest", (200, 200, 400)), ("pinned", (200, 400, 400))):
        trade = await make_follower(kernel, flights_table(10), versions=versions)
        token = await mint(kernel, trade)
        wider = flights_table(12).append_column("gate", pa.array(["A1"] * 12))
        await publish(kernel, trade, wider)
        base = f"/v1/delta-sharing/shares/{trade.grant}/schemas/data/tables/flight_records"
        latest = await client.get(f"{base}/version", headers=bearer(token))
        assert latest.headers["delta-table-version"] == ("1" if versions == "pinned" else "2")
        for number, status in zip((1, 2, 3), statuses, strict=True):
            answer = await client.post(
                f"{base}/query", json={"version": number}, headers=bearer(token)
            )
            assert answer.status_code == status, answer.text
            if status == 200:
                assert answer.headers["delta-table-version"] == str(number)
                assert ("gate" in answer.text.splitlines()[1]) == (number == 2)
            else:
                assert answer.json()["code"] == "version_not_shared"
