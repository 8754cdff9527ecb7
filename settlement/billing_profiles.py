"""What parties want printed on invoices: title, tax number, address, phone, bank (发票抬头).

Without a profile the registered name and tax number stand in. An invoice keeps the values of the
day of its issue.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.security import Actor
from market.parties.directory import get_parties, get_party
from settlement.billing_models import EXCHANGE, BillingProfile
from settlement.billing_schemas import BillingProfileInput, BillingProfileView, InvoiceSide

_FIELDS = tuple(BillingProfileInput.model_fields)


async def show_profile(kernel: Kernel, actor: Actor) -> BillingProfileView:
    """The actor's own profile, or what stands in for it."""
    async with kernel.unit_of_work() as uow:
        found = await uow.session.get(BillingProfile, actor.party_id)
        if found is None:
            party = await get_party(uow, actor.party_id)
            return BillingProfileView(
                party_id=party.id, title=party.name, tax_number=party.tax_number, updated_at=None
            )
        values = {name: getattr(found, name) for name in _FIELDS}
        return BillingProfileView(party_id=found.party_id, updated_at=found.updated_at, **values)


async def set_profile(
    kernel: Kernel, actor: Actor, body: BillingProfileInput
) -> BillingProfileView:
    """Replace the actor's profile for invoices issued from now on.

    Effect: event ``billing_profile.changed`` with the names of the fields, not the values.
    """
    values = {name: getattr(body, name) for name in _FIELDS}
    async with kernel.unit_of_work() as uow:
        changed = {**values, "updated_at": uow.now}
        statement = insert(BillingProfile).values(party_id=actor.party_id, **changed)
        await uow.execute(
            statement.on_conflict_do_update(index_elements=["party_id"], set_=changed)
        )
        uow.emit(
            "billing_profile.changed",
            actor.party_id,
            {"party_id": show("pty", actor.party_id), "fields": sorted(_FIELDS)},
            parties=[actor.party_id],
        )
        return BillingProfileView(party_id=actor.party_id, updated_at=uow.now, **values)


async def sides(uow: UnitOfWork, kernel: Kernel, ids: Sequence[UUID]) -> dict[UUID, InvoiceSide]:
    """How issuer and recipient are printed today; EXCHANGE is the platform of the settings."""
    parties = await get_parties(uow, [party for party in ids if party != EXCHANGE])
    rows = await uow.session.exec(
        select(BillingProfile).where(col(BillingProfile.party_id).in_(list(ids)))
    )
    profiles = {row.party_id: row for row in rows}
    empty = {"address": None, "phone": None, "bank_name": None, "bank_account": None}
    printed: dict[UUID, InvoiceSide] = {}
    for party_id in ids:
        profile = profiles.get(party_id)
        if party_id == EXCHANGE:
            title, number = kernel.settings.platform_name, kernel.settings.platform_tax_number
            printed[party_id] = InvoiceSide(id=None, title=title, tax_number=number, **empty)
        elif profile is None:
            party = parties[party_id]
            printed[party_id] = InvoiceSide(
                id=party_id, title=party.name, tax_number=party.tax_number, **empty
            )
        else:
            values = {name: getattr(profile, name) for name in _FIELDS}
            printed[party_id] = InvoiceSide(id=party_id, **values)
    return printed
