"""Accepting a quote: money, agreement and grant at once, and one winner of every race."""

import uuid
from typing import Any
from uuid import UUID

import httpx
import pytest

from market.demand.jobs import expire_quotes
from market.kernel.context import Kernel
from market.kernel.ids import parse
from tests.market.demand.factories import Scene, footprint, got, open_scene, posted, refused
from tests.market.matching.factories import money, one_row, scalar, together
from tests.settlement.factories import fund, verified


@pytest.fixture
async def scene(kernel: Kernel, client: httpx.AsyncClient) -> Scene:
    return await open_scene(kernel, client, money_minor=10_000)


def accept_path(quote: dict[str, Any]) -> str:
    return f"/v1/quotes/{quote['id']}/accept"


async def escrow_of(kernel: Kernel, agreement_id: str) -> int:
    """Minor units in an agreement's escrow."""
    return int(
        await scalar(
            kernel,
            "SELECT posted FROM settlement.account WHERE kind = 'escrow' AND owner = $1",
            parse("agr", agreement_id),
        )
    )


async def test_an_accepted_quote_is_a_paid_agreement(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote(900, 3)
    _, other = await scene.rival()
    before = await footprint(kernel)
    key = uuid.uuid4().hex
    answers = [
        await client.post(accept_path(quote), json={"round": 1}, headers=scene.buyer.headers(key))
        for _ in range(2)
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].content == answers[1].content
    done = answers[0].json()
    assert done["status"] == "accepted"
    agreement = await got(client, scene.buyer, f"/v1/agreements/{done['agreement_id']}")
    assert agreement["status"] == "active"
    assert (agreement["lots"], agreement["price_minor"], agreement["total_minor"]) == (
        3,
        900,
        2_700,
    )
    assert (agreement["escrow_minor"], agreement["buy_order_id"]) == (2_700, None)
    assert agreement["plan_id"] == quote["plan_id"]
    grant = await got(client, scene.buyer, f"/v1/grants/{agreement['grant_id']}")
    assert grant["status"] == "active"
    assert await money(kernel, scene.buyer.party_id) == (7_300, 0)
    assert await escrow_of(kernel, done["agreement_id"]) == 2_700
    after = await footprint(kernel)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {
        "demand.award": 1,
        # Accepted, the other lapsed, the request matched.
        "demand.step": 3,
        "settlement.hold": 1,
        "settlement.transfer": 1,
        "contracts.agreement": 1,
        "contracts.access_grant": 1,
        "pricing.observation": 1,
        # The same three, and the agreement.
        "kernel.outbox": 4,
    }
    request = await got(client, scene.buyer, f"/v1/requests/{scene.request_id}")
    assert request["status"] == "matched"
    assert (await got(client, scene.buyer, f"/v1/quotes/{other['id']}"))["status"] == "lapsed"
    award = await one_row(
        kernel, "SELECT * FROM demand.award WHERE quote_id = $1", parse("quo", quote["id"])
    )
    assert agreement["trade_id"] == f"trd_{award['id'].hex}"
    assert (award["amount_minor"], award["accepted_by"]) == (2_700, "buyer")
    trace = await got(client, scene.buyer, f"/v1/agreements/{done['agreement_id']}/trace")
    assert trace is not None
    await verified(kernel)


async def test_a_seller_may_accept_the_buyers_counter_offer(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote(900)
    path = f"/v1/quotes/{quote['id']}"
    await posted(client, scene.buyer, f"{path}/counter", await scene.terms(700, 2))
    assert await refused(client, scene.seller, f"{path}/accept", {"round": 1}) == (
        409,
        "proposal_moved",
    )
    done = await posted(client, scene.seller, f"{path}/accept", {"round": 2})
    assert (done["status"], done["total_minor"]) == ("accepted", 1_400)
    assert await money(kernel, scene.buyer.party_id) == (8_600, 0)
    assert await escrow_of(kernel, done["agreement_id"]) == 1_400


async def test_too_little_money_leaves_everything_as_before(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    quote = await scene.quote(10_001)
    path = f"/v1/quotes/{quote['id']}"
    before = await footprint(kernel)
    assert await refused(client, scene.buyer, f"{path}/accept", {"round": 1}) == (
        402,
        "insufficient_funds",
    )
    assert await footprint(kernel) == before
    assert (await got(client, scene.buyer, path))["status"] == "open"
    await posted(client, scene.buyer, f"{path}/counter", await scene.terms(10_001))
    before = await footprint(kernel)
    response = await client.post(
        f"{path}/accept", json={"round": 2}, headers=scene.seller.headers()
    )
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "buyer_unfunded")
    # What the buyer has is not the seller's business.
    assert "10" not in problem["detail"]
    assert await footprint(kernel) == before
    await fund(kernel, scene.buyer.party_id, 1)
    done = await posted(client, scene.seller, f"{path}/accept", {"round": 2})
    assert done["status"] == "accepted"
    assert await money(kernel, scene.buyer.party_id) == (0, 0)
    await verified(kernel)


async def test_two_accepts_at_once_have_one_winner(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    for _ in range(5):
        scene = await open_scene(kernel, client, money_minor=10_000)
        _, cheap = await scene.rival(800)
        dear = await scene.quote(900)
        before = await footprint(kernel)
        answers = await together(
            *(
                client.post(accept_path(quote), json={"round": 1}, headers=scene.buyer.headers())
                for quote in (cheap, dear, cheap, dear)
            )
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200, 409, 409, 409]
        codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
        assert codes == {"quote_ended"}
        (won,) = [answer.json() for answer in answers if answer.status_code == 200]
        after = await footprint(kernel)
        for table in ("demand.award", "contracts.agreement", "settlement.transfer"):
            assert after[table] - before[table] == 1
        assert await money(kernel, scene.buyer.party_id) == (10_000 - won["total_minor"], 0)
    await verified(kernel)


async def test_accept_against_withdraw_has_one_winner(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    outcomes = set()
    for number in range(12):
        scene = await open_scene(kernel, client, money_minor=1_000)
        quote = await scene.quote(900)
        accept = client.post(accept_path(quote), json={"round": 1}, headers=scene.buyer.headers())
        withdraw = client.post(f"/v1/quotes/{quote['id']}/withdraw", headers=scene.seller.headers())
        race = [accept, withdraw] if number % 2 else [withdraw, accept]
        answers = await together(*race)
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        seen = await got(client, scene.buyer, f"/v1/quotes/{quote['id']}")
        paid = 900 if seen["status"] == "accepted" else 0
        assert await money(kernel, scene.buyer.party_id) == (1_000 - paid, 0)
        assert await agreements_of(kernel, scene.buyer.party_id) == (1 if paid else 0)
        outcomes.add(seen["status"])
    assert outcomes == {"accepted", "withdrawn"}
    await verified(kernel)


async def agreements_of(kernel: Kernel, buyer_id: UUID) -> int:
    """How many agreements a buyer has."""
    query = "SELECT count(*) FROM contracts.agreement WHERE buyer_id = $1"
    return int(await scalar(kernel, query, buyer_id))


async def test_one_balance_for_two_deals_pays_one(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    """Two requests of one buyer, accepted at once, with money for one of them."""
    first = await scene.quote(6_000)
    second_request = await posted(
        client, scene.buyer, "/v1/requests", {"title": "More", "text": "More of it."}
    )
    path = f"/v1/requests/{second_request['id']}/quotes"
    second = await posted(client, scene.seller, path, await scene.body(6_000))
    answers = await together(
        *(
            client.post(accept_path(quote), json={"round": 1}, headers=scene.buyer.headers())
            for quote in (first, second)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 402]
    assert await money(kernel, scene.buyer.party_id) == (4_000, 0)
    assert await agreements_of(kernel, scene.buyer.party_id) == 1


async def test_accept_against_the_sweeper_has_one_winner(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    """Both see one database time under the request's lock, so a late accept never gets through."""
    scene = await open_scene(kernel, client, money_minor=1_000)
    quote = await scene.quote(900)
    async with kernel.unit_of_work() as uow:
        # Ends in the middle of the race.
        await (await uow.raw()).execute(
            "UPDATE demand.quote SET valid_until = kernel.market_now() + interval '60 ms'"
            " WHERE id = $1",
            parse("quo", quote["id"]),
        )
    answers: list[httpx.Response] = []

    async def sweep() -> None:
        for _ in range(40):
            if await expire_quotes(kernel):
                return

    async def press() -> None:
        for _ in range(8):
            answers.append(
                await client.post(
                    accept_path(quote), json={"round": 9}, headers=scene.buyer.headers()
                )
            )
        answers.append(
            await client.post(accept_path(quote), json={"round": 1}, headers=scene.buyer.headers())
        )

    await together(sweep(), press())
    seen = await got(client, scene.buyer, f"/v1/quotes/{quote['id']}")
    accepted = answers[-1].status_code == 200
    assert seen["status"] == ("accepted" if accepted else "expired")
    if not accepted:
        assert answers[-1].json()["code"] in {"quote_expired", "quote_ended"}
    assert await money(kernel, scene.buyer.party_id) == (100 if accepted else 1_000, 0)
    assert await agreements_of(kernel, scene.buyer.party_id) == (1 if accepted else 0)
