"""What the gate found once it may reuse for a while, but never for another question."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.delivery.gate import Gate, gate_of
from contracts.delivery.requests import RowsRequest
from contracts.errors import (
    TokenAddressRefused,
    TokenExpired,
    TokenFieldRefused,
    TokenForOtherGrant,
    TokenOperationRefused,
)
from contracts.schemas import TokenBody
from contracts.token_limits import WayOut
from contracts.tokens import mint
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.ratelimit import RateLimited
from tests.contracts.factories import Trade
from tests.settlement.factories import move_clock


async def asking(kernel: Kernel, trade: Trade, **limits: Any) -> RowsRequest:
    """A request with a new token of the trade, which has passed once."""
    body = TokenBody(**{"ttl_s": 3_600, "label": "gate", **limits})
    minted = await mint(kernel, trade.buyer.actor, trade.grant_id, body)
    request = RowsRequest(minted.token, operation=WayOut.ROWS, address="192.0.2.7")
    await gate_of(kernel).authorize(request)
    return request


async def test_a_second_request_asks_the_database_nothing(
    kernel: Kernel, trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await asking(kernel, trade)
    first = await gate_of(kernel).authorize(request)

    def unit_of_work(*_args: Any, **_options: Any) -> UnitOfWork:
        raise AssertionError

    monkeypatch.setattr(type(kernel), "unit_of_work", unit_of_work)
    second = await gate_of(kernel).authorize(request)
    assert second[:2] == first[:2]
    assert second[1] is first[1]


async def test_another_question_is_judged_by_itself(kernel: Kernel, trade: Trade) -> None:
    gate = gate_of(kernel)
    request = await asking(kernel, trade, operations=["rows"], networks=["192.0.2.0/24"])
    with pytest.raises(TokenAddressRefused):
        await gate.authorize(request._replace(address="198.51.100.7"))
    with pytest.raises(TokenOperationRefused):
        await gate.authorize(request._replace(operation=WayOut.BULK))
    with pytest.raises(TokenForOtherGrant):
        await gate.authorize(request._replace(grant_id=new_id()))
    await gate.authorize(request)


async def test_a_narrow_token_stays_narrow(kernel: Kernel, trade: Trade) -> None:
    narrow = await asking(kernel, trade, fields=["id"], row_filter="id < 5")
    wide = await asking(kernel, trade)
    for _ in range(2):
        _, context, _ = await gate_of(kernel).authorize(narrow)
        assert list(context.columns) == ["id"]
        with pytest.raises(TokenFieldRefused):
            context.columns["delay"]
        assert context.only.parameters == (5,)
        _, context, _ = await gate_of(kernel).authorize(wide)
        assert "delay" in context.columns


async def test_every_request_counts_against_the_rate(kernel: Kernel, trade: Trade) -> None:
    request = await asking(kernel, trade, rate_per_minute=3)
    for left in (1, 0):
        _, _, headers = await gate_of(kernel).authorize(request)
        assert f";r={left};" in headers["RateLimit"]
    with pytest.raises(RateLimited):
        await gate_of(kernel).authorize(request)


async def test_passes_are_bounded(
    kernel: Kernel, trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.delivery.gate.CONTEXTS_MAX", 4)
    request, gate = await asking(kernel, trade), Gate(kernel)
    for number in range(9):
        await gate.authorize(request._replace(address=f"192.0.2.{number}"))
    assert len(gate._passes) == 4


async def test_a_token_ends_on_time(kernel: Kernel, trade: Trade) -> None:
    request = await asking(kernel, trade, ttl_s=60)
    await move_clock(kernel, timedelta(seconds=61))
    async with kernel.unit_of_work():
        # Where this process learns of it.
        pass
    with pytest.raises(TokenExpired):
        await gate_of(kernel).authorize(request)
