"""Money between sale and payout: release, refund, freeze, ruling. All inside the caller's work.

Every function is keyed: called again with the same key it answers as before and moves nothing.
Refusals (an escrow that does not hold enough) raise and roll the unit of work back: they mean a
bug or a race of the caller, not an answer for a customer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict
from uuid import UUID

from market.kernel.db import UnitOfWork
from market.kernel.money import PPM, Money, split
from settlement import ledger, sql
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Leg, Refused, Transfer
from settlement.errors import error_of
from settlement.split import Parts, SplitTerms, by_party, increment


@dataclass(frozen=True, slots=True)
class Release:
    """Pay ``amount`` minor units of an agreement's escrow to platform, contributors and seller.

    ``released_before`` is the sum of all earlier releases of the agreement: parts are rounded
    cumulatively (see :mod:`settlement.split`). Rates are those frozen in the agreement's terms.
    """

    key: str
    agreement_id: UUID
    currency: str
    amount: int
    seller_id: UUID
    fee_ppm: int
    shares: tuple[tuple[UUID, int], ...]
    released_before: int
    fee_minimum: int = 0
    fee_cap: int | None = None

    @property
    def terms(self) -> SplitTerms:
        """The rates as the split reads them."""
        return SplitTerms(self.fee_ppm, self.shares, self.fee_minimum, self.fee_cap)


@dataclass(frozen=True, slots=True)
class Refund:
    """Give ``amount`` minor units of an agreement's escrow back to its buyer."""

    key: str
    agreement_id: UUID
    buyer_id: UUID
    currency: str
    amount: int


@dataclass(frozen=True, slots=True)
class Released:
    """What a release paid."""

    transfer_id: UUID
    parts: Parts


class RulingPayment(TypedDict):
    """What a ruling paid, in minor units; ``shares`` by contributor."""

    buyer: int
    fee: int
    seller: int
    shares: dict[UUID, int]
    transfer_id: UUID | None


def escrow_of(agreement_id: UUID, currency: str) -> AccountRef:
    """The escrow account of an agreement."""
    return AccountRef(AccountKind.ESCROW, agreement_id, currency)


def frozen_of(dispute_id: UUID, currency: str) -> AccountRef:
    """The account that holds a dispute's money."""
    return AccountRef(AccountKind.FROZEN, dispute_id, currency)


def _available(party_id: UUID, currency: str) -> AccountRef:
    return AccountRef(AccountKind.AVAILABLE, party_id, currency)


async def balance(uow: UnitOfWork, ref: AccountRef) -> int:
    """Spendable minor units (posted − held) of an account; 0 if it does not exist. No lock."""
    return (await ledger.read_balances(uow, [ref])).get(ref.id, 0)


async def release(
    uow: UnitOfWork, releases: Sequence[Release], *, refunds: Sequence[Refund] = ()
) -> list[Released]:
    """Pay releases, then refunds, in order and in one posting; answer the releases.

    Raises InsufficientFunds when escrow is short.
    """
    planned = [_release_transfer(item) for item in releases]
    commands = [*(transfer for transfer, _ in planned), *map(_refund_transfer, refunds)]
    applied = await ledger.post_strict(uow, commands)
    released = []
    for result, (_, parts) in zip(applied[: len(planned)], planned, strict=True):
        assert result.transfer_id is not None
        released.append(Released(result.transfer_id, parts))
    return released


def _release_transfer(item: Release) -> tuple[Transfer, Parts]:
    terms = item.terms
    parts = increment(item.released_before, item.amount, terms)
    legs = (
        (escrow_of(item.agreement_id, item.currency), -item.amount),
        *_split_legs(parts, terms, seller_id=item.seller_id, currency=item.currency),
    )
    return Transfer(item.key, "release", legs, memo_id=item.agreement_id), parts


def _split_legs(
    parts: Parts,
    terms: SplitTerms,
    *,
    seller_id: UUID,
    currency: str,
    buyer: tuple[UUID, int] | None = None,
) -> list[Leg]:
    paid = by_party(parts, terms, seller_id)
    if buyer is not None and buyer[1]:
        # A buyer may be a contributor of what it bought: each account appears once.
        paid[buyer[0]] = paid.get(buyer[0], 0) + buyer[1]
    legs: list[Leg] = [(_available(party, currency), amount) for party, amount in paid.items()]
    if parts.fee:
        legs.append((AccountRef(AccountKind.FEES, None, currency), parts.fee))
    return legs


