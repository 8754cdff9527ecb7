"""Observations: what matching records and what the market approach finds again."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.security import Role
from pricing.models import Plan, Unit
from pricing.observations import COMPARABLES_MAX, Observation, comparables, record
from pricing.sql import ComparableRow
from tests.listings.factories import make_listing
from tests.market.parties.factories import make_party
from tests.pricing.factories import make_plan, offer_again


def seen(plan: Plan, category: str, price_minor: int, at: datetime) -> Observation:
    return Observation(plan.id, plan.listing_id, category, price_minor, 1, plan.currency, at)


async def find(
    kernel: Kernel, category: str, *, except_listing: uuid.UUID, window_days: int = 30
) -> list[ComparableRow]:
    async with kernel.unit_of_work() as uow:
        return await comparables(
            uow,
            category=category,
            currency="CNY",
            unit=Unit.ROW,
            window_days=window_days,
            except_listing=except_listing,
        )


async def test_comparables_are_medians_per_listing_in_the_window(kernel: Kernel) -> None:
    seller = await make_party(kernel, Role.SELLER)
    made = await make_listing(kernel, seller)
    own = made.listing_id
    other, third = [await offer_again(kernel, seller, made.product_id) for _ in range(2)]
    small = await make_plan(kernel, seller, other, lot_units=100)
    large = await make_plan(kernel, seller, other, lot_units=1_000)
    calls = await make_plan(kernel, seller, other, unit="call", lot_units=1)
    mine = await make_plan(kernel, seller, own, lot_units=1)
    old = await make_plan(kernel, seller, third, lot_units=3)
    category = f"category-{new_id().hex}"
    async with kernel.unit_of_work() as uow:
        now = uow.now
        await record(
            uow,
            [
                seen(small, category, 120, now),
                seen(large, category, 1_000, now - timedelta(days=1)),
                seen(large, category, 1_500, now - timedelta(days=2)),
                seen(calls, category, 9_999, now),
                seen(mine, category, 77, now),
                seen(old, category, 10, now - timedelta(days=40)),
                seen(large, "another category", 5, now),
                seen(large, category, 5, now + timedelta(days=1)),
            ],
        )
        await record(uow, [])
    found = await find(kernel, category, except_listing=own)
    assert found == [ComparableRow(other, Decimal("1.2"), 3, now)]
    wider = await find(kernel, category, except_listing=own, window_days=60)
    assert [row.listing_id for row in wider] == [other, third]
    assert wider[1].unit_price.quantize(Decimal("1e-9")) == Decimal("3.333333333")
    assert await find(kernel, "no such category", except_listing=own) == []


async def test_a_wrong_batch_leaves_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    listing_id = (await make_listing(kernel, seller)).listing_id
    plan = await make_plan(kernel, seller, listing_id)
    category = f"category-{new_id().hex}"
    now = kernel.clock.now()
    unknown = Observation(new_id(), listing_id, category, 1, 1, "CNY", now)
    with pytest.raises(ValueError, match="does not exist"):
        async with kernel.unit_of_work() as uow:
            await record(uow, [seen(plan, category, 1, now), unknown])
    monkeypatch.setattr("pricing.observations.OBSERVATIONS_PER_BATCH_MAX", 1)
    with pytest.raises(ValueError, match="at most 1"):
        async with kernel.unit_of_work() as uow:
            await record(uow, [seen(plan, category, 1, now)] * 2)
    assert await find(kernel, category, except_listing=new_id()) == []


async def test_one_busy_listing_is_one_voice_and_the_list_is_bounded(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    plan = await make_plan(
        kernel, seller, (await make_listing(kernel, seller)).listing_id, lot_units=1
    )
    category = f"category-{new_id().hex}"
    strangers = [new_id() for _ in range(COMPARABLES_MAX + 5)]
    async with kernel.unit_of_work() as uow:
        await record(
            uow,
            [
                Observation(plan.id, stranger, category, 5, 1, "CNY", uow.now)
                for stranger in strangers
            ]
            + [seen(plan, category, 1_000, uow.now)] * 500,
        )
    found = await find(kernel, category, except_listing=strangers[0])
    assert len(found) == COMPARABLES_MAX
    monkeypatch.setattr("pricing.observations.COMPARABLES_MAX", 200)
    everybody = await find(kernel, category, except_listing=strangers[0])
    assert len(everybody) == COMPARABLES_MAX + 5
    assert [row.trades for row in everybody if row.listing_id == plan.listing_id] == [500]
