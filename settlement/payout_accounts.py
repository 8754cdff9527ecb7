"""Sellers' accounts at the rail: opened once, completed on the provider's page, kept current."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor, Role
from market.parties.directory import get_party
from settlement.errors import SavedCardNotFound
from settlement.rail_models import PayoutAccount
from settlement.rail_schemas import PayoutAccounts, PayoutAccountView, SavedCard, SavedCards
from settlement.rails import stripe_checkout
from settlement.rails.base import AccountState
from settlement.rails.choice import rail_of, stripe_rail_of


async def open_payout_account(kernel: Kernel, actor: Actor) -> PayoutAccountView:
    """Open the seller's account, or a new onboarding page for the one that it has.

    Raises RoleRequired (403), DestinationNotAccepted (422), RailUnavailable (503: repeat).
    """
    actor.require(Role.SELLER)
    rail = rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        party = await get_party(uow, actor.party_id)
    state = await rail.open_account(party.id, party.jurisdiction)
    complete = state.details_submitted and not state.due
    page = None if complete else await rail.onboarding_url(state.account)
    async with kernel.unit_of_work() as uow:
        account = await store_state(uow, party.id, rail.name, state)
        view = view_of(account, onboarding_url=page)
        await uow.answer(view)
    return view


async def list_payout_accounts(kernel: Kernel, actor: Actor) -> PayoutAccounts:
    """One's own accounts as last heard of. Raises RoleRequired (403)."""
    actor.require(Role.SELLER)
    query = select(PayoutAccount).where(PayoutAccount.party_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query.order_by(col(PayoutAccount.rail)))
        return PayoutAccounts(items=[view_of(row, onboarding_url=None) for row in rows])


async def store_state(
    uow: UnitOfWork, party_id: UUID, rail_name: str, state: AccountState
) -> PayoutAccount:
    """Write what the rail says about an account; emits ``payout_account.updated`` on a change."""
    known = await uow.session.get(PayoutAccount, (party_id, rail_name), with_for_update=True)
    facts = {
        "details_submitted": state.details_submitted,
        "payouts_enabled": state.payouts_enabled,
        "due": list(state.due),
        "disabled_reason": state.disabled_reason,
    }
    if known is not None and all(getattr(known, name) == fact for name, fact in facts.items()):
        return known
    row = {"party_id": party_id, "rail": rail_name, "account": state.account, **facts}
    statement = insert(PayoutAccount).values(**row, created_at=uow.now, updated_at=uow.now)
    await uow.execute(
        statement.on_conflict_do_update(
            index_elements=["party_id", "rail"], set_={**facts, "updated_at": uow.now}
        )
    )
    account = await uow.session.get(PayoutAccount, (party_id, rail_name), populate_existing=True)
    assert account is not None
    uow.emit("payout_account.updated", party_id, {"rail": rail_name, **facts}, parties=[party_id])
    return account


async def list_saved_cards(kernel: Kernel, actor: Actor) -> SavedCards:
    """The actor's cards that the provider keeps: none on a rail that keeps no cards.

    Raises RailUnavailable (503).
    """
    actor.require(Role.BUYER, Role.SELLER)
    if kernel.settings.rail != "stripe":
        return SavedCards(items=[])
    rail = stripe_rail_of(kernel)
    found = await stripe_checkout.list_saved_cards(rail.gateway, actor.party_id)
    return SavedCards(
        items=[
            SavedCard(
                id=method.id,
                brand=method.card.brand,
                last4=method.card.last4,
                expires=f"{method.card.exp_year:04d}-{method.card.exp_month:02d}",
            )
            for method in found
            if method.card is not None
        ]
    )


async def forget_card(kernel: Kernel, actor: Actor, card: str) -> None:
    """Detach a saved card. Raises SavedCardNotFound (404: also another's), RailUnavailable."""
    actor.require(Role.BUYER, Role.SELLER)
    if kernel.settings.rail != "stripe":
        raise SavedCardNotFound
    rail = stripe_rail_of(kernel)
    # The id becomes part of an address.
    if not stripe_checkout.SAVED_CARD.fullmatch(card) or not await stripe_checkout.forget_card(
        rail.gateway, actor.party_id, card
    ):
        raise SavedCardNotFound


def view_of(account: PayoutAccount, *, onboarding_url: str | None) -> PayoutAccountView:
    """The API shape."""
    return PayoutAccountView(
        party_id=account.party_id,
        rail=account.rail,
        account=account.account,
        details_submitted=account.details_submitted,
        payouts_enabled=account.payouts_enabled,
        due=account.due,
        disabled_reason=account.disabled_reason,
        onboarding_url=onboarding_url,
        updated_at=account.updated_at,
    )
