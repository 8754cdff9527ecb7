"""A plan whose units may be sold on, its holders, and all units of its lineage."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.resale_factories import policy
from tests.listings.factories import make_listing
from tests.market.matching.factories import Scene, one_row, placed
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund

LOT_UNITS = 100


@dataclass(frozen=True)
class Holder:
    """A member with a grant of the scene's plan."""

    member: Member
    grant_id: UUID
    agreement_id: UUID

    @property
    def grant(self) -> str:
        """The grant's id on the wire."""
        return show("grt", self.grant_id)


async def open_resale_scene(kernel: Kernel, **terms: Any) -> Scene:
    """As ``open_scene``, with a resale clause; ``terms`` change the policy."""
    seller = await make_party(kernel, Role.SELLER)
    listing = await make_listing(kernel, seller, policy=policy(**terms))
    plan = await make_plan(
        kernel, seller, listing.listing_id, kind="metered", price_minor=1_000, lot_units=LOT_UNITS
    )
    return Scene(kernel, seller, listing.listing_id, plan.id)


async def holder_of(
    client: httpx.AsyncClient, scene: Scene, lots: int, *, price_minor: int = 1_000
) -> Holder:
    """A new buyer that has bought ``lots`` lots from the scene's seller."""
    member = await make_party(scene.kernel, Role.BUYER)
    await placed(client, scene.seller, scene.body("sell", lots, price_minor))
    return await bought(client, scene, member, lots, price_minor)


async def bought(
    client: httpx.AsyncClient, scene: Scene, member: Member, lots: int, price_minor: int
) -> Holder:
    """``member`` as the holder of what it buys in one trade from the book."""
    await fund(scene.kernel, member.party_id, lots * price_minor)
    order = await placed(client, member, scene.body("buy", lots, price_minor))
    assert order["status"] == "filled", order
    (trade,) = order["trades"]
    return await holder_by_agreement(scene.kernel, member, trade["agreement_id"])


async def holder_by_agreement(kernel: Kernel, member: Member, agreement: str) -> Holder:
    """``member`` with the grant of an agreement (its id on the wire)."""
    agreement_id = UUID(agreement.removeprefix("agr_"))
    query = "SELECT id FROM contracts.access_grant WHERE agreement_id = $1"
    return Holder(member, (await one_row(kernel, query, agreement_id))["id"], agreement_id)


def offer(scene: Scene, holder: Holder, lots: int, price_minor: int, **more: Any) -> dict[str, Any]:
    """A resale order."""
    return scene.body("sell", lots, price_minor, grant_id=holder.grant, **more)


async def counts(kernel: Kernel, holder: Holder) -> dict[str, int]:
    """The grant's counts."""
    return await one_row(
        kernel,
        "SELECT granted_units AS granted, reserved_units AS reserved, settled_units AS settled, "
        "offered_units AS offered, resold_units AS resold FROM contracts.access_grant "
        "WHERE id = $1",
        holder.grant_id,
    )
