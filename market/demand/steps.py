"""What each change of a request or a quote leaves behind: a row of the record, and an event."""

from collections.abc import Sequence
from uuid import UUID

from market.demand.models import Quote, Request, Step
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Actor


def request_step(
    uow: UnitOfWork,
    request: Request,
    action: str,
    *,
    actor: Actor | None,
    parties: Sequence[UUID] = (),
) -> None:
    """Record ``action`` by ``actor`` (None: time) and emit ``request.<action>``.

    The event goes to the buyer and to ``parties``; record and event carry the new status.
    """
    _record(uow, "request", request.id, action, status=request.status, actor=actor)
    uow.emit(
        f"request.{action}",
        request.id,
        {
            "request_id": show("req", request.id),
            "status": request.status,
            "revision": request.revision,
        },
        parties=[request.buyer_id, *parties],
    )


def quote_step(uow: UnitOfWork, quote: Quote, action: str, *, actor: Actor | None) -> None:
    """The same for a quote; its event ``quote.<action>`` goes to its two sides only."""
    _record(uow, "quote", quote.id, action, status=quote.status, actor=actor)
    uow.emit(
        f"quote.{action}",
        quote.id,
        {
            "quote_id": show("quo", quote.id),
            "request_id": show("req", quote.request_id),
            "plan_id": show("pln", quote.plan_id),
            "status": quote.status,
            "turn": quote.turn,
            "round": quote.round,
            "price_minor": quote.price_minor,
            "lots": quote.lots,
            "currency": quote.currency,
            "agreement_id": show("agr", quote.agreement_id) if quote.agreement_id else None,
        },
        parties=[quote.buyer_id, quote.seller_id],
    )


def _record(
    uow: UnitOfWork,
    subject: str,
    subject_id: UUID,
    action: str,
    *,
    status: str,
    actor: Actor | None,
) -> None:
    uow.session.add(
        Step(
            id=new_id(),
            subject=subject,
            subject_id=subject_id,
            action=action,
            status=status,
            actor_id=actor.party_id if actor else None,
            credential_id=actor.credential_id if actor else None,
            at=uow.now,
        )
    )
