"""Requests and quotes for every test, made over HTTP by real parties."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from pricing.models import Plan
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, now

TABLES = (
    "demand.request",
    "demand.quote",
    "demand.proposal",
    "demand.step",
    "demand.award",
    "settlement.hold",
    "settlement.transfer",
    "contracts.agreement",
    "contracts.access_grant",
    "pricing.observation",
    "kernel.outbox",
)


def request_body(**changes: Any) -> dict[str, Any]:
    """A valid request without constraints."""
    body = {"title": "求购：航班延误数据", "text": "Delays of departures, any airline."}
    return {**body, **changes}


async def posted(client: httpx.AsyncClient, member: Member, path: str, body: Any) -> dict[str, Any]:
    """A POST that must be accepted; its answer."""
    response = await client.post(path, json=body, headers=member.headers())
    assert response.status_code in (200, 201), response.text
    found: dict[str, Any] = response.json()
    return found


async def refused(
    client: httpx.AsyncClient, member: Member, path: str, body: Any
) -> tuple[int, str]:
    """A POST that must be refused: status and problem code."""
    response = await client.post(path, json=body, headers=member.headers())
    assert response.status_code >= 400, response.text
    return response.status_code, response.json()["code"]


async def got(client: httpx.AsyncClient, member: Member, path: str, **params: Any) -> Any:
    """A GET that must be answered; its body."""
    response = await client.get(path, params=params, headers=member.headers())
    assert response.status_code == 200, response.text
    return response.json()


async def make_request(client: httpx.AsyncClient, buyer: Member, **changes: Any) -> dict[str, Any]:
    """A request of ``buyer``."""
    return await posted(client, buyer, "/v1/requests", request_body(**changes))


@dataclass(frozen=True)
class Scene:
    """A buyer with an open request, and a seller with a license plan at 1,000 CNY minor a lot."""

    kernel: Kernel
    client: httpx.AsyncClient
    buyer: Member
    seller: Member
    listing_id: UUID
    plan: Plan
    request_id: str

    async def until(self, days: int = 7) -> str:
        """A time that many days ahead."""
        return later(await now(self.kernel), days)

    async def body(self, price_minor: int = 900, lots: int = 1, **more: Any) -> dict[str, Any]:
        """A quote of the scene's plan."""
        terms = {"price_minor": price_minor, "lots": lots, "valid_until": await self.until()}
        return {"plan_id": show("pln", self.plan.id), **terms, **more}

    async def terms(self, price_minor: int, lots: int = 1) -> dict[str, Any]:
        """A counter-offer."""
        return {"price_minor": price_minor, "lots": lots, "valid_until": await self.until()}

    async def quote(self, price_minor: int = 900, lots: int = 1, **more: Any) -> dict[str, Any]:
        """The seller's quote on the request."""
        path = f"/v1/requests/{self.request_id}/quotes"
        return await posted(
            self.client, self.seller, path, await self.body(price_minor, lots, **more)
        )

    async def rival(self, price_minor: int = 800) -> tuple[Member, dict[str, Any]]:
        """Another seller and its quote."""
        seller = await make_party(self.kernel, Role.SELLER)
        made = await make_listing(self.kernel, seller, rows=10)
        plan = await make_plan(self.kernel, seller, made.listing_id, kind="license")
        body = {**await self.body(price_minor), "plan_id": show("pln", plan.id)}
        path = f"/v1/requests/{self.request_id}/quotes"
        return seller, await posted(self.client, seller, path, body)


def later(moment: datetime, days: int) -> str:
    """RFC 3339, that many days after."""
    return (moment + timedelta(days=days)).isoformat()


async def open_scene(
    kernel: Kernel, client: httpx.AsyncClient, *, money_minor: int = 0, **request: Any
) -> Scene:
    """A new scene."""
    buyer = await make_party(kernel, Role.BUYER)
    if money_minor:
        await fund(kernel, buyer.party_id, money_minor)
    seller = await make_party(kernel, Role.SELLER)
    made = await make_listing(kernel, seller, rows=10)
    plan = await make_plan(kernel, seller, made.listing_id, kind="license", price_minor=1_000)
    posted_request = await make_request(client, buyer, **request)
    return Scene(kernel, client, buyer, seller, made.listing_id, plan, posted_request["id"])


async def footprint(kernel: Kernel) -> dict[str, int]:
    """Rows of every table that a deal touches, and all that is held."""
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        counts = {name: await raw.fetchval(f"SELECT count(*) FROM {name}") for name in TABLES}
        counts["held"] = int(
            await raw.fetchval("SELECT coalesce(sum(held), 0) FROM settlement.account")
        )
    return counts
