"""Standing requests: an alert when a listing appears or becomes cheaper, once each."""

import asyncio
import uuid
from typing import Any
from uuid import UUID

import httpx
import pytest

from listings.offering import submit_listing
from listings.reviews import approve_listing, resume_listing, suspend_listing
from listings.schemas import Reason
from market.demand import standing
from market.demand.jobs import match_standing
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from pricing.plans import retire_plan
from tests.listings.factories import MadeListing, any_operator, make_listing
from tests.market.demand.factories import got, make_request, posted, refused
from tests.market.matching.factories import scalar, together
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan

CHEAP = {"amount_minor": 1_000, "currency": "CNY"}

# Transaction numbers are the server's: one that runs in another database holds events back here.
_UNREAD = """
SELECT count(*) FROM kernel.outbox o, demand.reading r WHERE (o.txid, o.seq) > (r.txid, r.seq)
"""


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


@pytest.fixture
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER)


async def drained(kernel: Kernel) -> None:
    """Work off every event, also those that wait for older transactions of other databases."""
    for _ in range(400):
        if await match_standing(kernel) == 0:
            if not await scalar(kernel, _UNREAD):
                return
            await asyncio.sleep(0.025)
    raise AssertionError("the outbox has no end")


async def alerts(client: httpx.AsyncClient, buyer: Member) -> list[tuple[str, str, int | None]]:
    """Listing, reason and cost of each alert, oldest first."""
    page = await got(client, buyer, "/v1/alerts", limit=200)
    return [
        (each["listing_id"], each["reason"], each["cost"] and each["cost"]["amount_minor"])
        for each in page["items"][::-1]
    ]


async def standing_request(
    client: httpx.AsyncClient, buyer: Member, **constraints: Any
) -> dict[str, Any]:
    """A standing request."""
    return await make_request(client, buyer, standing=True, constraints=constraints)


async def hidden(
    kernel: Kernel, seller: Member, price_minor: int | None, **more: Any
) -> MadeListing:
    """A draft listing, with a license plan."""
    made = await make_listing(kernel, seller, rows=10, live=False, **more)
    if price_minor is not None:
        await make_plan(kernel, seller, made.listing_id, kind="license", price_minor=price_minor)
    return made


async def publish(kernel: Kernel, seller: Member, listing_id: UUID) -> None:
    """Onto the market."""
    await submit_listing(kernel, seller.actor, listing_id)
    await approve_listing(kernel, any_operator(), listing_id)


async def test_a_published_listing_is_told_once(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, seller: Member
) -> None:
    request = await standing_request(client, buyer, category="weather", budget=CHEAP)
    made = await hidden(kernel, seller, 900, category="weather")
    await drained(kernel)
    assert await alerts(client, buyer) == []
    await publish(kernel, seller, made.listing_id)
    await together(*(match_standing(kernel) for _ in range(4)))
    await drained(kernel)
    listing = show("lst", made.listing_id)
    assert await alerts(client, buyer) == [(listing, "published", 900)]
    events = await scalar(
        kernel,
        "SELECT count(*) FROM kernel.outbox WHERE type = 'request.listing_matched'"
        " AND object_id = $1 AND parties = ARRAY[$2::uuid]",
        UUID(request["id"][4:]),
        buyer.party_id,
    )
    assert events == 1
    # Read from the start again, after a suspension too: told is told.
    await suspend_listing(kernel, any_operator(), made.listing_id, Reason(reason="A question."))
    await resume_listing(kernel, any_operator(), made.listing_id)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute("UPDATE demand.reading SET txid = 0, seq = 0")
    await drained(kernel)
    assert len(await alerts(client, buyer)) == 1


