"""The queue, who may take a case, and who is impartial."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.schemas import encode_cursor
from market.kernel.security import Role
from pricing.schemas import ShareInput, SharesInput
from pricing.shares import set_shares
from tests.contracts.dispute_factories import (
    Court,
    appealed,
    in_review,
    make_court,
    open_dispute,
    opened,
    relate,
    ruling,
    text,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import together

QUEUE = "/v1/arbitration/queue"


async def mine(court: Court, who: Member, query: str = "") -> list[dict[str, Any]]:
    """The whole queue, page by page, in order."""
    items: list[dict[str, Any]] = []
    after = ""
    for _ in range(100):
        page = (await court.get(who, f"{QUEUE}?limit=3{query}{after}")).json()
        items.extend(page["items"])
        if not page["has_more"]:
            return items
        after = f"&after={page['next_after']}"
    raise AssertionError("the queue does not end")


async def test_the_queue_is_ordered_by_time_left(kernel: Kernel, client: httpx.AsyncClient) -> None:
    first = await in_review(kernel, client, assigned=False)
    await open_dispute(await make_court(kernel, client))
    courts = [first] + [await in_review(kernel, client) for _ in range(4)]
    await courts[1].post(courts[1].arbiters[0], "evidence-requests", {"question": "More?"})
    arbiter = first.arbiters[1]
    items = await mine(first, arbiter)
    deadlines = [datetime.fromisoformat(i["dispute"]["deadline_at"]) for i in items]
    assert deadlines == sorted(deadlines)
    ids = [i["dispute"]["id"] for i in items]
    assert len(ids) == len(set(ids))
    assert {c.dispute_id for c in courts} <= set(ids)
    assert ids[-1] == courts[1].dispute_id
    assert {i["dispute"]["status"] for i in items} == {"under_review"}
    one = next(i for i in items if i["dispute"]["id"] == first.dispute_id)
    assert (one["evidence_count"], one["conflict"]) == (5, False)
    assert 0 < one["seconds_left"] <= 5 * 86_400
    free = await mine(first, arbiter, "&assigned=nobody")
    assert first.dispute_id in {i["dispute"]["id"] for i in free}
    assert {i["dispute"]["arbiter_id"] for i in free} == {None}
    own = await mine(first, courts[2].arbiters[0], "&assigned=mine")
    assert [i["dispute"]["id"] for i in own] == [courts[2].dispute_id]
    assert await mine(first, arbiter, "&reason=billing") == []
    assert await mine(first, arbiter, "&currency=USD") == []
    assert await mine(first, arbiter, "&escalated=true") == []
    assert len(await mine(first, arbiter, "&escalated=false&currency=CNY")) == len(items)
    opening = await mine(first, first.regulator, "&status=open&status=evidence_required")
    assert {i["dispute"]["status"] for i in opening} == {"open"}


async def test_the_queue_is_for_staff(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    for who in (court.buyer, court.seller):
        refused = await court.get(who, QUEUE, expect=403)
        assert refused.json()["code"] == "role_required"
    assert (await client.get(QUEUE)).status_code == 401
    for query in ("status=lost", "currency=XXX", "assigned=me", "escalated=perhaps", "limit=0"):
        refused = await court.get(court.operator, f"{QUEUE}?{query}", expect=422)
        assert refused.json()["code"] == "validation_failed"
    no_zone = encode_cursor("2026-11-01T00:00:00", new_id())
    for after in ("x", "WyJhIiwiYiJd", "WyIyMDI2LTExLTAxIiwiYiJd", no_zone):
        refused = await court.get(court.operator, f"{QUEUE}?after={after}", expect=422)
        assert refused.json()["code"] == "cursor_invalid"


async def test_the_queue_shows_conflicts(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, assigned=False)
    await relate(court, court.arbiters[0].party_id, court.buyer.party_id)
    badges = {
        who.id: next(
            i["conflict"] for i in await mine(court, who) if i["dispute"]["id"] == court.dispute_id
        )
        for who in (*court.arbiters, court.operator)
    }
    assert badges == {
        court.arbiters[0].id: True,
        court.arbiters[1].id: False,
        court.operator.id: False,
    }


async def test_an_arbiter_takes_a_case_once(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, assigned=False)
    answers = await together(*(court.post(who, "assign", {}) for who in court.arbiters))
    statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
    assert sorted(statuses) == [200, 409]
    taken = (await court.get(court.buyer)).json()["arbiter_id"]
    winner = court.arbiters[statuses.index(200)]
    assert taken == winner.id
    again = await court.post(winner, "assign", {})
    assert (again.status_code, again.json()["code"]) == (409, "dispute_assigned")


@pytest.mark.parametrize("relative", ["buyer", "seller"])
async def test_a_relative_of_a_party_is_refused(
    kernel: Kernel, client: httpx.AsyncClient, relative: str
) -> None:
    court = await in_review(kernel, client, assigned=False)
    party = court.buyer if relative == "buyer" else court.seller
    await relate(court, court.arbiters[0].party_id, party.party_id)
    facts = await court.facts()
    refused = await court.post(court.arbiters[0], "assign", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "arbiter_conflict")
    assert refused.json()["reason"] == "related_party"
    # An operator cannot impose a partial arbiter either.
    imposed = await court.post(court.operator, "assign", {"arbiter_id": court.arbiters[0].id})
    assert (imposed.status_code, imposed.json()["code"]) == (403, "arbiter_conflict")
    assert await court.facts() == facts
    await relate(court, court.seller.party_id, court.seller.party_id)


async def test_a_conflict_that_arises_later_stops_the_ruling(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client)
    await relate(court, court.arbiters[0].party_id, court.buyer.party_id)
    facts = await court.facts()
    for path, body in (("rulings", ruling()), ("evidence-requests", {"question": "Why?"})):
        refused = await court.post(court.arbiters[0], path, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "arbiter_conflict")
    assert await court.facts() == facts


async def test_a_contributor_does_not_judge(kernel: Kernel, client: httpx.AsyncClient) -> None:
    contributor = await make_party(kernel, Role.SELLER)
    court = await make_court(kernel, client, price_minor=10_003)
    await share(court, contributor, 250_000)
    court = await make_court(kernel, client, price_minor=10_003)
    court = await to_review(court)
    await relate(court, court.arbiters[0].party_id, contributor.party_id)
    refused = await court.post(court.arbiters[0], "assign", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "arbiter_conflict")
    await court.post(court.arbiters[1], "assign", {}, expect=200)
    made = await court.post(court.arbiters[1], "rulings", ruling(300_000), expect=201)
    # 10,003 → buyer 3,001, fee 5 % of 7,002 = 350, a quarter of 6,652 = 1,663 to the contributor.
    assert made.json()["amounts"] == {
        "currency": "CNY",
        "frozen_minor": 10_003,
        "buyer_minor": 3_001,
        "fee_minor": 350,
        "shares": [{"party_id": contributor.id, "amount_minor": 1_663}],
        "seller_minor": 4_989,
    }
    await court.post(court.buyer, "ruling/accept", expect=200)
    await court.post(court.seller, "ruling/accept", expect=200)
    assert await court.money() == {"escrow": 0, "buyer": 3_001, "seller": 4_989, "frozen": 0}


async def share(court: Court, contributor: Member, ppm: int) -> None:
    """Give a contributor a part of the listing's net."""
    body = SharesInput(shares=[ShareInput(party_id=contributor.party_id, ppm=ppm)])
    await set_shares(
        court.kernel, court.seller.actor, court.trade.plan.listing_id, body, expected_version=0
    )


