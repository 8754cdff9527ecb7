"""The feed of changes as buyers follow it."""

import io
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import receipts, tokens
from contracts.delivery import gate
from contracts.schemas import TokenBody
from contracts.token_limits import WayOut
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.factories import Trade, bearer, mint, settled
from tests.contracts.versions.factories import make_follower, publish
from tests.market.parties.factories import make_party

CHANGES = "/v1/delivery/changes"


@pytest.fixture(autouse=True)
def _fresh_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONTEXT_TTL_S", -1.0)


def _stations(first: int, last: int, *, moved: int = 0, **more: Any) -> pa.Table:
    ids = range(first, last)
    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.int64()),
        "city": pa.array([("北京", "Roma")[i % 2] for i in ids]),
        "level": pa.array([i / 4 + (10 if i < moved else 0) for i in ids], pa.float64()),
    }
    return pa.table({**columns, **more})


async def _two_versions(kernel: Kernel, *, unit: str = "row", lot_units: int = 1_000) -> Trade:
    """Version 2: 0 to 4 are gone, 5 to 9 moved, 50 to 59 are new."""
    trade = await make_follower(kernel, _stations(0, 50), unit=unit, lot_units=lot_units)
    await publish(kernel, trade, _stations(5, 60, moved=10))
    return trade


async def _declare(client: httpx.AsyncClient, trade: Trade, *columns: str) -> httpx.Response:
    path = f"/v1/products/{show('prd', trade.agreement.product_id)}/key"
    body = {"columns": list(columns)}
    return await client.put(path, json=body, headers=trade.seller.headers())


async def _get(client: httpx.AsyncClient, token: str, **params: Any) -> httpx.Response:
    accept = params.pop("accept", "application/json")
    params = {"since": 1, **params}
    return await client.get(CHANGES, params=params, headers=bearer(token, Accept=accept))


