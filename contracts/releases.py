"""Paying agreements by their frozen terms, and the record of it that invoices are made from."""

from __future__ import annotations

from uuid import UUID

from contracts.billing_models import ReleaseRecord
from contracts.models import Agreement
from contracts.schemas import Terms
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from settlement import escrow
from settlement.split import SplitTerms, cumulative


def split_terms(agreement: Agreement) -> SplitTerms:
    """The split frozen in an agreement: fee, then the intermediary, then the contributors."""
    terms = Terms.model_validate(agreement.terms)
    named = [] if terms.intermediary is None else [terms.intermediary]
    shares = tuple((share.party_id, share.ppm) for share in (*named, *terms.shares))
    if terms.fee is None:
        return SplitTerms(agreement.fee_ppm, shares)
    return SplitTerms(agreement.fee_ppm, shares, terms.fee.minimum_minor, terms.fee.cap_minor)


async def pay(
    uow: UnitOfWork, agreement: Agreement, amount: int, *, key: str, refund_minor: int = 0
) -> None:
    """Release ``amount`` and refund ``refund_minor`` of a locked agreement in one posting.

    ``key`` is unique within the agreement. Raises InsufficientFunds when escrow is short.
    """
    terms = split_terms(agreement)
    name = f"{agreement.id.hex}:{key}"
    items = []
    if amount:
        items.append(
            escrow.Release(
                key=f"release:{name}",
                agreement_id=agreement.id,
                currency=agreement.currency,
                amount=amount,
                seller_id=agreement.seller_id,
                fee_ppm=terms.fee_ppm,
                shares=terms.shares,
                released_before=agreement.released_minor,
                fee_minimum=terms.fee_minimum,
                fee_cap=terms.fee_cap,
            )
        )
    refunds = []
    if refund_minor:
        refunds.append(
            escrow.Refund(
                f"refund:{name}",
                agreement.id,
                agreement.buyer_id,
                agreement.currency,
                refund_minor,
            )
        )
    for done in await escrow.release(uow, items, refunds=refunds):
        record(uow, agreement, done.transfer_id, amount=amount, fee=done.parts.fee)
    agreement.released_minor += amount
    agreement.refunded_minor += refund_minor


def record(
    uow: UnitOfWork, agreement: Agreement, transfer_id: UUID, *, amount: int, fee: int
) -> None:
    """Note what a release paid; call before ``agreement.released_minor`` grows by it."""
    before = agreement.released_minor
    uow.session.add(
        ReleaseRecord(
            id=new_id(),
            agreement_id=agreement.id,
            buyer_id=agreement.buyer_id,
            seller_id=agreement.seller_id,
            currency=agreement.currency,
            transfer_id=transfer_id,
            amount_minor=amount,
            fee_minor=fee,
            released_before_minor=before,
            fee_before_minor=cumulative(before, split_terms(agreement)).fee,
            released_at=uow.now,
        )
    )