async def to_review(court: Court) -> Court:
    """Open, escalate, and let both sides rest."""
    court = await open_dispute(court)
    await court.post(court.buyer, "escalate", expect=200)
    await court.post(court.seller, "evidence/complete", expect=200)
    await court.post(court.buyer, "evidence/complete", expect=200)
    return court


async def test_operators_assign_arbiters_only(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    second = court.arbiters[1].id
    for who, body, status, code in (
        (court.buyer, {}, 403, "role_required"),
        (court.regulator, {}, 403, "role_required"),
        (court.operator, {}, 422, "not_an_arbiter"),
        (court.operator, {"arbiter_id": court.regulator.id}, 422, "not_an_arbiter"),
        (court.operator, {"arbiter_id": court.buyer.id}, 422, "not_an_arbiter"),
        (court.operator, {"arbiter_id": "pty_" + "0" * 32}, 404, "party_not_found"),
        (court.arbiters[1], {"arbiter_id": court.arbiters[0].id}, 403, "role_required"),
        (court.arbiters[1], {}, 409, "dispute_assigned"),
        (court.operator, {"arbiter_id": "x"}, 422, "validation_failed"),
        (court.operator, {"arbiter": second}, 422, "validation_failed"),
    ):
        refused = await court.post(who, "assign", body)
        assert (refused.status_code, refused.json()["code"]) == (status, code), body
    moved = await court.post(court.operator, "assign", {"arbiter_id": second}, expect=200)
    assert moved.json()["arbiter_id"] == second
    stale = await court.post(court.arbiters[0], "rulings", ruling())
    assert (stale.status_code, stale.json()["code"]) == (403, "arbiter_not_assigned")


@pytest.mark.parametrize("stage", ["open", "evidence_required", "ruled"])
async def test_a_case_is_taken_in_review_only(
    kernel: Kernel, client: httpx.AsyncClient, stage: str
) -> None:
    court = await (in_review(kernel, client) if stage == "ruled" else opened(kernel, client))
    if stage == "evidence_required":
        await court.post(court.buyer, "escalate", expect=200)
    if stage == "ruled":
        await court.post(court.arbiters[0], "rulings", ruling(), expect=201)
    facts = await court.facts()
    for path, body in (
        ("assign", {}),
        ("recuse", {"reason": "Busy."}),
        ("rulings", ruling()),
        ("evidence-requests", {"question": "Why?"}),
    ):
        refused = await court.post(court.arbiters[0], path, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "dispute_state")
        assert refused.json()["current"] == stage
    assert await court.facts() == facts


async def test_recusing_gives_the_case_back(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    not_mine = await court.post(court.arbiters[1], "recuse", {"reason": "No time."})
    assert (not_mine.status_code, not_mine.json()["code"]) == (403, "arbiter_not_assigned")
    freed = await court.post(court.arbiters[0], "recuse", {"reason": "I know them."}, expect=200)
    assert freed.json()["arbiter_id"] is None
    again = await court.post(court.arbiters[0], "assign", {})
    assert (again.status_code, again.json()["reason"]) == (403, "same_arbiter")
    await court.post(court.arbiters[1], "assign", {}, expect=200)


async def test_an_appeal_needs_another_arbiter(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await appealed(kernel, client, arbiters=3)
    facts = await court.facts()
    refused = await court.post(court.arbiters[0], "assign", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "arbiter_conflict")
    assert refused.json()["reason"] == "former_arbiter"
    await relate(court, court.arbiters[0].party_id, court.arbiters[1].party_id)
    colleague = await court.post(court.arbiters[1], "assign", {})
    assert colleague.json()["reason"] == "former_arbiter"
    assert await court.facts() == facts
    await court.post(court.arbiters[2], "assign", {}, expect=200)


async def test_a_suspended_arbiter_gets_no_case(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, assigned=False)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET status = 'suspended', suspended_at = now() WHERE id = $1",
            court.arbiters[0].party_id,
        )
    refused = await court.post(court.operator, "assign", {"arbiter_id": court.arbiters[0].id})
    assert (refused.status_code, refused.json()["code"]) == (422, "not_an_arbiter")


async def test_a_preview_is_for_those_who_see_the_case(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = replace(await opened(kernel, client))
    for who in (court.buyer, court.seller, court.arbiters[0], court.operator, court.regulator):
        found = (await court.get(who, "ruling-preview?buyer_ppm=1000000")).json()
        assert found["amounts"]["buyer_minor"] == 10_001
    for query in ("buyer_ppm=-1", "buyer_ppm=1000001", "buyer_ppm=0.5", "buyer_ppm=", "x=1"):
        refused = await court.get(court.buyer, f"ruling-preview?{query}", expect=422)
        assert refused.json()["code"] == "validation_failed"
    await court.post(court.buyer, "evidence", text(), expect=201)