async def test_by_key_in_pages_gives_the_new_version(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await _two_versions(kernel)
    assert (await _declare(client, trade, "id")).status_code == 200
    token = await mint(kernel, trade)
    counted = await client.get(f"{CHANGES}/count", params={"since": 1}, headers=bearer(token))
    assert counted.json() == {"inserted": 10, "updated": 5, "deleted": 5}
    assert await settled(kernel, trade) == 0
    state = {row["id"]: row for row in _stations(0, 50).to_pylist()}
    after, pages = None, 0
    while True:
        answer = await _get(client, token, limit=7, **({"after": after} if after else {}))
        assert answer.status_code == 200, answer.text
        assert answer.headers["changes-key"] == "id"
        assert (answer.headers["since-version"], answer.headers["data-version"]) == ("1", "2")
        for row in answer.json()["items"]:
            change = row.pop("_change")
            assert (change == "insert") == (row["id"] not in state)
            if change == "delete":
                assert state.pop(row["id"]) == row
            else:
                state[row["id"]] = row
        pages += 1
        after = answer.json()["next_after"]
        if after is None:
            break
    assert pages == 3
    assert state == {row["id"]: row for row in _stations(5, 60, moved=10).to_pylist()}
    assert await settled(kernel, trade) == 20
    path = f"/v1/agreements/{trade.id}/receipts"
    listed = (await client.get(path, headers=trade.buyer.headers())).json()["items"]
    proofs = receipts.verify_chain([item["jws"] for item in listed], kernel.keys.jwks())
    assert [proof["rows"] for proof in proofs] == [7, 7, 6]


async def test_without_a_key_rows_come_and_go(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await _two_versions(kernel)
    token = await mint(kernel, trade)
    parquet = await _get(client, token, accept="application/vnd.apache.parquet")
    assert "changes-key" not in parquet.headers
    changes = pq.read_table(io.BytesIO(parquet.content)).to_pylist()
    kinds = [row["_change"] for row in changes]
    assert (kinds.count("insert"), kinds.count("delete")) == (15, 10)
    back = await _get(client, token, since=2, version=1)
    again = [row["_change"] for row in back.json()["items"]]
    assert (again.count("insert"), again.count("delete")) == (10, 15)
    same = await _get(client, token, since=2)
    assert (same.json()["items"], same.headers["meter-charged"]) == ([], "0")


async def test_a_key_that_repeats_is_not_used(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await _two_versions(kernel)
    await _declare(client, trade, "city")
    token = await mint(kernel, trade)
    answer = await _get(client, token)
    assert "changes-key" not in answer.headers
    assert len(answer.json()["items"]) == 25


async def test_a_narrow_token_sees_changes_of_its_own_rows(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await _two_versions(kernel)
    await _declare(client, trade, "id")
    body = TokenBody(
        ttl_s=3_600, label="narrow", fields=["id", "city"], row_filter="id >= 3 and id < 55"
    )
    token = (await tokens.mint(kernel, trade.buyer.actor, trade.grant_id, body)).token
    answer = await _get(client, token, order="id")
    seen = [(row["_change"], row["id"]) for row in answer.json()["items"]]
    # 5 to 9 moved in a column that the token may not read.
    assert seen == [("delete", 3), ("delete", 4), *(("insert", i) for i in range(50, 55))]
    assert all(set(row) == {"_change", "id", "city"} for row in answer.json()["items"])
    hidden = await _get(client, token, select="level")
    assert (hidden.status_code, hidden.json()["code"]) == (422, "column_unknown")
    rows_only = TokenBody(ttl_s=3_600, label="rows", operations=[WayOut.ROWS])
    other = (await tokens.mint(kernel, trade.buyer.actor, trade.grant_id, rows_only)).token
    assert (await _get(client, other)).status_code == 403


async def test_refusals_cost_nothing(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await _two_versions(kernel, lot_units=10)
    token = await mint(kernel, trade)
    dear = await _get(client, token, limit=11)
    assert (dear.status_code, dear.json()["remaining"]) == (402, 10)
    missing = await _get(client, token, since=9)
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")
    assert (await _get(client, token, since=0)).status_code == 422
    assert (await client.get(CHANGES, params={"since": 1})).status_code == 401
    assert await settled(kernel, trade) == 0
    pinned = await make_follower(kernel, _stations(0, 5), versions="pinned")
    await publish(kernel, pinned, _stations(0, 6))
    refused = await _get(client, await mint(kernel, pinned), since=2)
    assert (refused.status_code, refused.json()["clause"]) == (403, "versions")


async def test_the_same_delivery_is_free_to_repeat(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await _two_versions(kernel, unit="call", lot_units=10)
    token = await mint(kernel, trade)
    headers = bearer(token, **{"Delivery-Id": "changes-2026-11"})
    params = {"since": 1, "version": 2, "limit": 50}
    first = await client.get(CHANGES, params=params, headers=headers)
    second = await client.get(CHANGES, params=params, headers=headers)
    assert first.content == second.content
    assert (first.headers["meter-charged"], second.headers["meter-charged"]) == ("1", "0")
    assert await settled(kernel, trade) == 1


async def test_columns_that_changed(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_follower(kernel, _stations(0, 4), breaking_notice_days=0)
    gate = pa.array([None, "G1", None, None, None])
    await publish(kernel, trade, _stations(0, 5, gate=gate))
    await publish(kernel, trade, _stations(0, 4).drop_columns(["level"]))
    retyped = _stations(0, 4).set_column(0, "id", pa.array(range(4), pa.int32()))
    await publish(kernel, trade, retyped)
    await _declare(client, trade, "id")
    token = await mint(kernel, trade)
    wider = (await _get(client, token, version=2, order="id")).json()["items"]
    assert [(row["_change"], row["id"], row["gate"]) for row in wider] == [
        ("update", 1, "G1"),
        ("insert", 4, None),
    ]
    assert (await _get(client, token, version=3)).json()["items"] == []
    refused = await _get(client, token, version=4)
    assert (refused.status_code, refused.json()["code"]) == (409, "versions_incomparable")


async def test_declaring_a_key(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_follower(kernel, _stations(0, 4))
    path = f"/v1/products/{show('prd', trade.agreement.product_id)}/key"
    for columns, code in (
        (["id", "id"], "key_invalid"),
        (["level"], "key_invalid"),
        (["nothing"], "column_unknown"),
    ):
        refused = await _declare(client, trade, *columns)
        assert (refused.status_code, refused.json()["code"]) == (422, code)
    stranger = await make_party(kernel, Role.SELLER)
    body = {"columns": ["id"]}
    assert (await client.put(path, json=body, headers=stranger.headers())).status_code == 404
    assert (await client.get(path, headers=stranger.headers())).status_code == 404
    assert (await _declare(client, trade, "city", "id")).json()["columns"] == ["city", "id"]
    shown = (await client.get(path, headers=trade.seller.headers())).json()
    assert shown["columns"] == ["city", "id"]
    assert shown["updated_at"] is not None
    assert (await _declare(client, trade)).json()["columns"] == []
    assert (await client.get(path, headers=trade.seller.headers())).json()["updated_at"] is None
