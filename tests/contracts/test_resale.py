"""Resale of units: what moves, what is owed, what binds the next buyer, what the trace shows."""

import asyncio
from datetime import timedelta

import asyncpg
import httpx
import pytest

from contracts import grants as grant_service, jobs, resale
from contracts.agreement_states import AgreementStatus
from contracts.errors import GrantNotFound, QuotaExhausted, ResaleNotAllowed, ResalePlanMismatch
from contracts.metering import meter_of
from contracts.models import GrantStatus
from contracts.resale import Source
from contracts.resale_terms import last_offer, may_resell
from contracts.schemas import Terms
from contracts.trace import verify_trace
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role, verify_with_jwks
from pricing.schemas import ShareInput, SharesInput
from pricing.shares import set_shares
from settlement.accounts import AccountKind, AccountRef
from tests.contracts.factories import Trade, bearer, grant_of, make_agreement, make_trade, mint
from tests.contracts.resale_factories import change, holding, make_holding, move, resell
from tests.market.parties.factories import make_party
from tests.settlement.factories import available, fund, state, verified

FEES = AccountRef(AccountKind.FEES, None, "CNY")


async def read(client: httpx.AsyncClient, kernel: Kernel, trade: Trade, rows: int) -> int:
    """Read rows as the holder; the HTTP status."""
    answer = await client.get(
        "/v1/delivery/rows", params={"limit": rows}, headers=bearer(await mint(kernel, trade))
    )
    await meter_of(kernel).flush()
    return answer.status_code


async def posted(kernel: Kernel, ref: AccountRef) -> int:
    return (await state(kernel, ref))[0]


async def source_of(kernel: Kernel, trade: Trade) -> Source:
    async with kernel.unit_of_work() as uow:
        return (await resale.read_sources(uow, [trade.grant_id]))[trade.grant_id]


