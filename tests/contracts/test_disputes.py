"""Opening, seeing, withdrawing a dispute; races of the opening with acceptance and use."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from contracts import acceptance, jobs
from contracts.disputes import PER_AGREEMENT_MAX
from market.kernel import events
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from tests.contracts.dispute_factories import (
    Court,
    claim,
    in_review,
    make_court,
    open_dispute,
    opened,
    ruled,
    text,
)
from tests.contracts.factories import agreement_of, bearer, mint
from tests.market.parties.factories import make_party
from tests.settlement.factories import together, verified


def request(court: Court, **changes: Any) -> dict[str, Any]:
    body = {"agreement_id": court.trade.id, "reason": "incomplete", "claim": claim()}
    return {**body, **changes}


async def test_opening_freezes_suspends_and_files_what_the_exchange_knows(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await make_court(kernel, client)
    answer = await court.post(court.buyer, "/v1/disputes", request(court), expect=201)
    made = answer.json()
    court = replace(court, dispute_id=made["id"])
    assert answer.headers["location"] == f"/v1/disputes/{made['id']}"
    assert (made["status"], made["turn"], made["round"]) == ("open", "both", 1)
    assert made["frozen"] == {"amount_minor": 10_001, "currency": "CNY"}
    assert (made["claimant_id"], made["respondent_id"]) == (court.buyer.id, court.seller.id)
    assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 0, "frozen": 10_001}
    assert (await court.agreement_status(), await court.grant_status()) == ("disputed", "suspended")
    items = (await court.get(court.seller, "evidence")).json()["items"]
    assert [(i["number"], i["side"], i["kind"], i["submitted_by"]) for i in items] == [
        (1, "system", "agreement_terms", None),
        (2, "system", "usage_total", None),
        (3, "system", "delivery_receipts", None),
    ]
    terms = await court.get(court.buyer, f"evidence/{items[0]['id']}/content")
    assert terms.json()["terms_sha256"] == court.trade.agreement.terms_sha256
    steps = (await court.get(court.seller, "timeline")).json()["items"]
    assert [(s["kind"], s["actor_id"], s["status"]) for s in steps] == [
        ("opened", court.buyer.id, "open")
    ]
    async with kernel.unit_of_work() as uow:
        found = await events.read(await uow.raw(), (0, 0), party_id=court.seller.party_id)
    assert [e.type for e in found if e.object_id == court.uuid] == ["dispute.opened"]
    await verified(kernel)


async def test_a_suspended_grant_delivers_nothing(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await make_court(kernel, client)
    token = await mint(kernel, court.trade)
    before = await client.get("/v1/delivery/rows?limit=1", headers=bearer(token))
    assert before.status_code == 200
    court = await open_dispute(court)
    refused = await client.get("/v1/delivery/rows?limit=1", headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (403, "grant_suspended")
    items = (await court.get(court.buyer, "evidence")).json()["items"]
    receipts = (await court.get(court.buyer, f"evidence/{items[2]['id']}/content")).json()
    assert (receipts["count"], len(receipts["listed"])) == (1, 1)
    assert receipts["head_sha256"] == receipts["listed"][0]["sha256"]


async def test_the_seller_may_dispute_too(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client, by_seller=True)
    view = (await court.get(court.buyer)).json()
    assert (view["claimant_id"], view["respondent_id"]) == (court.seller.id, court.buyer.id)


async def test_strangers_learn_nothing(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    other = await make_court(kernel, client, price_minor=1)
    unknown = show("dsp", new_id())
    before = await court.facts()
    for who in (other.buyer, other.seller):
        answer = await court.post(who, "/v1/disputes", request(court))
        assert (answer.status_code, answer.json()["code"]) == (404, "agreement_not_found")
        for path in ("", "timeline", "evidence", "offers", "rulings", "ruling-preview?buyer_ppm=0"):
            foreign = await court.get(who, path, expect=404)
            target = f"/v1/disputes/{unknown}/{path}".rstrip("/")
            missing = await court.get(who, target, expect=404)
            assert foreign.json()["code"] == missing.json()["code"] == "dispute_not_found"
        for path, body in (
            ("escalate", None),
            ("withdraw", {}),
            ("evidence", text()),
            ("evidence/complete", None),
            ("offers", {"buyer_ppm": 1, "access": "keep"}),
            ("offers/1/accept", None),
            ("ruling/accept", None),
            ("appeals", {"reasons": "No.", "evidence": text()}),
        ):
            refused = await court.post(who, path, body)
            assert (refused.status_code, refused.json()["code"]) == (404, "dispute_not_found")
        assert (await court.get(who, "/v1/disputes")).json()["items"] == []
    assert await court.facts() == before


async def test_staff_reads_but_takes_no_side(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    before = await court.facts()
    for who in (court.operator, court.arbiters[0], court.regulator):
        assert (await court.get(who)).json()["id"] == court.dispute_id
        assert len((await court.get(who, "evidence")).json()["items"]) == 3
        answer = await court.post(who, "/v1/disputes", request(court))
        assert (answer.status_code, answer.json()["code"]) == (404, "agreement_not_found")
        for path, body in (
            ("escalate", None),
            ("withdraw", {}),
            ("evidence", text()),
            ("offers", {"buyer_ppm": 1, "access": "keep"}),
            ("ruling/accept", None),
        ):
            refused = await court.post(who, path, body)
            assert (refused.status_code, refused.json()["code"]) == (403, "dispute_side")
    for path, body in (("assign", {}), ("rulings", {}), ("recuse", {})):
        refused = await court.post(court.regulator, path, body)
        assert refused.status_code in (403, 422)
    anonymous = await client.get(f"/v1/disputes/{court.dispute_id}")
    assert anonymous.status_code == 401
    assert await court.facts() == before


async def test_one_active_dispute_per_agreement(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    before = await court.facts()
    for who in (court.buyer, court.seller):
        refused = await court.post(who, "/v1/disputes", request(court))
        assert (refused.status_code, refused.json()["code"]) == (409, "dispute_exists")
    assert await court.facts() == before


async def test_both_parties_open_at_once(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await make_court(kernel, client)
    answers = await together(
        *(court.post(who, "/v1/disputes", request(court)) for who in (court.buyer, court.seller))
    )
    statuses = sorted(a.status_code for a in answers if isinstance(a, httpx.Response))
    assert statuses == [201, 409]
    listed = await court.get(court.operator, f"/v1/disputes?agreement_id={court.trade.id}")
    assert len(listed.json()["items"]) == 1
    await verified(kernel)


async def test_opening_is_idempotent(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await make_court(kernel, client)
    key = new_id().hex
    first = await court.post(court.buyer, "/v1/disputes", request(court), key=key, expect=201)
    again = await court.post(court.buyer, "/v1/disputes", request(court), key=key, expect=201)
    assert again.content == first.content
    other = await court.post(court.buyer, "/v1/disputes", request(court, reason="quality"), key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_the_window_closes_after_delivery(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await make_court(kernel, client, acceptance_window_days=60)
    token = await mint(kernel, court.trade)
    assert (await client.get("/v1/delivery/rows?limit=1", headers=bearer(token))).status_code == 200
    await court.get(court.buyer, f"/v1/grants/{court.trade.grant}")
    await jobs.accrue(kernel)
    assert await court.agreement_status() == "delivered"
    late = await court.later(days=14, minutes=1)
    refused = await late.post(late.buyer, "/v1/disputes", request(late))
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_window_closed")
    assert await late.money() == {"escrow": 10_001, "buyer": 0, "seller": 0}
    assert (await late.agreement_status(), await late.grant_status()) == ("delivered", "active")


async def test_acceptance_or_dispute_not_both(kernel: Kernel, client: httpx.AsyncClient) -> None:
    for _ in range(5):
        court = await make_court(kernel, client)
        results = await together(
            court.post(court.seller, "/v1/disputes", request(court)),
            acceptance.accept(kernel, court.buyer.actor, court.trade.agreement.id),
        )
        answer = results[0]
        assert isinstance(answer, httpx.Response)
        if answer.status_code == 201:
            assert isinstance(results[1], Exception)
            court = replace(court, dispute_id=answer.json()["id"])
            assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 0, "frozen": 10_001}
        else:
            assert answer.json()["code"] == "agreement_state"
            money = await court.money()
            assert (money["escrow"], money["seller"]) == (0, 9_501)
            assert await court.agreement_status() == "settled"
    await verified(kernel)


async def test_a_settled_agreement_cannot_be_disputed(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await make_court(kernel, client)
    await acceptance.accept(kernel, court.buyer.actor, court.trade.agreement.id)
    refused = await court.post(court.buyer, "/v1/disputes", request(court))
    assert (refused.status_code, refused.json()["code"]) == (409, "agreement_state")


async def used(court: Court, rows: int) -> str:
    """Pull rows with a delivery token, so that they are on record."""
    token = await mint(court.kernel, court.trade)
    url = f"/v1/delivery/rows?limit={rows}"
    answer = await court.client.get(url, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    await court.get(court.buyer, f"/v1/grants/{court.trade.grant}")
    return token


async def test_a_dispute_takes_what_use_has_left(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await make_court(
        kernel, client, kind="metered", price_minor=1_000, lot_units=100, lots=5
    )
    await used(court, 100)
    await jobs.accrue(kernel)
    assert await court.money() == {"escrow": 4_000, "buyer": 0, "seller": 950}
    await used(court, 100)
    court = await open_dispute(court)
    assert (await court.money())["frozen"] == 4_000
    # Use that was recorded before the opening earns nothing while it is disputed …
    await jobs.accrue(kernel)
    assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 950, "frozen": 4_000}
    # … and is paid at once when the dispute is withdrawn.
    await court.post(court.buyer, "withdraw", {"reason": "Found the rows."}, expect=200)
    assert await court.money() == {"escrow": 3_000, "buyer": 0, "seller": 1_900, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("active", "active")
    await verified(kernel)


async def test_opening_races_with_release_by_use(kernel: Kernel, client: httpx.AsyncClient) -> None:
    """Freeze or release first: never both over the same money, never a unit lost."""
    for _ in range(5):
        court = await make_court(
            kernel, client, kind="metered", price_minor=1_000, lot_units=100, lots=5, alone=True
        )
        await used(court, 100)
        results = await together(
            court.post(court.buyer, "/v1/disputes", request(court)),
            jobs.accrue(kernel),
            jobs.accrue(kernel),
        )
        answer = results[0]
        assert isinstance(answer, httpx.Response)
        assert answer.status_code == 201, answer.text
        assert all(isinstance(result, int) for result in results[1:])
        court = replace(court, dispute_id=answer.json()["id"])
        money = await court.money()
        assert money in (
            {"escrow": 0, "buyer": 0, "seller": 950, "frozen": 4_000},
            {"escrow": 0, "buyer": 0, "seller": 0, "frozen": 5_000},
        )
        assert answer.json()["frozen"]["amount_minor"] == money["frozen"]
    await verified(kernel)


async def test_withdrawing_restores_everything(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    refused = await court.post(court.seller, "withdraw", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "dispute_side")
    done = (await court.post(court.buyer, "withdraw", {}, expect=200)).json()
    assert (done["status"], done["outcome"]["kind"], done["deadline_at"]) == (
        "withdrawn",
        "withdrawn",
        None,
    )
    assert done["outcome"]["jws"] is None
    assert await court.money() == {"escrow": 10_001, "buyer": 0, "seller": 0, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("active", "active")
    assert (await agreement_of(kernel, court.trade.agreement.id)).disputed_minor == 0
    before = await court.facts()
    for path, body in (
        ("withdraw", {}),
        ("escalate", None),
        ("evidence", text()),
        ("evidence/complete", None),
        ("offers", {"buyer_ppm": 1, "access": "keep"}),
        ("ruling/accept", None),
        ("appeals", {"reasons": "No.", "evidence": text("new")}),
    ):
        late = await court.post(court.buyer, path, body)
        assert (late.status_code, late.json()["code"]) == (409, "dispute_state")
    assert await court.facts() == before
    await verified(kernel)


async def test_a_grant_that_ended_meanwhile_is_closed_out(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await make_court(
        kernel, client, kind="metered", price_minor=1_000, lot_units=100, lots=5, term_days=1
    )
    court = await open_dispute(court)
    await court.post(court.buyer, "escalate", expect=200)
    court = await court.later(days=2)
    assert await jobs.expire_grants(kernel) >= 1
    await jobs.close_out(kernel)
    assert (await court.money())["frozen"] == 5_000
    await court.post(court.buyer, "withdraw", {}, expect=200)
    await jobs.close_out(kernel)
    assert await court.money() == {"escrow": 0, "buyer": 5_000, "seller": 0, "frozen": 0}
    assert await court.agreement_status() == "settled"


async def test_an_agreement_is_not_disputed_for_ever(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await make_court(kernel, client)
    for _ in range(PER_AGREEMENT_MAX):
        court = await open_dispute(court)
        await court.post(court.buyer, "withdraw", {}, expect=200)
    refused = await court.post(court.buyer, "/v1/disputes", request(court))
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_limit")
    assert (await court.money())["escrow"] == 10_001
    page = (await court.get(court.buyer, "/v1/disputes?limit=2")).json()
    assert (len(page["items"]), page["has_more"]) == (2, True)
    rest = await court.get(court.buyer, f"/v1/disputes?limit=2&after={page['next_after']}")
    assert (len(rest.json()["items"]), rest.json()["has_more"]) == (1, False)
    none = await court.get(court.buyer, "/v1/disputes?status=open")
    assert none.json()["items"] == []


async def test_a_failing_opening_leaves_nothing(
    kernel: Kernel, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    court = await make_court(kernel, client)

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("contracts.evidence.attach_system", broken)
    key = new_id().hex
    failed = await court.post(court.buyer, "/v1/disputes", request(court), key=key)
    assert failed.status_code == 500
    assert "disk" not in failed.text
    assert await court.money() == {"escrow": 10_001, "buyer": 0, "seller": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("active", "active")
    monkeypatch.undo()
    await court.post(court.buyer, "/v1/disputes", request(court), key=key, expect=201)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"claim": claim(buyer_ppm=-1)}, "claim.buyer_ppm"),
        ({"claim": claim(buyer_ppm=1_000_001)}, "claim.buyer_ppm"),
        ({"claim": claim(buyer_ppm=0.5)}, "claim.buyer_ppm"),
        ({"claim": claim(buyer_ppm="1")}, "claim.buyer_ppm"),
        ({"claim": claim(buyer_ppm=True)}, "claim.buyer_ppm"),
        ({"claim": claim(buyer_ppm=None)}, "claim.buyer_ppm"),
        ({"claim": claim(access="burn")}, "claim.access"),
        ({"claim": claim(statement="")}, "claim.statement"),
        ({"claim": claim(statement="x" * 10_001)}, "claim.statement"),
        ({"claim": claim(statement="a\x00b")}, "claim.statement"),
        ({"claim": claim(escalate="yes")}, "claim.escalate"),
        ({"claim": claim(status="final")}, "claim.status"),
        ({"reason": "boredom"}, "reason"),
        ({"agreement_id": "dsp_" + "0" * 32}, "agreement_id"),
        ({"agreement_id": "1; DROP TABLE contracts.dispute"}, "agreement_id"),
        ({"frozen_minor": 1}, "frozen_minor"),
        ({"claimant_id": "x"}, "claimant_id"),
    ],
)
async def test_bad_openings_change_nothing(
    kernel: Kernel, client: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    court = await make_court(kernel, client, arbiters=0)
    refused = await court.post(court.buyer, "/v1/disputes", request(court, **changes))
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert refused.json()["param"] == param
    assert refused.headers["content-type"] == "application/problem+json"
    assert await court.money() == {"escrow": 10_001, "buyer": 0, "seller": 0}


async def test_after_a_ruling_nobody_withdraws(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await ruled(kernel, client)
    before = await court.facts()
    refused = await court.post(court.buyer, "withdraw", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_state")
    assert await court.facts() == before


async def test_a_stranger_with_both_roles_is_still_a_stranger(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    trader = await make_party(kernel, Role.SELLER, Role.BUYER)
    await court.get(trader, expect=404)
