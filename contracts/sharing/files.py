"""Sending a query's file: each piece reserves before it is sent, and settles what was sent.

Clients read a file in many ranges and some of them several times (delivery.md §4: 11 calls for
one load). So the bytes that were sent are remembered, and what is due is proportional to them:
sending a byte again is free, and a whole file costs exactly the rows in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import update
from sqlmodel import col, select

from contracts.delivery.once import Earlier, reserve_once
from contracts.delivery.token_reader import token_reader
from contracts.errors import DeliveryInProgress, MeterUnavailable, QuotaExhausted
from contracts.metering import Hold, meter_of
from contracts.metering_asked import Asked
from contracts.metering_records import Fact
from contracts.sharing import ranges
from contracts.sharing.errors import FileLinkInvalid, SharingRequestInvalid
from contracts.sharing.models import ShareQuery
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.parties.directory import get_party
from market.parties.errors import PartySuspended
from market.parties.models import PartyStatus

FORMAT = "sharing"
SEND_MARGIN_S = 2
# Another request may be sending the same bytes; it ends within its hold.
TURN_S = 0.05
_NO_LEASE = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Piece:
    """A range that may be sent until ``deadline`` (``time.monotonic``). No hold: it is free."""

    span: ranges.Range
    hold: Hold | None
    fact: Fact | None
    deadline: float


async def find(kernel: Kernel, query_id: UUID) -> ShareQuery:
    """The record of a link's query. Raises FileLinkInvalid (403), PartySuspended (403)."""
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(ShareQuery, query_id)
        if found is None or found.blob_key is None:
            raise FileLinkInvalid
        buyer = await get_party(uow, found.buyer_id)
    if buyer.status is PartyStatus.SUSPENDED:
        raise PartySuspended
    return found


async def admit(kernel: Kernel, query: ShareQuery, *, address: str | None) -> None:
    """Refuse an ended grant or token, and addresses that the token is not for.

    Raises as :meth:`contracts.metering.Meter.admit`, TokenAddressRefused (403).
    """
    limits = await token_reader(kernel).limits(query.token_id)
    limits.require_address(address)
    try:
        await meter_of(kernel).admit(query.grant_id, query.token_id)
    except QuotaExhausted:
        # What has been paid for can be fetched again; the rest is refused by its reservation.
        return


async def reserve(kernel: Kernel, query: ShareQuery, span: ranges.Range) -> Piece:
    """Set aside what sending ``span`` may cost.

    Raises as :meth:`contracts.metering.Meter.reserve`; SharingRequestInvalid (400) for a file
    read in too many scattered pieces.
    """
    meter = meter_of(kernel)
    until = time.monotonic() + meter.hold_s
    while True:
        covered = [(start, end) for start, end in query.covered]
        after = ranges.add(covered, span)
        if len(after) > ranges.PIECES_MAX:
            raise SharingRequestInvalid("The file is read in too many pieces.", param="Range")
        units = _owed(query, ranges.size_of(after)) - query.charged
        if query.charged >= query.units or ranges.size_of(after) == query.covered_bytes:
            return Piece(span, None, None, time.monotonic() + meter.hold_s)
        key = f"{query.id.hex}.{span[0]:x}-{span[1]:x}.{query.covered_bytes:x}"
        fact = _fact(kernel, query, key, span, max(1, units))
        try:
            outcome = await _reserve(kernel, query, fact)
        except DeliveryInProgress:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(TURN_S)
            query = await find(kernel, query.id)
            continue
        if isinstance(outcome, Earlier):
            # Billed by the sweeper for a process that died: it is paid, so it is covered.
            await _cover(kernel, query.id, span, paid=True)
            query = await find(kernel, query.id)
            continue
        left_s = outcome.deadline - time.monotonic() - SEND_MARGIN_S
        if left_s <= 0:
            await meter.release(outcome)
            raise MeterUnavailable("The reservation ended before the file was ready.")
        return Piece(span, outcome, fact, outcome.deadline - SEND_MARGIN_S)


async def _reserve(kernel: Kernel, query: ShareQuery, fact: Fact) -> Hold | Earlier:
    """A unit more than the piece costs by itself, if there is one: beside a concurrent piece its
    bytes may round to that, floor(a + b) <= floor(a) + floor(b) + 1.
    """
    whole = partial(reserve_once, kernel, delivery_id=fact.key, seller_safe=query.seller_safe)
    # What is billed without proof must not be more than the piece.
    if not query.seller_safe and fact.units < query.units - query.charged:
        with contextlib.suppress(QuotaExhausted):
            return await whole(fact._replace(units=fact.units + 1))
    return await whole(fact)


async def settle(kernel: Kernel, query: ShareQuery, piece: Piece, sent: int, sha256: str) -> None:
    """Charge for the first ``sent`` bytes of the piece, as far as they were not paid before."""
    if piece.hold is None or piece.fact is None:
        return
    meter = meter_of(kernel)
    if sent == 0:
        await meter.release(piece.hold)
        return
    start, end = piece.span
    due = await _cover(kernel, query.id, (start, start + sent), most=piece.hold.units)
    if due == 0:
        await meter.release(piece.hold)
        return
    rows = ranges.owed(query.row_count, query.byte_count, sent)
    if query.in_parts:
        rows = query.row_count * due // query.units
    fact = _fact(kernel, query, piece.fact.key, (start, start + sent), due)
    await meter.settle(
        piece.hold,
        _with(fact, piece, rows=rows, sha256=sha256, complete=start + sent == end),
    )


def _owed(query: ShareQuery, covered: int) -> int:
    if query.in_parts:
        return ranges.owed(query.units, query.byte_count, covered)
    return query.units if covered else 0


async def _cover(
    kernel: Kernel,
    query_id: UUID,
    span: ranges.Range,
    *,
    most: int | None = None,
    paid: bool = False,
) -> int:
    """Remember that ``span`` was sent; the units that are due for it now, ``most`` at most."""
    async with kernel.unit_of_work() as uow:
        statement = select(ShareQuery).where(ShareQuery.id == query_id).with_for_update()
        row = (await uow.session.exec(statement)).one()
        covered = ranges.add([(start, end) for start, end in row.covered], span)
        size = ranges.size_of(covered)
        due = max(0, _owed(row, size) - row.charged)
        if most is not None:
            due = min(due, most)
        await uow.session.exec(
            update(ShareQuery)
            .where(col(ShareQuery.id) == query_id)
            .values(
                covered=[list(each) for each in covered],
                covered_bytes=size,
                charged=row.charged + due,
            )
        )
    return 0 if paid else due


def _fact(kernel: Kernel, query: ShareQuery, key: str, span: ranges.Range, units: int) -> Fact:
    return Fact(
        usage_id=new_id(),
        receipt_id=new_id(),
        grant_id=query.grant_id,
        agreement_id=query.agreement_id,
        version_id=query.version_id,
        lease_id=_NO_LEASE,
        token_id=query.token_id,
        key=key,
        query_sha256=query.query_sha256,
        format=FORMAT,
        units=units,
        rows=query.row_count * units // query.units if query.in_parts else query.row_count,
        bytes=span[1] - span[0],
        body_sha256="",
        complete=True,
        delivered_at=kernel.clock.now(),
        asked=Asked(fields=tuple(query.fields)),
    )


def _with(fact: Fact, piece: Piece, *, rows: int, sha256: str, complete: bool) -> Fact:
    assert piece.hold is not None
    return fact._replace(
        lease_id=piece.hold.lease_id, rows=rows, body_sha256=sha256, complete=complete
    )