async def refund(
    uow: UnitOfWork, key: str, agreement_id: UUID, buyer_id: UUID, money: Money
) -> UUID:
    """Give escrow back to the buyer; returns the transfer. Raises InsufficientFunds."""
    item = Refund(key, agreement_id, buyer_id, money.currency, money.amount_minor)
    (done,) = await ledger.post_strict(uow, [_refund_transfer(item)])
    assert done.transfer_id is not None
    return done.transfer_id


def _refund_transfer(item: Refund) -> Transfer:
    legs = (
        (escrow_of(item.agreement_id, item.currency), -item.amount),
        (_available(item.buyer_id, item.currency), item.amount),
    )
    return Transfer(item.key, "refund", legs, memo_id=item.agreement_id)


async def freeze(
    uow: UnitOfWork, key: str, agreement_id: UUID, dispute_id: UUID, currency: str
) -> int:
    """Move all that is left in escrow to the dispute's account; returns the minor units moved.

    Effect: locks the escrow account, so no release can run in between. 0 moves nothing.
    """
    escrow = escrow_of(agreement_id, currency)
    amount = await ledger.lock_balance(uow, escrow)
    earlier = await _paid_before(uow, key, escrow)
    if earlier is not None:
        return earlier[1]
    if amount == 0:
        return 0
    legs = ((escrow, -amount), (frozen_of(dispute_id, currency), amount))
    await ledger.post_strict(uow, [Transfer(key, "freeze", legs, memo_id=dispute_id)])
    return amount


async def unfreeze(
    uow: UnitOfWork, key: str, agreement_id: UUID, dispute_id: UUID, currency: str
) -> int:
    """The way back when a dispute is withdrawn: frozen → escrow; returns the minor units."""
    frozen = frozen_of(dispute_id, currency)
    amount = await ledger.lock_balance(uow, frozen)
    earlier = await _paid_before(uow, key, frozen)
    if earlier is not None:
        return earlier[1]
    if amount == 0:
        return 0
    legs = ((frozen, -amount), (escrow_of(agreement_id, currency), amount))
    await ledger.post_strict(uow, [Transfer(key, "unfreeze", legs, memo_id=dispute_id)])
    return amount


async def apply_ruling(
    uow: UnitOfWork,
    key: str,
    dispute_id: UUID,
    currency: str,
    *,
    buyer_id: UUID,
    buyer_ppm: int,
    seller_id: UUID,
    fee_ppm: int,
    shares: tuple[tuple[UUID, int], ...] = (),
    released_before: int = 0,
    fee_minimum: int = 0,
    fee_cap: int | None = None,
) -> RulingPayment:
    """Pay out everything frozen: ``buyer_ppm`` of it to the buyer, the rest as a release.

    ``released_before`` is what the agreement released earlier (cumulative rounding). Raises
    ValueError when ``buyer_ppm`` is outside 0..1,000,000. The dispute's account ends at zero.
    """
    if not 0 <= buyer_ppm <= PPM:
        raise ValueError(f"buyer_ppm must be 0 to {PPM}, not {buyer_ppm}")
    frozen = frozen_of(dispute_id, currency)
    amount = await ledger.lock_balance(uow, frozen)
    earlier = await _paid_before(uow, key, frozen)
    transfer_id = None
    if earlier is not None:
        transfer_id, amount = earlier
    to_buyer, to_seller = split(amount, (buyer_ppm, PPM - buyer_ppm))
    terms = SplitTerms(fee_ppm, shares, fee_minimum, fee_cap)
    parts = increment(released_before, to_seller, terms)
    if earlier is None and amount > 0:
        legs = (
            (frozen, -amount),
            *_split_legs(
                parts, terms, seller_id=seller_id, currency=currency, buyer=(buyer_id, to_buyer)
            ),
        )
        command = Transfer(key, "ruling", legs, memo_id=dispute_id)
        (done,) = await ledger.post_strict(uow, [command])
        transfer_id = done.transfer_id
    paid = zip((party for party, _ in shares), parts.shares, strict=True)
    return RulingPayment(
        buyer=to_buyer,
        fee=parts.fee,
        seller=parts.seller,
        shares=dict(paid),
        transfer_id=transfer_id,
    )


async def _paid_before(uow: UnitOfWork, key: str, source: AccountRef) -> tuple[UUID, int] | None:
    """The transfer under ``key`` and what it took from ``source``, if it was booked already."""
    result = await ledger.recall(uow, key)
    if result is None:
        return None
    if isinstance(result, Refused):
        raise error_of(result)
    assert result.transfer_id is not None
    amount = await sql.read_leg(await uow.raw(), result.transfer_id, source.id)
    return result.transfer_id, -amount
