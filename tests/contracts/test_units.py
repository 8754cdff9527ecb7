"""Plans by MiB, query and compute second: from the rows API to the money."""

import uuid
from typing import Any

import httpx
import pytest

from contracts import jobs, receipts
from contracts.metering import Meter, meter_of
from contracts.schemas import Terms
from market.kernel.context import Kernel
from tests.contracts.factories import (
    Trade,
    agreement_of,
    bearer,
    grant_of,
    make_agreement,
    make_trade,
    mint,
    settled,
)
from tests.contracts.meter_actions import use
from tests.contracts.resale_factories import make_holding, resell
from tests.contracts.test_money import advance, posted, run_jobs
from tests.pricing.factories import MeteredUnit
from tests.settlement.factories import verified

ROWS = "/v1/delivery/rows"
MIB = 1 << 20
SCALES: dict[MeteredUnit, tuple[str, int]] = {
    "mib": ("byte", MIB),
    "query": ("query", 1),
    "compute_second": ("millisecond", 1_000),
}


async def get(
    client: httpx.AsyncClient, token: str, delivery_id: str | None = None, **params: Any
) -> httpx.Response:
    """A page."""
    headers = {"Delivery-Id": delivery_id} if delivery_id else {}
    return await client.get(ROWS, params=params, headers=bearer(token, **headers))


async def leave(kernel: Kernel, trade: Trade, units: int) -> None:
    """Use up all of the grant but ``units``."""
    grant = await grant_of(kernel, trade.agreement.id)
    assert grant.granted_units is not None
    meter = Meter(kernel)
    await use(meter, trade, grant.granted_units - grant.settled_units - units)
    await meter.flush()


@pytest.mark.parametrize("unit", SCALES)
async def test_an_agreement_counts_in_the_finer_unit(kernel: Kernel, unit: MeteredUnit) -> None:
    word, scale = SCALES[unit]
    trade = await make_trade(kernel, unit=unit, lots=3, lot_units=5)
    agreement, grant = trade.agreement, await grant_of(kernel, trade.agreement.id)
    terms = Terms.model_validate(agreement.terms)
    assert {agreement.unit, grant.unit, terms.unit} == {word}
    assert agreement.lot_units == terms.lot_units == 5 * scale
    assert agreement.granted_units == grant.granted_units == terms.granted_units == 15 * scale


@pytest.mark.parametrize("unit", SCALES)
@pytest.mark.parametrize("meter_side", ["buyer_safe", "seller_safe"])
async def test_a_page_is_charged_shown_and_paid_in_its_unit(
    client: httpx.AsyncClient, kernel: Kernel, unit: MeteredUnit, meter_side: str
) -> None:
    word, scale = SCALES[unit]
    price, lots = 1_000_000, 40
    trade = await make_trade(
        kernel, unit=unit, lots=lots, lot_units=1, price_minor=price, meter_side=meter_side
    )
    token = await mint(kernel, trade)
    key = uuid.uuid4().hex
    answer = await get(client, token, key, limit=30)
    assert answer.status_code == 200, answer.text
    charged = int(answer.headers["meter-charged"])
    assert answer.headers["meter-unit"] == word
    assert int(answer.headers["meter-remaining"]) == lots * scale - charged
    if unit != "compute_second":
        assert charged == (len(answer.content) if unit == "mib" else 1)
    assert 1 <= charged < 20_001
    assert await settled(kernel, trade) == charged

    again = await get(client, token, key, limit=30)
    assert (again.content, again.headers["meter-charged"]) == (answer.content, "0")
    other = await get(client, token, key, limit=31)
    assert (other.status_code, other.json()["code"]) == (422, "delivery_id_reused")
    assert await settled(kernel, trade) == charged

    listed = await client.get(f"/v1/agreements/{trade.id}/receipts", headers=trade.seller.headers())
    chain = [item["jws"] for item in listed.json()["items"]]
    (proof,) = receipts.verify_chain(chain, kernel.keys.jwks())
    assert (proof["unit"], proof["units"], proof["rows"]) == (word, charged, 30)
    assert proof["bytes"] == len(answer.content)

    await jobs.accrue(kernel)
    assert await posted(kernel, trade.escrow) == lots * price - charged * price // scale
    await verified(kernel)


@pytest.mark.parametrize("unit", SCALES)
async def test_what_is_shown_says_what_it_counts(
    client: httpx.AsyncClient, kernel: Kernel, unit: MeteredUnit
) -> None:
    word, scale = SCALES[unit]
    trade = await make_trade(kernel, unit=unit, lots=2, lot_units=1)
    await leave(kernel, trade, scale)
    await jobs.accrue(kernel)
    headers = trade.buyer.headers()

    async def shown(path: str) -> Any:
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    grant = await shown(f"/v1/grants/{trade.grant}")
    assert (grant["unit"], grant["remaining_units"]) == (word, scale)
    (record,) = (await shown(f"/v1/grants/{trade.grant}/usage"))["items"]
    assert (record["unit"], record["units"]) == (word, scale)
    (day,) = (await shown(f"/v1/usage?by=day&grant_id={trade.grant}"))["items"]
    assert (day["unit"], day["units"]) == (word, scale)
    alerts = (await shown(f"/v1/usage/alerts?grant_id={trade.grant}"))["items"]
    assert [(each["percent"], each["unit"]) for each in alerts] == [(50, word)]
    export = await client.get(
        f"/v1/usage/export?format=ndjson&grant_id={trade.grant}", headers=headers
    )
    assert f'"unit":"{word}","units":{scale}' in export.text


