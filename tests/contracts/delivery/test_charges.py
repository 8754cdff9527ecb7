"""What deliveries cost in each unit: pure figures, and pages that break off."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from contracts.delivery.charges import DIVISIBLE, part_units, whole_ms, whole_units
from contracts.delivery.requests import RowsRequest
from contracts.delivery.rows import RowsService
from contracts.models import Unit
from contracts.schemas import TokenBody
from contracts.tokens import mint as mint_token
from market.kernel.context import Kernel
from tests.contracts.factories import grant_of, make_trade, mint, settled
from tests.pricing.factories import MeteredUnit

UNITS = st.sampled_from(list(Unit))


@given(unit=UNITS, units=st.integers(0, 10**12), size=st.integers(1, 10**9), data=st.data())
def test_parts_cost_their_share_and_never_more_than_the_whole(
    unit: Unit, units: int, size: int, data: Any
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=5)))
    costs = [part_units(unit, units, sent=sent, size=size) for sent in (0, *cuts, size)]
    assert costs == sorted(costs)
    assert costs[-1] == units
    if unit in DIVISIBLE:
        assert all(cost * size <= units * sent for cost, sent in zip(costs[1:], cuts, strict=False))
    else:
        assert {part_units(unit, units, sent=sent, size=size) for sent in range(min(size, 9))} == {
            0
        }


@given(rows=st.integers(0, 10**6), size=st.integers(1, 10**9))
def test_bytes_of_a_body_are_its_length(rows: int, size: int) -> None:
    assert whole_units(Unit.BYTE, rows=rows, size=size) == size
    assert whole_units(Unit.ROW, rows=rows, size=size) == rows
    for unit in (Unit.CALL, Unit.QUERY, Unit.LICENSE):
        assert whole_units(unit, rows=rows, size=size) == 1
    # However a body is cut, its bytes are the bytes that arrived.
    assert part_units(Unit.BYTE, size, sent=size // 3, size=size) == size // 3


@given(st.integers(0, 10**15))
def test_begun_milliseconds_count(nanoseconds: int) -> None:
    ms = whole_ms(nanoseconds)
    assert ms >= 1
    assert (ms - 1) * 1_000_000 < max(1, nanoseconds) <= ms * 1_000_000


@pytest.mark.parametrize("unit", ["row", "call", "mib", "query", "compute_second"])
async def test_a_page_that_breaks_off_costs_what_arrived(kernel: Kernel, unit: MeteredUnit) -> None:
    trade = await make_trade(kernel, unit=unit, lots=1, lot_units=100)
    granted = trade.agreement.granted_units
    assert granted is not None
    request = RowsRequest(token=await mint(kernel, trade), limit=60)
    paid = 0
    for tenths in (0, 5, 10):
        response = await RowsService(kernel).deliver(request)
        size = len(response.body)
        charged = int(response.headers["meter-charged"])
        sent = size * tenths // 10
        rest = response._finish(sent)
        if rest is not None:
            await rest
        paid += part_units(
            Unit((await grant_of(kernel, trade.agreement.id)).unit), charged, sent=sent, size=size
        )
        assert await settled(kernel, trade) == paid
    assert paid > 0


async def test_a_tokens_own_quota_bounds_the_time_of_a_query(kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="compute_second", lots=1, lot_units=100)
    body = TokenBody(ttl_s=3_600, label="test", quota=5_000)
    token = (await mint_token(kernel, trade.buyer.actor, trade.grant_id, body)).token
    paid = 0
    for _ in range(2):
        response = await RowsService(kernel).deliver(RowsRequest(token=token, limit=10))
        paid += int(response.headers["meter-charged"])
        # The limit of a query is 20 s, more than the token may use.
        assert int(response.headers["meter-remaining"]) == 5_000 - paid
        rest = response._finish(len(response.body))
        assert rest is not None
        await rest
        assert await settled(kernel, trade) == paid
