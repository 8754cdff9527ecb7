"""Bulk delivery with tokens that may do less than their grant."""

import httpx
import pytest

from contracts import tokens
from contracts.schemas import TokenBody
from contracts.token_limits import WayOut
from market.kernel.context import Kernel
from tests.contracts.factories import Trade, bearer, make_trade

BULK = "/v1/delivery/bulk"


@pytest.fixture(scope="module")
async def calls(kernel: Kernel) -> Trade:
    return await make_trade(kernel, unit="call", lots=10, lot_units=10)


async def _mint(kernel: Kernel, trade: Trade, body: TokenBody) -> dict[str, str]:
    return bearer((await tokens.mint(kernel, trade.buyer.actor, trade.grant_id, body)).token)


async def test_a_token_for_bulk_alone_reads_the_whole_and_nothing_else(
    client: httpx.AsyncClient, kernel: Kernel, calls: Trade
) -> None:
    headers = await _mint(kernel, calls, TokenBody(label="bulk", operations=[WayOut.BULK]))
    shown = await client.get(f"{BULK}/manifest", headers=headers)
    whole = await client.get(BULK, headers=headers)
    assert (shown.status_code, whole.status_code) == (200, 200)
    assert len(whole.content) == shown.json()["bytes"]
    rows = await client.get("/v1/delivery/rows", headers=headers)
    assert (rows.status_code, rows.json()["code"]) == (403, "token_operation_refused")


async def test_a_token_for_a_network_reads_from_there(
    client: httpx.AsyncClient, kernel: Kernel, calls: Trade
) -> None:
    near = await _mint(kernel, calls, TokenBody(label="near", networks=["127.0.0.0/8"]))
    far = await _mint(kernel, calls, TokenBody(label="far", networks=["192.0.2.0/24"]))
    for path in (BULK, f"{BULK}/manifest"):
        assert (await client.get(path, headers=near)).status_code == 200
        refused = await client.get(path, headers=far)
        assert (refused.status_code, refused.json()["code"]) == (403, "token_address_refused")


async def test_a_revoked_token_reads_neither_file_nor_manifest(
    client: httpx.AsyncClient, kernel: Kernel, calls: Trade
) -> None:
    minted = await tokens.mint(
        kernel, calls.buyer.actor, calls.grant_id, TokenBody(label="revoked")
    )
    headers = bearer(minted.token)
    assert (await client.get(f"{BULK}/manifest", headers=headers)).status_code == 200
    await tokens.revoke(kernel, calls.buyer.actor, minted.id)
    for path in (BULK, f"{BULK}/manifest"):
        refused = await client.get(path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (410, "token_revoked")
