"""Small reads for pages: names of parties, titles of listings, the steps of an agreement."""

from collections.abc import Iterable
from uuid import UUID

from sqlmodel import col, select

from contracts.agreements import get_agreement
from contracts.models import AgreementStep
from listings import offers
from listings.models import Listing
from market.kernel.context import Kernel
from market.kernel.schemas import LocalizedText
from market.kernel.security import Actor
from market.parties.directory import get_parties

STEPS_MAX = 100


async def party_names(kernel: Kernel, ids: Iterable[UUID | None]) -> dict[UUID, str]:
    """The public names of parties, by id."""
    async with kernel.unit_of_work() as uow:
        found = await get_parties(uow, [party_id for party_id in ids if party_id is not None])
    return {party_id: party.name for party_id, party in found.items()}


async def listing_titles(kernel: Kernel, ids: Iterable[UUID]) -> dict[UUID, LocalizedText]:
    """The titles of listings that the caller has an agreement about, by id."""
    query = select(Listing.id, Listing.title).where(col(Listing.id).in_(sorted(set(ids))))
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(query)).all()
    return {listing_id: LocalizedText.model_validate(title) for listing_id, title in rows}


async def version_number(kernel: Kernel, version_id: UUID) -> int:
    """The number of a product version. Raises VersionNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return (await offers.get_version(uow, version_id)).number


async def agreement_steps(kernel: Kernel, actor: Actor, agreement_id: UUID) -> list[AgreementStep]:
    """The history of an agreement, oldest first. Raises AgreementNotFound (404)."""
    query = (
        select(AgreementStep)
        .where(AgreementStep.agreement_id == agreement_id)
        .order_by(col(AgreementStep.at), col(AgreementStep.id))
        .limit(STEPS_MAX)
    )
    async with kernel.unit_of_work() as uow:
        await get_agreement(uow, agreement_id, actor)
        return list(await uow.session.exec(query))
