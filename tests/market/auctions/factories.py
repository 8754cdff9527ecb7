"""Auctions and bids for every test, made over HTTP by real parties."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from market.auctions.jobs import decide_auctions
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from pricing.models import Plan
from tests.listings.factories import make_listing
from tests.market.demand.factories import got, posted
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, move_clock, now

TABLES = (
    "auctions.auction",
    "auctions.bid",
    "auctions.award",
    "auctions.step",
    "listings.reservation",
    "settlement.hold",
    "settlement.transfer",
    "contracts.agreement",
    "contracts.access_grant",
    "pricing.observation",
    "kernel.outbox",
)
RUNS = timedelta(hours=1)


@dataclass(frozen=True)
class Scene:
    """A seller with a live listing and a license plan, list price 1,000 CNY minor."""

    kernel: Kernel
    client: httpx.AsyncClient
    seller: Member
    listing_id: UUID
    product_id: UUID
    plan: Plan

    async def body(self, rule: str = "second_price", **more: Any) -> dict[str, Any]:
        """An auction of the scene's plan that closes in an hour."""
        closes = (await now(self.kernel) + RUNS).isoformat()
        return {"plan_id": show("pln", self.plan.id), "rule": rule, "closes_at": closes, **more}

    async def auction(self, rule: str = "second_price", **more: Any) -> dict[str, Any]:
        """An open auction."""
        seller = self.seller.with_fresh_token(self.kernel)
        return await posted(self.client, seller, "/v1/auctions", await self.body(rule, **more))

    async def show(self, auction: dict[str, Any], who: Member | None = None) -> dict[str, Any]:
        """The auction as ``who`` (the seller) sees it."""
        member = (who or self.seller).with_fresh_token(self.kernel)
        found: dict[str, Any] = await got(self.client, member, f"/v1/auctions/{auction['id']}")
        return found

    async def buyer(self, amount_minor: int = 10_000) -> Member:
        """A verified buyer with money."""
        member = await make_party(self.kernel, Role.BUYER)
        if amount_minor:
            await fund(self.kernel, member.party_id, amount_minor)
        return member

    async def bid(
        self, auction: dict[str, Any], amount_minor: int, who: Member | None = None
    ) -> tuple[Member, dict[str, Any]]:
        """A bid by ``who`` (a new buyer with 10,000), and its bidder."""
        member = who or await self.buyer()
        member = member.with_fresh_token(self.kernel)
        path = f"/v1/auctions/{auction['id']}/bids"
        return member, await posted(self.client, member, path, {"amount_minor": amount_minor})

    async def mine(self, who: Member, bid: dict[str, Any]) -> dict[str, Any]:
        """A bid as its bidder sees it now."""
        member = who.with_fresh_token(self.kernel)
        found: dict[str, Any] = await got(self.client, member, f"/v1/bids/{bid['id']}")
        return found

    async def close(self) -> int:
        """Let all auctions' time pass, and decide them."""
        await move_clock(self.kernel, RUNS)
        return await decide_auctions(self.kernel)


async def open_scene(kernel: Kernel, client: httpx.AsyncClient, **plan: Any) -> Scene:
    """A new scene."""
    seller = await make_party(kernel, Role.SELLER)
    made = await make_listing(kernel, seller, rows=10)
    terms = {"kind": "license", "price_minor": 1_000, **plan}
    offered = await make_plan(kernel, seller, made.listing_id, **terms)
    return Scene(kernel, client, seller, made.listing_id, made.product_id, offered)


async def footprint(kernel: Kernel) -> dict[str, int]:
    """Rows of every table that an auction touches, and all that is held."""
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        counts = {name: await raw.fetchval(f"SELECT count(*) FROM {name}") for name in TABLES}
        counts["held"] = int(
            await raw.fetchval("SELECT coalesce(sum(held), 0) FROM settlement.account")
        )
    return counts