async def test_offered_units_are_not_delivered_until_taken_back(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_holding(kernel, lots=1, lot_units=100)
    await change(kernel, trade.grant_id, offered=95)
    assert await read(client, kernel, trade, 6) == 402
    assert await read(client, kernel, trade, 5) == 200
    view = await grant_service.get_grant(kernel, trade.buyer.actor, trade.grant_id)
    assert (view.settled_units, view.offered_units, view.remaining_units) == (5, 95, 0)
    assert view.status is GrantStatus.ACTIVE
    await change(kernel, trade.grant_id, offered=-95)
    assert await read(client, kernel, trade, 95) == 200
    assert (await grant_of(kernel, trade.agreement.id)).status is GrantStatus.EXHAUSTED


async def test_units_lent_to_the_meter_cannot_be_offered(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_holding(kernel, lots=1, lot_units=100)
    assert await read(client, kernel, trade, 3) == 200
    lent = (await grant_of(kernel, trade.agreement.id)).reserved_units
    free = (await source_of(kernel, trade)).free_units
    assert (lent, free) == (7, 90)
    with pytest.raises(asyncpg.CheckViolationError):
        await change(kernel, trade.grant_id, offered=free + 1)
    await change(kernel, trade.grant_id, offered=free)


async def test_a_sale_moves_units_and_both_sides_use_exactly_theirs(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_holding(kernel, lots=10, lot_units=10)
    assert await read(client, kernel, trade, 30) == 200
    sold = await resell(kernel, trade, lots=5, price_minor=1_200)
    agreement, grant = await holding(kernel, sold)
    assert (grant.granted_units, grant.resold_from) == (50, trade.agreement.id)
    assert grant.expires_at == trade.agreement.expires_at
    assert (agreement.seller_id, agreement.total_minor) == (trade.buyer.party_id, 6_000)
    assert await read(client, kernel, trade, 21) == 402
    assert await read(client, kernel, trade, 20) == 200
    assert await read(client, kernel, sold, 51) == 402
    assert await read(client, kernel, sold, 50) == 200
    before = await holding(kernel, trade)
    assert (before[1].settled_units, before[1].resold_units) == (50, 50)
    assert before[1].status is GrantStatus.EXHAUSTED


async def test_the_seller_is_paid_for_resold_units_and_gets_its_royalty(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_holding(kernel, lots=10, lot_units=10, price_minor=1_000)
    await jobs.accrue(kernel)
    fees = await posted(kernel, FEES)
    sold = await resell(kernel, trade, lots=4, price_minor=2_000)
    await jobs.accrue(kernel)
    # 40 of 100 units at 1,000 per ten: 4,000 released, 5 % of it to the platform.
    assert await posted(kernel, trade.escrow) == 6_000
    assert await posted(kernel, available(trade.seller.party_id)) == 3_800
    assert await read(client, kernel, sold, 40) == 200
    await jobs.accrue(kernel)
    # 8,000: fee 400, a tenth of the net 7,600 to the original seller, the rest to the reseller.
    assert await posted(kernel, sold.escrow) == 0
    assert await posted(kernel, available(trade.seller.party_id)) == 3_800 + 760
    assert await posted(kernel, available(trade.buyer.party_id)) == 6_840
    assert await posted(kernel, FEES) - fees == 200 + 400
    assert (await holding(kernel, sold))[0].status is AgreementStatus.SETTLED
    await verified(kernel)


async def test_unused_units_are_refunded_but_resold_ones_never(kernel: Kernel) -> None:
    trade = await make_holding(kernel, lots=10, lot_units=10, price_minor=1_000)
    await resell(kernel, trade, lots=4, price_minor=2_000)
    async with kernel.unit_of_work() as uow:
        await grant_service.expire(uow, kernel, trade.agreement.id)
    await jobs.close_out(kernel)
    agreement, grant = await holding(kernel, trade)
    assert (agreement.released_minor, agreement.refunded_minor) == (4_000, 6_000)
    assert (grant.status, grant.accrued_units) == (GrantStatus.EXPIRED, 40)
    assert await posted(kernel, trade.escrow) == 0


async def test_a_royalty_is_cut_like_the_sellers_own_sales_and_again_when_resold_again(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    base = await make_holding(kernel, lots=1, lot_units=10)
    helper = await make_party(kernel, Role.SELLER)
    shares = SharesInput(shares=[ShareInput(party_id=helper.party_id, ppm=333_333)])
    await set_shares(kernel, base.seller.actor, base.plan.listing_id, shares, expected_version=0)
    agreement = await make_agreement(kernel, base.buyer, base.seller, base.plan, lots=10)
    grant = await grant_of(kernel, agreement.id)
    first = Trade(base.buyer, base.seller, base.plan, agreement, grant.id)
    second = await resell(kernel, first, lots=4, price_minor=1_000)
    third = await resell(kernel, second, lots=3, price_minor=1_000)
    expected = [(helper.party_id, 33_333), (base.seller.party_id, 66_667)]
    for trade, parent in ((second, first), (third, second)):
        terms = Terms.model_validate(trade.agreement.terms)
        assert [(share.party_id, share.ppm) for share in terms.shares] == expected
        assert terms.resale is not None
        assert terms.resale.resold_from == parent.agreement.id
        assert terms.resale.original_agreement_id == first.agreement.id
        assert terms.intermediary is None
    assert await read(client, kernel, third, 30) == 200
    await jobs.accrue(kernel)
    # Net 2,850: a third of the tenth, the rest of the tenth, the rest.
    assert await posted(kernel, available(third.seller.party_id)) == 2_850 - 95 - 190


async def test_the_original_policy_and_version_bind_the_next_buyer(kernel: Kernel) -> None:
    trade = await make_holding(kernel, lots=2, period_days=10)
    sold = await resell(kernel, trade, lots=1, price_minor=500)
    before, after = (Terms.model_validate(one.agreement.terms) for one in (trade, sold))
    assert after.policy == before.policy
    assert (after.version_id, after.data_sha256) == (before.version_id, before.data_sha256)
    assert after.expires_at == before.expires_at == before.formed_at + timedelta(days=10)
    assert after.tax is not None
    assert (after.tax.rate_ppm, after.tax.without_tax_minor) == (0, 500)


async def test_who_may_offer_what(kernel: Kernel) -> None:
    trade = await make_holding(kernel, lots=1)
    source = await source_of(kernel, trade)
    holder = trade.buyer.party_id
    assert resale.check_offer(source, holder_id=holder, plan_id=trade.plan.id) is source
    for wrong in (None, source):
        with pytest.raises(GrantNotFound):
            resale.check_offer(wrong, holder_id=new_id(), plan_id=trade.plan.id)
    with pytest.raises(ResalePlanMismatch):
        resale.check_offer(source, holder_id=holder, plan_id=new_id())
    plain = await make_trade(kernel)
    license_trade = await make_trade(kernel, kind="license")
    for other in (plain, license_trade):
        found = await source_of(kernel, other)
        with pytest.raises(ResaleNotAllowed):
            resale.check_offer(found, holder_id=found.holder_id, plan_id=found.plan_id)
    counted = source.terms.policy.model_copy(update={"count": 3})
    assert may_resell(source.terms)
    assert not may_resell(source.terms.model_copy(update={"policy": counted}))


async def test_nothing_is_sold_from_an_ended_grant_or_too_near_its_end(kernel: Kernel) -> None:
    trade = await make_holding(kernel, resale={"min_remaining_days": 100})
    source = await source_of(kernel, trade)
    end = last_offer(source.terms)
    assert end == source.terms.expires_at - timedelta(days=100)
    assert resale.inactive(source, end - timedelta(seconds=1)) is None
    late = resale.inactive(source, end)
    assert late is not None
    assert late.code == "resale_grant_inactive"
    async with kernel.unit_of_work() as uow:
        await grant_service.suspend(uow, kernel, trade.agreement.id)
    suspended = resale.inactive(await source_of(kernel, trade), end - timedelta(days=1))
    assert suspended is not None
    assert suspended.code == "resale_grant_inactive"


async def test_lineage_is_in_the_trace_and_in_every_receipt(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_holding(kernel, lots=4)
    second = await resell(kernel, trade, lots=3, price_minor=500)
    third = await resell(kernel, second, lots=2, price_minor=500)
    assert await read(client, kernel, third, 5) == 200
    jwks = (await client.get("/.well-known/jwks.json")).json()
    seen = {}
    for one in (trade, second, third):
        answer = await client.get(f"/v1/agreements/{one.id}/trace", headers=one.buyer.headers())
        verify_trace(answer.json(), jwks)
        links = {link["section"]: link["data"] for link in answer.json()["links"]}
        seen[one.id] = links["resale"]
    assert [link["agreement_id"] for link in seen[third.id]["resold_from"]] == [
        second.id,
        trade.id,
    ]
    (onward,) = seen[trade.id]["resold_to"]
    assert (onward["agreement_id"], onward["units"]) == (second.id, 30)
    assert seen[trade.id]["terms"] is None
    receipts = await client.get(
        f"/v1/agreements/{third.id}/receipts", headers=third.buyer.headers()
    )
    (receipt,) = receipts.json()["items"]
    claims = verify_with_jwks("receipt+jws", receipt["jws"], jwks)
    assert claims["resold_from"] == show("agr", second.agreement.id)


async def test_a_sale_that_rolls_back_has_moved_nothing(kernel: Kernel) -> None:
    trade = await make_holding(kernel, lots=2)
    await change(kernel, trade.grant_id, offered=20)
    buyer = await make_party(kernel, Role.BUYER)
    await fund(kernel, buyer.party_id, 500)

    async def crash() -> None:
        async with kernel.unit_of_work() as uow:
            await move(uow, kernel, trade, buyer, lots=1, price_minor=500)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await crash()
    _, grant = await holding(kernel, trade)
    assert (grant.offered_units, grant.resold_units) == (20, 0)
    assert await posted(kernel, available(buyer.party_id)) == 500
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        query = "SELECT count(*) FROM contracts.resale WHERE from_grant_id = $1"
        assert await connection.fetchval(query, trade.grant_id) == 0


async def test_use_and_offers_race_for_the_same_units(kernel: Kernel) -> None:
    trade = await make_holding(kernel, lots=1, lot_units=100)
    meter, token = meter_of(kernel), new_id()

    async def use() -> int:
        try:
            await meter.reserve(trade.grant_id, token, key=new_id().hex, units=10)
        except QuotaExhausted:
            return 0
        return 10

    async def offer() -> int:
        try:
            await change(kernel, trade.grant_id, offered=10)
        except asyncpg.CheckViolationError:
            return 0
        return 10

    taken = await asyncio.gather(*(attempt() for _ in range(12) for attempt in (use, offer)))
    grant = await grant_of(kernel, trade.agreement.id)
    assert sum(taken[1::2]) == grant.offered_units
    assert sum(taken[0::2]) <= grant.reserved_units
    assert grant.offered_units + grant.reserved_units <= 100
    assert sum(taken) == 100
