"""Settlement offers: the latest stands, the other side accepts, arbiters do not see them."""

from typing import Any

import httpx
import pytest

from contracts.dispute_offers import PER_DISPUTE_MAX
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.security import verify_with_jwks
from tests.contracts.dispute_factories import appealed, in_review, opened, ruled, ruling
from tests.settlement.factories import together, verified


def offer(buyer_ppm: int = 400_000, **changes: Any) -> dict[str, Any]:
    return {"buyer_ppm": buyer_ppm, "access": "keep", "message": "Let us be friends.", **changes}


async def test_offer_counter_accept(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    first = (await court.post(court.seller, "offers", offer(), expect=201)).json()
    assert (first["number"], first["open"], first["offered_by"]) == (1, True, court.seller.id)
    second = (await court.post(court.buyer, "offers", offer(600_000), expect=201)).json()
    assert second["number"] == 2
    listed = (await court.get(court.seller, "offers")).json()["items"]
    assert [(o["number"], o["open"]) for o in listed] == [(1, False), (2, True)]
    facts = await court.facts()
    for who, number, status, code in (
        (court.buyer, 1, 409, "offer_stale"),
        (court.buyer, 2, 403, "dispute_side"),
        (court.seller, 3, 404, "offer_not_found"),
        (court.operator, 2, 403, "dispute_side"),
        (court.seller, 0, 422, "validation_failed"),
    ):
        refused = await court.post(who, f"offers/{number}/accept")
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert await court.facts() == facts
    done = (await court.post(court.seller, "offers/2/accept", expect=200)).json()
    assert (done["status"], done["outcome"]["kind"]) == ("settled", "settlement")
    # 60 % of 10,001 is 6,000.6: largest remainder gives the buyer 6,001; fee 5 % of 4,000.
    assert done["outcome"]["amounts"] == {
        "currency": "CNY",
        "frozen_minor": 10_001,
        "buyer_minor": 6_001,
        "fee_minor": 200,
        "shares": [],
        "seller_minor": 3_800,
    }
    assert await court.money() == {"escrow": 0, "buyer": 6_001, "seller": 3_800, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("settled", "active")
    signed = verify_with_jwks("ruling+jws", done["outcome"]["jws"], kernel.keys.jwks())
    assert (signed["kind"], signed["offer"], signed["buyer_ppm"]) == ("settlement", 2, 600_000)
    assert (signed["offered_by"], signed["accepted_by"]) == (court.buyer.id, court.seller.id)
    await verified(kernel)


async def test_offers_are_without_prejudice(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    await court.post(court.seller, "offers", offer(987_654), expect=201)
    refused = await court.get(court.arbiters[0], "offers", expect=403)
    assert refused.json()["code"] == "offers_without_prejudice"
    for path in ("", "timeline", "rulings"):
        assert "987654" not in (await court.get(court.arbiters[0], path)).text
    assert len((await court.get(court.regulator, "offers")).json()["items"]) == 1


async def test_an_offer_ends_with_its_time(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    await court.post(court.seller, "offers", offer(valid_days=1), expect=201)
    court = await court.later(days=1)
    refused = await court.post(court.buyer, "offers/1/accept")
    assert (refused.status_code, refused.json()["code"]) == (409, "offer_stale")


async def test_an_old_offer_does_not_survive_a_ruling(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client)
    await court.post(court.seller, "offers", offer(900_000), expect=201)
    await court.post(court.arbiters[0], "rulings", ruling(0), expect=201)
    refused = await court.post(court.buyer, "offers/1/accept")
    assert (refused.status_code, refused.json()["code"]) == (409, "offer_stale")
    assert await court.agreement_status() == "ruled"


@pytest.mark.parametrize("stage", [opened, in_review, ruled, appealed])
async def test_the_sides_may_settle_at_any_stage(
    kernel: Kernel, client: httpx.AsyncClient, stage: Any
) -> None:
    court = await stage(kernel, client)
    await court.post(court.buyer, "offers", offer(0, access="revoke"), expect=201)
    await court.post(court.seller, "offers/1/accept", expect=200)
    assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 9_501, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("settled", "revoked")
    late = await court.post(court.seller, "offers/1/accept")
    assert (late.status_code, late.json()["code"]) == (409, "dispute_state")


async def test_accepting_races_with_withdrawing(kernel: Kernel, client: httpx.AsyncClient) -> None:
    for _ in range(4):
        court = await opened(kernel, client, arbiters=0)
        await court.post(court.buyer, "offers", offer(500_000), expect=201)
        answers = await together(
            court.post(court.seller, "offers/1/accept"), court.post(court.buyer, "withdraw", {})
        )
        statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
        assert sorted(statuses) == [200, 409]
        money = await court.money()
        assert money["frozen"] == 0
        assert (money["escrow"], money["buyer"]) in {(10_001, 0), (0, 5_001), (0, 5_000)}
    await verified(kernel)


async def test_accepting_is_idempotent(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client, arbiters=0)
    await court.post(court.buyer, "offers", offer(500_000), expect=201)
    key = new_id().hex
    first = await court.post(court.seller, "offers/1/accept", key=key, expect=200)
    again = await court.post(court.seller, "offers/1/accept", key=key, expect=200)
    assert again.content == first.content


@pytest.mark.parametrize(
    "body",
    [
        offer(-1),
        offer(1_000_001),
        offer(valid_days=0),
        offer(valid_days=31),
        offer(valid_days=1.5),
        offer(access="maybe"),
        offer(number=7),
        offer(offered_by="pty_x"),
        {},
    ],
)
async def test_bad_offers_change_nothing(
    kernel: Kernel, client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    court = await opened(kernel, client, arbiters=0)
    facts = await court.facts()
    refused = await court.post(court.buyer, "offers", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert await court.facts() == facts


async def test_offers_have_a_bound(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client, arbiters=0)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "INSERT INTO contracts.dispute_offer (dispute_id, number, offered_by, buyer_ppm, "
            "access, offered_at, expires_at) SELECT $1, n, $2, 1, 'keep', now(), "
            "now() + interval '1 day' FROM generate_series(1, $3::int) n",
            court.uuid,
            court.buyer.party_id,
            PER_DISPUTE_MAX,
        )
    refused = await court.post(court.buyer, "offers", offer())
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_state")
    page = (await court.get(court.buyer, "offers?limit=40")).json()
    rest = (await court.get(court.buyer, f"offers?after={page['next_after']}")).json()
    assert len(page["items"]) + len(rest["items"]) == PER_DISPUTE_MAX
