"""Settlement offers between the two sides, at any stage; arbiters do not see them.

One offer stands at a time: a counter-offer ends the one before it. An offer also ends when it
expires and when a ruling is made, so that nobody can take an old offer after losing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlmodel import col, select

from contracts import dispute_states as machine
from contracts.dispute_cases import (
    find,
    is_party,
    lock,
    note,
    number_of,
    side_of,
    view as dispute_view,
)
from contracts.dispute_closing import execute_settlement
from contracts.dispute_errors import (
    DisputeStateRefused,
    OfferNotFound,
    OfferStale,
    OffersWithoutPrejudice,
    WrongSide,
)
from contracts.dispute_models import Dispute, DisputeOffer
from contracts.dispute_schemas import DisputeView, OfferRequest, OfferView
from contracts.dispute_states import ACTIVE
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role

PER_DISPUTE_MAX = 50


async def make(kernel: Kernel, actor: Actor, dispute_id: UUID, body: OfferRequest) -> OfferView:
    """Offer the other side a settlement; replaces whatever offer stood.

    Raises DisputeNotFound (404), WrongSide (403), DisputeStateRefused, DeadlinePassed (409).
    """
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        side_of(dispute, actor)
        machine.negotiable(docket.case, uow.now)
        latest = await _latest(uow, dispute_id)
        number = 1 if latest is None else latest.number + 1
        if number > PER_DISPUTE_MAX:
            raise DisputeStateRefused(
                f"A dispute takes at most {PER_DISPUTE_MAX} offers.",
                current=dispute.status.value,
            )
        offer = DisputeOffer(
            dispute_id=dispute_id,
            number=number,
            offered_by=actor.party_id,
            buyer_ppm=body.buyer_ppm,
            access=body.access,
            message=body.message,
            ruling_id=dispute.ruling_id,
            offered_at=uow.now,
            expires_at=uow.now + timedelta(days=body.valid_days),
        )
        uow.session.add(offer)
        note(uow, dispute, kind="offer", actor_id=actor.party_id, data={"number": number})
        answer = _view(offer, dispute, latest=number, now=uow.now)
        location = f"/v1/disputes/{show('dsp', dispute_id)}/offers/{number}"
        await uow.answer(answer, headers={"Location": location})
    return answer


async def accept(kernel: Kernel, actor: Actor, dispute_id: UUID, number: int) -> DisputeView:
    """Take the other side's standing offer: money and access move at once.

    Raises DisputeNotFound, OfferNotFound (404), WrongSide (403), OfferStale,
    DisputeStateRefused, DeadlinePassed (409).
    """
    async with kernel.unit_of_work() as uow:
        docket = await lock(uow, dispute_id, actor)
        dispute = docket.dispute
        side_of(dispute, actor)
        case = machine.settle(docket.case, uow.now)
        offer = await uow.session.get(DisputeOffer, (dispute_id, number))
        if offer is None:
            raise OfferNotFound(param="number")
        if offer.offered_by == actor.party_id:
            raise WrongSide("An offer is accepted by the other side.")
        latest = await _latest(uow, dispute_id)
        assert latest is not None
        if not _stands(offer, dispute, latest=latest.number, now=uow.now):
            raise OfferStale
        outcome = await execute_settlement(
            uow, kernel, docket, case, offer=offer, actor_id=actor.party_id
        )
        answer = dispute_view(dispute, outcome)
        await uow.answer(answer, status=200)
    return answer


async def list_offers(
    kernel: Kernel, actor: Actor, dispute_id: UUID, *, page: PageQuery
) -> Page[OfferView]:
    """Oldest first. Raises DisputeNotFound (404), OffersWithoutPrejudice (403), BadCursor."""
    key = page.key(1)
    query = (
        select(DisputeOffer)
        .where(DisputeOffer.dispute_id == dispute_id)
        .order_by(col(DisputeOffer.number))
        .limit(page.limit + 1)
    )
    if key is not None:
        query = query.where(col(DisputeOffer.number) > number_of(key[0]))
    async with kernel.unit_of_work() as uow:
        dispute = await find(uow, dispute_id, actor)
        # What a side would have given must not color what it is ruled to give.
        if not is_party(dispute, actor) and not actor.has(Role.OPERATOR, Role.REGULATOR):
            raise OffersWithoutPrejudice
        rows = list(await uow.session.exec(query))
        latest = await _latest(uow, dispute_id)
        last = 0 if latest is None else latest.number
        views = [_view(row, dispute, latest=last, now=uow.now) for row in rows]
    return Page[OfferView].of(views, page.limit, [(row.number,) for row in rows])


async def _latest(uow: UnitOfWork, dispute_id: UUID) -> DisputeOffer | None:
    query = (
        select(DisputeOffer)
        .where(DisputeOffer.dispute_id == dispute_id)
        .order_by(col(DisputeOffer.number).desc())
        .limit(1)
    )
    return (await uow.session.exec(query)).first()


def _stands(offer: DisputeOffer, dispute: Dispute, *, latest: int, now: datetime) -> bool:
    return (
        dispute.status in ACTIVE
        and offer.number == latest
        and offer.ruling_id == dispute.ruling_id
        and now < offer.expires_at
    )


def _view(offer: DisputeOffer, dispute: Dispute, *, latest: int, now: datetime) -> OfferView:
    return OfferView(
        dispute_id=offer.dispute_id,
        number=offer.number,
        offered_by=offer.offered_by,
        buyer_ppm=offer.buyer_ppm,
        access=offer.access,
        message=offer.message,
        offered_at=offer.offered_at,
        expires_at=offer.expires_at,
        open=_stands(offer, dispute, latest=latest, now=now),
    )