async def test_bytes_run_out_exactly(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="mib", lots=1, lot_units=1)
    token = await mint(kernel, trade)
    size = len((await get(client, token, limit=5)).content)
    await settled(kernel, trade)
    await leave(kernel, trade, size + 7)
    refused = await get(client, token, limit=50)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (402, "quota_exhausted")
    assert (problem["remaining"], problem["unit"]) == (size + 7, "byte")
    assert await settled(kernel, trade) == MIB - size - 7
    fits = await get(client, token, limit=5)
    assert (fits.status_code, fits.headers["meter-remaining"]) == (200, "7")
    assert await settled(kernel, trade) == MIB - 7


async def test_each_page_of_a_query_is_a_query(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="query", lots=2, lot_units=1)
    token = await mint(kernel, trade)
    first = await get(client, token, limit=10)
    second = await get(client, token, limit=10, after=first.json()["next_after"])
    assert (second.status_code, second.headers["meter-remaining"]) == (200, "0")
    assert second.json()["items"] != first.json()["items"]
    third = await get(client, token, limit=10, after=second.json()["next_after"])
    assert (third.status_code, third.json()["remaining"]) == (402, 0)
    bad = await get(client, token, limit=10, filter="nothing = 1")
    assert bad.status_code in (402, 422)
    assert await settled(kernel, trade) == 2


async def test_time_that_is_left_bounds_the_query(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    # Reading, sorting and copying 50,000 rows takes DuckDB some dozen milliseconds.
    trade = await make_trade(kernel, unit="compute_second", lots=2, lot_units=30, rows=50_000)
    token = await mint(kernel, trade)
    free = await get(client, token, filter="nothing = 1")
    assert (free.status_code, await settled(kernel, trade)) == (422, 0)
    await leave(kernel, trade, 1)
    refused = await get(client, token, limit=10_000, order="-id")
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (402, "quota_exhausted")
    assert (problem["remaining"], problem["unit"]) == (1, "millisecond")
    assert await settled(kernel, trade) == 59_999
    more = await make_agreement(kernel, trade.buyer, trade.seller, trade.plan)
    assert more.granted_units == 30_000


async def test_reserved_time_comes_back(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="compute_second", lots=1, lot_units=21)
    token = await mint(kernel, trade)
    charged = 0
    # The time limit of a query is 20 s: two could never run one after the other without it.
    for _ in range(5):
        answer = await get(client, token, limit=3)
        assert answer.status_code == 200, answer.text
        charged += int(answer.headers["meter-charged"])
    assert await settled(kernel, trade) == charged
    assert int(answer.headers["meter-remaining"]) == 21_000 - charged


@pytest.mark.parametrize("unit", SCALES)
async def test_what_is_not_used_is_refunded(kernel: Kernel, unit: MeteredUnit) -> None:
    _, scale = SCALES[unit]
    trade = await make_trade(kernel, unit=unit, lots=7, lot_units=1, price_minor=999, term_days=10)
    await leave(kernel, trade, 6 * scale - scale // 3)
    used = 7 * scale - (6 * scale - scale // 3)
    await advance(kernel, 11)
    for _ in range(2):
        await run_jobs(kernel)
    agreement = await agreement_of(kernel, trade.agreement.id)
    worth = used * 999 // scale
    assert agreement.escrow_minor == 0
    assert (agreement.released_minor, agreement.refunded_minor) == (worth, 7 * 999 - worth)
    await verified(kernel)


@pytest.mark.parametrize("unit", SCALES)
async def test_resold_units_keep_their_scale(kernel: Kernel, unit: MeteredUnit) -> None:
    word, scale = SCALES[unit]
    trade = await make_holding(kernel, unit=unit, lots=5, lot_units=2, price_minor=1_000)
    sold = await resell(kernel, trade, lots=2, price_minor=1_200)
    grant = await grant_of(kernel, sold.agreement.id)
    source = await grant_of(kernel, trade.agreement.id)
    assert (grant.unit, grant.granted_units) == (word, 4 * scale)
    assert (source.resold_units, source.offered_units) == (4 * scale, 0)
    meter = meter_of(kernel)
    await use(meter, sold, 3 * scale)
    await meter.flush()
    await jobs.accrue(kernel)
    released = (await agreement_of(kernel, sold.agreement.id)).released_minor
    assert released == 3 * scale * 1_200 // (2 * scale)
    # The original seller is owed for what was sold on.
    assert (await agreement_of(kernel, trade.agreement.id)).released_minor == 2_000
    await verified(kernel)
