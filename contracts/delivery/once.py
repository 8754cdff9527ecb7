"""Once per Delivery-Id: what every way out does around its reservation.

A delivery that was settled under the same id is free to repeat; a way out only has to say what
"the same" is, by the digest of what was asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlmodel import select

from contracts.delivery.token_reader import token_reader
from contracts.errors import (
    DeliveryIdExpired,
    DeliveryIdInvalid,
    DeliveryIdReused,
    DeliveryIncomplete,
    MeterRecovering,
    QuotaExhausted,
)
from contracts.metering import Delivered, Hold, meter_of
from contracts.metering_records import Fact
from contracts.models import Delivery, Unit
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show

REPLAY_FREE = timedelta(hours=24)
DELIVERY_ID_PATTERN = "^[A-Za-z0-9._:-]{8,64}$"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A delivery that was settled under the same Delivery-Id.

    ``assumed``: billed although nobody knows whether anything was sent (``seller_safe``).
    """

    query_sha256: str
    complete: bool
    delivered_at: datetime
    receipt_id: UUID
    assumed: bool = False


def checked_key(delivery_id: str | None) -> str:
    """The client's Delivery-Id, or a new one. Raises DeliveryIdInvalid (422)."""
    if delivery_id is None:
        return new_id().hex
    if not re.fullmatch(DELIVERY_ID_PATTERN, delivery_id):
        raise DeliveryIdInvalid(param="Delivery-Id")
    return delivery_id


async def find_earlier(kernel: Kernel, grant_id: UUID, delivery_id: str | None) -> Earlier | None:
    """The recorded delivery of that id; None also without an id."""
    if delivery_id is None:
        return None
    query = select(Delivery).where(
        Delivery.grant_id == grant_id, Delivery.delivery_key == delivery_id
    )
    async with kernel.unit_of_work() as uow:
        row = (await uow.session.exec(query)).one_or_none()
    if row is None:
        return None
    return Earlier(row.query_sha256, row.complete, row.delivered_at, row.receipt_id, row.assumed)


async def reserve_once(
    kernel: Kernel,
    whole: Fact,
    *,
    delivery_id: str | None,
    seller_safe: bool,
    sub_lease_units: int = 0,
) -> Hold | Earlier:
    """Reserve ``whole.units``, or find that ``delivery_id`` has been delivered.

    ``whole`` is the delivery as it will have been if all of it arrives. ``sub_lease_units`` is
    the policy's; an id of the client's own is always reserved where all processes see it. Raises
    as :meth:`contracts.metering.Meter.reserve`.
    """
    meter = meter_of(kernel)
    quota_id = (await token_reader(kernel).limits(whole.token_id)).quota_id
    alone = delivery_id is None and not seller_safe and quota_id is None
    try:
        outcome = await meter.reserve(
            whole.grant_id,
            whole.token_id,
            key=whole.key,
            units=whole.units,
            planned=whole._replace(assumed=True) if seller_safe else None,
            block_units=sub_lease_units if alone else 0,
            quota_id=quota_id,
        )
    except (QuotaExhausted, MeterRecovering):
        earlier = await find_earlier(kernel, whole.grant_id, delivery_id)
        if earlier is None:
            raise
        return earlier
    if isinstance(outcome, Delivered):
        fact = outcome.fact
        return Earlier(
            fact.query_sha256, fact.complete, fact.delivered_at, fact.receipt_id, fact.assumed
        )
    # After reserving, not before: a fact leaves the cache only when it is durable, so one of
    # the two always knows it.
    try:
        earlier = await find_earlier(kernel, whole.grant_id, delivery_id)
    except BaseException:
        # Else nobody could use the id until the hold is overdue, and a seller-safe one was billed.
        await meter.release(outcome)
        raise
    if earlier is None:
        return outcome
    await meter.release(outcome)
    return earlier


def require_replayable(earlier: Earlier, query_sha256: str, *, now: datetime) -> None:
    """Raises DeliveryIdReused (422), DeliveryIncomplete or DeliveryIdExpired (409)."""
    if earlier.query_sha256 != query_sha256:
        raise DeliveryIdReused(param="Delivery-Id")
    if not earlier.complete:
        raise DeliveryIncomplete(param="Delivery-Id")
    if now - earlier.delivered_at > REPLAY_FREE:
        raise DeliveryIdExpired(param="Delivery-Id")


def meter_headers(
    charged: int, remaining: int | None, receipt_id: UUID, *, unit: Unit | None = None
) -> dict[str, str]:
    """What an answer says of its charge; ``remaining`` None: no bound."""
    headers = {"Meter-Charged": str(charged), "Receipt-Id": show("rcp", receipt_id)}
    if unit is not None:
        headers["Meter-Unit"] = unit.value
    if remaining is not None:
        headers["Meter-Remaining"] = str(remaining)
    return headers
