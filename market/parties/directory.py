"""Reading parties: the one place that other packages ask, and the one place that locks them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.errors import IdentityTaken, PartyNotFound, PartyNotVerified
from market.parties.models import Party, PartyStatus
from market.parties.schemas import Contact, PartyView, PublicParty

_STATUSES = {status.value: status for status in PartyStatus}


class Standing(NamedTuple):
    """What trading must know of a party."""

    id: UUID
    status: PartyStatus
    affiliate_group: UUID | None


def after_id(page: PageQuery) -> UUID | None:
    """The cursor of a list that is ordered by id. Raises BadCursor (422)."""
    key = page.key(1)
    if key is None:
        return None
    try:
        return UUID(key[0])
    except ValueError as error:
        raise BadCursor(param="after") from error


async def get_party(uow: UnitOfWork, party_id: UUID) -> Party:
    """One party. Raises PartyNotFound (404)."""
    party = await uow.session.get(Party, party_id)
    if party is None:
        raise PartyNotFound
    return party


async def get_parties(uow: UnitOfWork, ids: Iterable[UUID]) -> dict[UUID, Party]:
    """Those of ``ids`` that exist, by id."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    rows = await uow.session.exec(select(Party).where(col(Party.id).in_(wanted)))
    return {party.id: party for party in rows}


async def get_standings(uow: UnitOfWork, ids: Iterable[UUID]) -> dict[UUID, Standing]:
    """Those of ``ids`` that exist, by id, as far as trading must know them.

    Raw: a batch of orders asks for hundreds, and an ORM object costs ten times such a row.
    """
    wanted = list(set(ids))
    if not wanted:
        return {}
    rows = await (await uow.raw()).fetch(
        "SELECT id, status, affiliate_group FROM parties.party WHERE id = ANY($1::uuid[])", wanted
    )
    return {row[0]: Standing(row[0], _STATUSES[row[1]], row[2]) for row in rows}


async def require_verified(uow: UnitOfWork, party_id: UUID) -> Party:
    """The party, if it may trade. Raises PartyNotFound (404) or PartyNotVerified (403)."""
    party = await get_party(uow, party_id)
    if party.status is not PartyStatus.VERIFIED:
        raise PartyNotVerified
    return party


async def lock_party(uow: UnitOfWork, party_id: UUID) -> Party:
    """The party's row, locked until the unit of work ends. Raises PartyNotFound (404)."""
    statement = (
        select(Party)
        .where(Party.id == party_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    party = (await uow.session.exec(statement)).one_or_none()
    if party is None:
        raise PartyNotFound
    return party


async def flush_identity(uow: UnitOfWork) -> None:
    """Write a changed identity now. Raises IdentityTaken (409); the database decides, so that
    two operators cannot verify one organization twice at the same time.
    """
    try:
        await uow.session.flush()
    except IntegrityError as error:
        if "party_identity" in str(error.orig):
            raise IdentityTaken(param="tax_number") from error
        raise


def related(a: Party | Standing, b: Party | Standing) -> bool:
    """Same party or same affiliate group: the test of self-trade and of conflicts of interest."""
    return a.id == b.id or (
        a.affiliate_group is not None and a.affiliate_group == b.affiliate_group
    )


def public_view(party: Party) -> PublicParty:
    """What any logged-in organization may see."""
    return PublicParty(
        id=party.id,
        name=party.name,
        kind=party.kind,
        jurisdiction=party.jurisdiction,
        status=party.status,
    )


def full_view(party: Party) -> PartyView:
    """The record with contact and tax data."""
    return PartyView(
        **dict(public_view(party)),
        roles=sorted(party.role_set),
        tax_number=party.tax_number,
        contact=Contact.model_construct(
            name=party.contact_name, email=party.contact_email, phone=party.contact_phone
        ),
        affiliate_group=party.affiliate_group,
        version=party.version,
        created_at=party.created_at,
        updated_at=party.updated_at,
        verified_at=party.verified_at,
        suspended_at=party.suspended_at,
    )


async def show_party(kernel: Kernel, actor: Actor, party_id: UUID) -> PartyView | PublicParty:
    """The full record to those who may see it, else the public one. Raises PartyNotFound."""
    async with kernel.unit_of_work() as uow:
        party = await get_party(uow, party_id)
        return full_view(party) if may_oversee(actor, party_id) else public_view(party)


async def list_parties(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    status: PartyStatus | None = None,
    role: Role | None = None,
    jurisdiction: str | None = None,
    affiliate_group: UUID | None = None,
) -> Page[PartyView]:
    """All parties in order of registration, filtered; for operators and regulators.

    Raises RoleRequired (403) and BadCursor (422).
    """
    actor.require(Role.OPERATOR, Role.REGULATOR)
    statement = select(Party).order_by(col(Party.id)).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Party.id) > after)
    if status is not None:
        statement = statement.where(Party.status == status)
    if role is not None:
        statement = statement.where(col(Party.roles).contains([role.value]))
    if jurisdiction is not None:
        statement = statement.where(Party.jurisdiction == jurisdiction)
    if affiliate_group is not None:
        statement = statement.where(Party.affiliate_group == affiliate_group)
    async with kernel.unit_of_work() as uow:
        rows: Sequence[Party] = (await uow.session.exec(statement)).all()
    return Page[PartyView].of(
        [full_view(row) for row in rows], page.limit, [(row.id,) for row in rows]
    )
