"""A market to trade in: a verified seller with a live plan, funded buyers, orders over HTTP."""

import asyncio
import contextvars
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
import orjson

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.matching.commands import Cancel, Place, Reply
from market.matching.schemas import OrderRequest
from settlement.accounts import AccountKind, AccountRef
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, state

T = TypeVar("T")
TABLES = (
    "matching.order",
    "matching.trade",
    "settlement.hold",
    "settlement.transfer",
    "contracts.agreement",
    "contracts.access_grant",
)


@dataclass(frozen=True)
class Scene:
    """A seller and its plan: 100 rows a lot, list price 1,000 minor units a lot, CNY."""

    kernel: Kernel
    seller: Member
    listing_id: UUID
    plan_id: UUID

    @property
    def plan(self) -> str:
        """The plan's id on the wire."""
        return show("pln", self.plan_id)

    def body(self, side: str, lots: int | None, price_minor: int, **more: object) -> dict[str, Any]:
        """A limit order."""
        return {
            "plan_id": self.plan,
            "side": side,
            "type": "limit",
            "lots": lots,
            "price_minor": price_minor,
            **more,
        }

    def command(
        self, member: Member, side: str, lots: int | None, price_minor: int, **more: object
    ) -> Place:
        """The same for an engine without HTTP, under a fresh key."""
        return Place(
            party_id=member.party_id,
            key=uuid.uuid4().hex,
            request_hash=bytes(32),
            body=OrderRequest.model_validate_json(
                _json(self.body(side, lots, price_minor, **more))
            ),
            request_id="test",
        )

    async def buyer(self, amount_minor: int = 0) -> Member:
        """A verified buyer with money."""
        member = await make_party(self.kernel, Role.BUYER)
        if amount_minor:
            await fund(self.kernel, member.party_id, amount_minor)
        return member


def _json(value: object) -> bytes:
    return orjson.dumps(value)


async def open_scene(kernel: Kernel) -> Scene:
    """A new seller with a live listing and a metered plan."""
    seller = await make_party(kernel, Role.SELLER)
    listing = await make_listing(kernel, seller)
    plan = await make_plan(
        kernel, seller, listing.listing_id, kind="metered", price_minor=1_000, lot_units=100
    )
    return Scene(kernel, seller, listing.listing_id, plan.id)


async def place(
    client: httpx.AsyncClient, member: Member, body: dict[str, Any], *, key: str | None = None
) -> httpx.Response:
    """POST /v1/orders."""
    return await client.post("/v1/orders", json=body, headers=member.headers(key))


async def placed(client: httpx.AsyncClient, member: Member, body: dict[str, Any]) -> dict[str, Any]:
    """POST /v1/orders that must be accepted; the order."""
    response = await place(client, member, body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def cancel(client: httpx.AsyncClient, member: Member, order_id: str) -> httpx.Response:
    """DELETE /v1/orders/{id}."""
    return await client.delete(f"/v1/orders/{order_id}", headers=member.headers())


async def show_order(client: httpx.AsyncClient, member: Member, order_id: str) -> dict[str, Any]:
    """GET /v1/orders/{id} of an own order."""
    response = await client.get(f"/v1/orders/{order_id}", headers=member.headers())
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def money(kernel: Kernel, party_id: UUID, currency: str = "CNY") -> tuple[int, int]:
    """``(posted, held)`` of a party's available account, minor units."""
    posted, held, _ = await state(kernel, AccountRef(AccountKind.AVAILABLE, party_id, currency))
    return posted, held


async def escrow_total(kernel: Kernel) -> int:
    """Minor units in all escrow accounts."""
    return int(
        await scalar(
            kernel,
            "SELECT coalesce(sum(posted), 0) FROM settlement.account WHERE kind = 'escrow'",
        )
    )


async def scalar(kernel: Kernel, query: str, *arguments: object) -> Any:
    """One value from the database."""
    async with kernel.unit_of_work() as uow:
        return await (await uow.raw()).fetchval(query, *arguments)


async def one_row(kernel: Kernel, query: str, *arguments: object) -> dict[str, Any]:
    """The only row of a query."""
    async with kernel.unit_of_work() as uow:
        (row,) = await (await uow.raw()).fetch(query, *arguments)
    return dict(row)


async def footprint(kernel: Kernel) -> dict[str, int]:
    """Row counts and the sum of all balances: equal before and after what changes nothing."""
    counts = {name: await scalar(kernel, f"SELECT count(*) FROM {name}") for name in TABLES}
    counts["held"] = int(
        await scalar(kernel, "SELECT coalesce(sum(held), 0) FROM settlement.account")
    )
    counts["events"] = await scalar(kernel, "SELECT count(*) FROM kernel.outbox")
    return counts


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run at once, each in a context of its own."""
    tasks = [asyncio.create_task(item, context=contextvars.copy_context()) for item in work]
    return list(await asyncio.gather(*tasks))


async def eventually(check: Callable[[], Awaitable[bool]], *, within_s: int = 30) -> None:
    """Wait until ``check`` holds; fails after ``within_s`` seconds."""
    for _ in range(within_s * 50):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen in time")


def order_of(reply: Reply) -> dict[str, Any]:
    """The order in an engine's success."""
    assert reply.answer.status in (200, 201), reply.answer.body
    found: dict[str, Any] = orjson.loads(reply.answer.body)
    return found


def code_of(reply: Reply) -> str:
    """The problem code of an engine's refusal."""
    assert reply.answer.status >= 400, reply.answer.body
    return str(orjson.loads(reply.answer.body)["code"])


def cancel_command(member: Member, order: dict[str, Any]) -> Cancel:
    """A cancel for an engine without HTTP."""
    return Cancel(
        party_id=member.party_id, order_id=UUID(order["id"].removeprefix("ord_")), request_id="test"
    )
