"""What tests of the meter do with it: agreements of 100 rows, deliveries, lost caches."""

import dataclasses
from datetime import UTC, datetime

from contracts import jobs
from contracts.metering import Hold, Meter
from contracts.metering_records import Fact
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from tests.contracts.factories import Trade, grant_of, make_agreement

TOKEN = new_id()


async def again(kernel: Kernel, base: Trade) -> Trade:
    agreement = await make_agreement(kernel, base.buyer, base.seller, base.plan)
    grant = await grant_of(kernel, agreement.id)
    return dataclasses.replace(base, agreement=agreement, grant_id=grant.id)


def fact_of(trade: Trade, hold: Hold, units: int) -> Fact:
    return Fact(
        usage_id=new_id(),
        receipt_id=new_id(),
        grant_id=trade.grant_id,
        agreement_id=trade.agreement.id,
        version_id=trade.agreement.version_id,
        lease_id=hold.lease_id,
        token_id=TOKEN,
        key=hold.key,
        query_sha256="0" * 64,
        format="json",
        units=units,
        rows=units,
        bytes=10 * units,
        body_sha256="f" * 64,
        complete=True,
        delivered_at=datetime.now(UTC),
    )


async def reserve(meter: Meter, trade: Trade, units: int, key: str | None = None) -> Hold:
    outcome = await meter.reserve(trade.grant_id, TOKEN, key=key or new_id().hex, units=units)
    assert isinstance(outcome, Hold)
    return outcome


async def use(meter: Meter, trade: Trade, units: int) -> Fact:
    hold = await reserve(meter, trade, units)
    fact = fact_of(trade, hold, units)
    await meter.settle(hold, fact)
    return fact


async def lose_valkey(kernel: Kernel) -> None:
    await kernel.redis.flushdb()


async def drain_all(kernel: Kernel, trade: Trade) -> None:
    """Let every drain's time pass and close the leases."""
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE contracts.lease SET drain_until = clock_timestamp() - interval '1 second' "
            "WHERE grant_id = $1 AND state = 'draining'",
            trade.grant_id,
        )
    await jobs.end_leases(kernel)


async def units(kernel: Kernel, trade: Trade) -> tuple[int, int]:
    grant = await grant_of(kernel, trade.agreement.id)
    return grant.settled_units, grant.reserved_units