async def test_a_fallen_price_is_told_and_a_risen_one_is_not(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, seller: Member
) -> None:
    await standing_request(client, buyer, category="labor", budget=CHEAP)
    made = await hidden(kernel, seller, 1_500, category="labor")
    await publish(kernel, seller, made.listing_id)
    await drained(kernel)
    # Over the budget.
    assert await alerts(client, buyer) == []

    async def offered(price_minor: int) -> UUID:
        plan = await make_plan(
            kernel, seller, made.listing_id, kind="license", price_minor=price_minor
        )
        await drained(kernel)
        return plan.id

    listing = show("lst", made.listing_id)
    first = await offered(1_000)
    assert await alerts(client, buyer) == [(listing, "price_fell", 1_000)]
    await offered(1_000)
    await offered(1_001)
    cheapest = await offered(700)
    told = [(listing, "price_fell", 1_000), (listing, "price_fell", 700)]
    assert await alerts(client, buyer) == told
    # Dearer again, and back to what was told before.
    await retire_plan(kernel, seller.actor, cheapest)
    await retire_plan(kernel, seller.actor, first)
    await offered(900)
    assert await alerts(client, buyer) == told
    await offered(699)
    assert await alerts(client, buyer) == [*told, (listing, "price_fell", 699)]


async def test_who_is_not_told(client: httpx.AsyncClient, kernel: Kernel, seller: Member) -> None:
    told, not_standing, closed, elsewhere, drafted = [
        await make_party(kernel, Role.BUYER) for _ in range(5)
    ]
    abroad = await make_party(kernel, Role.BUYER, jurisdiction="US")
    both = await make_party(kernel, Role.SELLER, Role.BUYER)
    await standing_request(client, told)
    await standing_request(client, elsewhere, category="energy")
    # The policy allows use in China only.
    await standing_request(client, abroad)
    await standing_request(client, both)
    await make_request(client, not_standing)
    await make_request(client, drafted, standing=True, draft=True)
    ended = await standing_request(client, closed)
    await posted(client, closed, f"/v1/requests/{ended['id']}/close", None)
    made = await hidden(kernel, both, None, category="culture_tourism")
    await publish(kernel, both, made.listing_id)
    await drained(kernel)
    assert await alerts(client, told) == [(show("lst", made.listing_id), "published", None)]
    for member in (not_standing, closed, elsewhere, drafted, abroad, both):
        assert await alerts(client, member) == []


async def test_many_requests_are_worked_off_in_parts(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    buyers = [await make_party(kernel, Role.BUYER) for _ in range(5)]
    for each in buyers:
        await standing_request(client, each, category="telecom")
    await drained(kernel)
    made = await hidden(kernel, seller, 10, category="telecom")
    await publish(kernel, seller, made.listing_id)
    monkeypatch.setattr(standing, "REQUESTS_MAX", 2)
    await drained(kernel)
    for each in buyers:
        assert await alerts(client, each) == [(show("lst", made.listing_id), "published", 10)]


async def test_a_failed_run_tells_nothing_and_the_next_one_everything(
    client: httpx.AsyncClient,
    kernel: Kernel,
    buyer: Member,
    seller: Member,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await standing_request(client, buyer, category="finance")
    made = await hidden(kernel, seller, 10, category="finance")
    await publish(kernel, seller, made.listing_id)

    def broken(*_: object) -> None:
        raise RuntimeError("the process dies before it commits")

    with monkeypatch.context() as patch:
        patch.setattr(standing, "_emit", broken)
        with pytest.raises(RuntimeError, match="dies before"):
            await drained(kernel)
    assert await alerts(client, buyer) == []
    await drained(kernel)
    assert len(await alerts(client, buyer)) == 1


async def test_the_inbox_is_the_buyers_own(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, seller: Member
) -> None:
    request = await standing_request(client, buyer, category="health")
    made = await hidden(kernel, seller, 10, category="health")
    await publish(kernel, seller, made.listing_id)
    await drained(kernel)
    page = await got(client, buyer, "/v1/alerts", request_id=request["id"], unread=True)
    (alert,) = page["items"]
    assert (alert["version_id"], alert["read_at"]) == (show("ver", made.version_id), None)
    path = f"/v1/alerts/{alert['id']}/read"
    assert await refused(client, seller, path, None) == (404, "alert_not_found")
    unknown = f"/v1/alerts/alr_{uuid.uuid4().hex}/read"
    assert await refused(client, buyer, unknown, None) == (404, "alert_not_found")
    read = await posted(client, buyer, path, None)
    assert read["read_at"] is not None
    assert await posted(client, buyer, path, None) == read
    assert (await got(client, buyer, "/v1/alerts", unread=True))["items"] == []
    assert (await got(client, seller, "/v1/alerts"))["items"] == []
