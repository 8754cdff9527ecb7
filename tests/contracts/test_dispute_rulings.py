"""Rulings: two persons above the limit, acceptance, appeal, and one transaction at the end."""

from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given, strategies as st

from contracts.dispute_cases import divide
from contracts.trace import verify_trace
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import verify_with_jwks
from settlement.split import SplitTerms
from tests.conftest import TestDatabase
from tests.contracts.dispute_factories import (
    Court,
    appealed,
    in_review,
    relate,
    ruled,
    ruling,
    text,
)
from tests.settlement.factories import together, verified

LARGE: dict[str, Any] = {"price_minor": 10_000_001}


async def test_a_split_moves_money_and_access(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    shown = (await court.get(court.seller, "ruling-preview?buyer_ppm=300000")).json()
    made = (await court.post(court.arbiters[0], "rulings", ruling(300_000), expect=201)).json()
    assert (made["round"], made["source"], made["needs_approval"]) == (1, "arbiter", False)
    assert (made["effective"], made["accepted_by"]) == (True, [])
    assert made["amounts"] == shown["amounts"]
    # Preliminary: nothing has moved.
    assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 0, "frozen": 10_001}
    assert (await court.agreement_status(), await court.grant_status()) == ("ruled", "suspended")
    first = (await court.post(court.buyer, "ruling/accept", expect=200)).json()
    assert (first["status"], first["outcome"]) == ("ruled", None)
    done = (await court.post(court.seller, "ruling/accept", expect=200)).json()
    assert done["status"] == "final"
    assert done["outcome"]["amounts"] == shown["amounts"]
    assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("settled", "revoked")
    signed = verify_with_jwks("ruling+jws", done["outcome"]["jws"], kernel.keys.jwks())
    assert signed["ruling"] == made["id"]
    assert signed["dispute"] == court.dispute_id
    assert signed["evidence_sha256"] == made["evidence_sha256"]
    assert signed["amounts"]["transfer_id"] == done["outcome"]["transfer_id"]
    assert (signed["arbiter"], signed["approved_by"]) == (court.arbiters[0].id, None)
    (listed,) = (await court.get(court.buyer, "rulings")).json()["items"]
    assert listed["accepted_by"] == [court.buyer.id, court.seller.id]
    path = f"/v1/agreements/{court.trade.id}/releases"
    records = await client.get(path, headers=court.seller.headers())
    (record,) = records.json()["items"]
    assert record["transfer_id"] == done["outcome"]["transfer_id"]
    assert (record["amount_minor"], record["fee_minor"]) == (7_001, 350)
    await verified(kernel)


@pytest.mark.parametrize(
    ("buyer_ppm", "access", "buyer", "seller", "grant"),
    [
        (1_000_000, "keep", 10_001, 0, "active"),
        (0, "keep", 0, 9_501, "active"),
        (1, "revoke", 0, 9_501, "revoked"),
        (999_999, "revoke", 10_001, 0, "revoked"),
        (500_000, "keep", 5_001, 4_750, "active"),
    ],
)
async def test_extremes_sum_exactly(
    kernel: Kernel,
    client: httpx.AsyncClient,
    buyer_ppm: int,
    access: str,
    buyer: int,
    seller: int,
    grant: str,
) -> None:
    court = await in_review(kernel, client)
    body = ruling(buyer_ppm, access=access)
    amounts = (await court.post(court.arbiters[0], "rulings", body, expect=201)).json()["amounts"]
    parts = ("buyer_minor", "fee_minor", "seller_minor")
    assert sum(amounts[name] for name in parts) == 10_001
    await court.post(court.seller, "ruling/accept", expect=200)
    await court.post(court.buyer, "ruling/accept", expect=200)
    assert await court.money() == {"escrow": 0, "buyer": buyer, "seller": seller, "frozen": 0}
    assert await court.grant_status() == grant


async def test_ruling_twice_is_refused(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    answers = await together(
        *(court.post(court.arbiters[0], "rulings", ruling(ppm)) for ppm in (1, 2, 3, 4))
    )
    statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
    assert sorted(statuses) == [201, 409, 409, 409]
    facts = await court.facts()
    again = await court.post(court.arbiters[0], "rulings", ruling(5))
    assert (again.status_code, again.json()["code"]) == (409, "dispute_state")
    assert await court.facts() == facts
    assert facts["counts"]["ruling"] == 1


async def test_a_ruling_is_idempotent(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    key = new_id().hex
    first = await court.post(court.arbiters[0], "rulings", ruling(), key=key, expect=201)
    again = await court.post(court.arbiters[0], "rulings", ruling(), key=key, expect=201)
    assert again.content == first.content


async def test_both_accept_at_once(kernel: Kernel, client: httpx.AsyncClient) -> None:
    for _ in range(4):
        court = await ruled(kernel, client)
        answers = await together(
            *(court.post(who, "ruling/accept") for who in (court.buyer, court.seller) * 2)
        )
        statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
        assert sorted(statuses) == [200, 200, 409, 409]
        assert await court.status() == "final"
        assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    await verified(kernel)


async def test_accepting_races_with_appealing(kernel: Kernel, client: httpx.AsyncClient) -> None:
    for _ in range(4):
        court = await ruled(kernel, client)
        await court.post(court.buyer, "ruling/accept", expect=200)
        answers = await together(
            court.post(court.seller, "ruling/accept"),
            court.post(court.seller, "appeals", {"reasons": "No.", "evidence": text("new log")}),
        )
        statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
        assert sorted(statuses) in ([200, 409], [201, 409])
        frozen = (await court.money())["frozen"]
        assert (await court.status(), frozen) in {("final", 0), ("appealed", 10_001)}
    await verified(kernel)


async def test_execution_is_all_or_nothing(
    kernel: Kernel, client: httpx.AsyncClient, database: TestDatabase
) -> None:
    """The very last write fails in the database: no money, no access, no state has moved."""
    court = await ruled(kernel, client, alone=True)
    await court.post(court.buyer, "ruling/accept", expect=200)
    facts = await court.facts()
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute(
            "CREATE FUNCTION kernel.test_fail() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'injected'; END $$"
        )
        owner.execute(
            "CREATE TRIGGER test_fail BEFORE INSERT ON kernel.outbox FOR EACH ROW "
            "WHEN (NEW.type = 'dispute.final') EXECUTE FUNCTION kernel.test_fail()"
        )
        try:
            failed = await court.post(court.seller, "ruling/accept")
            assert failed.status_code == 500
            assert "injected" not in failed.text
            assert await court.facts() == facts
            # The deadline's default is as atomic, and does not stop the job.
            late = await court.later(days=10)
            assert await late.deadlines() == 0
            assert await late.facts() == facts
        finally:
            owner.execute("DROP TRIGGER test_fail ON kernel.outbox")
            owner.execute("DROP FUNCTION kernel.test_fail()")
    assert await late.deadlines() >= 1
    assert await late.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    await verified(kernel)


@pytest.mark.parametrize(
    "broken",
    [
        "contracts.grants.revoke",
        "settlement.escrow.apply_ruling",
        "contracts.dispute_closing._sign",
        "contracts.dispute_closing._finish",
    ],
)
async def test_execution_fails_whole_at_every_step(
    kernel: Kernel, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    court = await ruled(kernel, client)
    await court.post(court.buyer, "ruling/accept", expect=200)
    facts = await court.facts()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(broken, fail)
    key = new_id().hex
    failed = await court.post(court.seller, "ruling/accept", key=key)
    assert failed.status_code == 500
    assert await court.facts() == facts
    monkeypatch.undo()
    await court.post(court.seller, "ruling/accept", key=key, expect=200)
    assert (await court.money())["frozen"] == 0


async def test_above_the_limit_two_must_agree(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, arbiters=3, **LARGE)
    first, second, _ = court.arbiters
    assert (await court.get(court.buyer)).json()["two_person"] is True
    made = (await court.post(first, "rulings", ruling(300_000), expect=201)).json()
    assert (made["needs_approval"], made["effective"], made["decision"]) == (True, False, None)
    assert await court.status() == "under_review"
    assert (await court.get(court.buyer, "rulings")).json()["items"] == []
    assert len((await court.get(second, "rulings")).json()["items"]) == 1
    path = f"rulings/{made['id']}/review"
    approve = {"decision": "approve", "comment": "I agree."}
    facts = await court.facts()
    unknown = f"rulings/{show('rul', new_id())}/review"
    await relate(court, first.party_id, court.arbiters[2].party_id)
    for who, target, body, status, code in (
        (first, path, approve, 403, "arbiter_conflict"),
        (court.arbiters[2], path, approve, 403, "arbiter_conflict"),
        (court.buyer, path, approve, 403, "role_required"),
        (court.operator, path, approve, 403, "role_required"),
        (second, unknown, approve, 404, "ruling_not_found"),
        (second, path, {"decision": "maybe", "comment": "Hm."}, 422, "validation_failed"),
        (second, path, {"decision": "approve"}, 422, "validation_failed"),
        (first, "rulings", ruling(1), 409, "ruling_pending"),
        (first, "recuse", {"reason": "Enough."}, 409, "ruling_pending"),
        (court.operator, "assign", {"arbiter_id": second.id}, 409, "ruling_pending"),
        (court.buyer, "withdraw", {}, 409, "ruling_pending"),
        (court.buyer, "ruling/accept", None, 409, "dispute_state"),
    ):
        refused = await court.post(who, target, body)
        assert (refused.status_code, refused.json()["code"]) == (status, code), (target, body)
    assert await court.facts() == facts
    rejected = {"decision": "reject", "comment": "Too little."}
    answer = (await court.post(second, path, rejected, expect=200)).json()
    assert (answer["decision"], answer["reviewed_by"]) == ("reject", second.id)
    again = (await court.post(first, "rulings", ruling(400_000), expect=201)).json()
    stale = await court.post(second, path, approve)
    assert (stale.status_code, stale.json()["code"]) == (404, "ruling_not_found")
    path = f"rulings/{again['id']}/review"
    answer = (await court.post(second, path, approve, expect=200)).json()
    assert (answer["effective"], answer["decision"]) == (True, "approve")
    assert [r["id"] for r in (await court.get(court.buyer, "rulings")).json()["items"]] == [
        again["id"]
    ]
    for who in (court.buyer, court.seller):
        done = (await court.post(who, "ruling/accept", expect=200)).json()
    signed = verify_with_jwks("ruling+jws", done["outcome"]["jws"], kernel.keys.jwks())
    assert (signed["arbiter"], signed["approved_by"]) == (first.id, second.id)
    assert (await court.money())["buyer"] == 4_000_000
    await verified(kernel)


async def test_at_the_limit_one_is_enough(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await ruled(kernel, client, price_minor=10_000_000)
    assert await court.status() == "ruled"


async def test_two_approvals_at_once_count_once(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, arbiters=3, **LARGE)
    made = (await court.post(court.arbiters[0], "rulings", ruling(), expect=201)).json()
    path = f"rulings/{made['id']}/review"
    answers = await together(
        *(
            court.post(who, path, {"decision": decision, "comment": "Now."})
            for who, decision in zip(court.arbiters[1:], ("approve", "reject"), strict=True)
        )
    )
    statuses = [a.status_code for a in answers if isinstance(a, httpx.Response)]
    assert sorted(statuses) == [200, 409]


async def test_an_appeal_reverses_and_is_final(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await appealed(kernel, client)
    assert (await court.agreement_status(), await court.grant_status()) == ("disputed", "suspended")
    view = (await court.get(court.buyer)).json()
    assert (view["status"], view["round"], view["turn"], view["arbiter_id"]) == (
        "appealed",
        2,
        "claimant",
        None,
    )
    second = court.arbiters[1]
    await court.post(second, "assign", {}, expect=200)
    early = await court.post(second, "rulings", ruling(0))
    assert (early.status_code, early.json()["code"]) == (409, "dispute_state")
    mute = await court.post(court.seller, "evidence", text("and another thing"))
    assert (mute.status_code, mute.json()["code"]) == (409, "evidence_closed")
    await court.post(court.buyer, "evidence", text("the log is forged"), expect=201)
    await court.post(court.buyer, "evidence/complete", expect=200)
    made = (await court.post(second, "rulings", ruling(0, access="keep"), expect=201)).json()
    assert (made["round"], made["effective"]) == (2, True)
    done = (await court.get(court.buyer)).json()
    assert (done["status"], done["outcome"]["ruling_id"]) == ("final", made["id"])
    assert await court.money() == {"escrow": 0, "buyer": 0, "seller": 9_501, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("settled", "active")
    listed = (await court.get(court.seller, "rulings")).json()["items"]
    assert [(r["round"], r["effective"]) for r in listed] == [(1, False), (2, True)]
    page = (await court.get(court.seller, "rulings?limit=1")).json()
    rest = (await court.get(court.seller, f"rulings?after={page['next_after']}")).json()
    assert [*page["items"], *rest["items"]] == listed
    steps = (await court.get(court.seller, "timeline")).json()["items"]
    page = (await court.get(court.seller, "timeline?limit=5")).json()
    rest = (await court.get(court.seller, f"timeline?after={page['next_after']}")).json()
    assert [*page["items"], *rest["items"]] == steps
    evidence = (await court.get(court.seller, "evidence")).json()["items"]
    assert [e["round"] for e in evidence] == [1, 1, 1, 1, 1, 2, 2]
    await verified(kernel)


async def test_an_appeal_above_the_limit(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client, arbiters=4, **LARGE)
    first, second, third, fourth = court.arbiters
    approve = {"decision": "approve", "comment": "Yes."}
    made = (await court.post(first, "rulings", ruling(), expect=201)).json()
    await court.post(second, f"rulings/{made['id']}/review", approve, expect=200)
    body = {"reasons": "The log was overlooked.", "evidence": text("log")}
    await court.post(court.buyer, "appeals", body, expect=201)
    await court.post(court.seller, "evidence/complete", expect=200)
    for former in (first, second):
        refused = await court.post(former, "assign", {})
        assert refused.json()["reason"] == "former_arbiter"
    await court.post(third, "assign", {}, expect=200)
    made = (await court.post(third, "rulings", ruling(1_000_000), expect=201)).json()
    assert await court.status() == "appealed"
    refused = await court.post(second, f"rulings/{made['id']}/review", approve)
    assert refused.json()["reason"] == "former_arbiter"
    await court.post(fourth, f"rulings/{made['id']}/review", approve, expect=200)
    assert await court.status() == "final"
    assert (await court.money())["buyer"] == 10_000_001
    await verified(kernel)


async def test_an_appeal_needs_new_evidence(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await ruled(kernel, client)
    facts = await court.facts()
    for body, status, code in (
        ({"reasons": "No.", "evidence": text("rows missing")}, 422, "evidence_invalid"),
        ({"reasons": "No."}, 422, "validation_failed"),
        ({"reasons": "", "evidence": text("new")}, 422, "validation_failed"),
        ({"reasons": "No.", "evidence": text("")}, 422, "validation_failed"),
        (
            {"reasons": "No.", "evidence": text("{", media_type="application/json")},
            422,
            "evidence_invalid",
        ),
    ):
        refused = await court.post(court.seller, "appeals", body)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    for who in (court.operator, court.arbiters[0]):
        refused = await court.post(who, "appeals", {"reasons": "No.", "evidence": text("new")})
        assert (refused.status_code, refused.json()["code"]) == (403, "dispute_side")
    assert await court.facts() == facts


async def test_who_accepted_cannot_appeal_and_nobody_twice(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await ruled(kernel, client)
    await court.post(court.buyer, "ruling/accept", expect=200)
    body = {"reasons": "On second thought.", "evidence": text("new")}
    for path, sent in (("appeals", body), ("ruling/accept", None)):
        refused = await court.post(court.buyer, path, sent)
        assert (refused.status_code, refused.json()["code"]) == (409, "ruling_accepted")
    await court.post(court.seller, "appeals", body, expect=201)
    for who in (court.buyer, court.seller):
        refused = await court.post(who, "appeals", {**body, "evidence": text(f"new {who.id}")})
        assert (refused.status_code, refused.json()["code"]) == (409, "dispute_state")


@pytest.mark.parametrize(
    "body",
    [
        ruling(-1),
        ruling(1_000_001),
        {**ruling(), "buyer_ppm": 0.5},
        {**ruling(), "buyer_ppm": "300000"},
        {**ruling(), "buyer_ppm": True},
        ruling(access="burn"),
        ruling(reasons=""),
        ruling(reasons="x" * 10_001),
        ruling(clauses=["c"] * 21),
        ruling(clauses=[""]),
        ruling(clauses="terms"),
        ruling(round=2),
        ruling(arbiter_id="pty_" + "0" * 32),
        ruling(effective=True),
        {},
    ],
)
async def test_bad_rulings_change_nothing(
    kernel: Kernel, client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    court = await _shared(kernel, client)
    facts = await court.facts()
    refused = await court.post(court.arbiters[0], "rulings", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    buyer = await court.post(court.buyer, "rulings", body)
    assert buyer.status_code in (403, 422)
    assert await court.facts() == facts


_made: list[Court] = []


async def _shared(kernel: Kernel, client: httpx.AsyncClient) -> Court:
    if not _made or _made[0].kernel is not kernel:
        _made[:] = [await in_review(kernel, client)]
    return _made[0]


async def test_the_trace_tells_the_dispute(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await ruled(kernel, client)
    await court.post(court.buyer, "offers", {"buyer_ppm": 123_456, "access": "keep"}, expect=201)
    for who in (court.buyer, court.seller):
        await court.post(who, "ruling/accept", expect=200)
    for who in (court.regulator, court.buyer):
        view = (await court.get(who, f"/v1/agreements/{court.trade.id}/trace")).json()
        verify_trace(view, kernel.keys.jwks())
        (found,) = next(link["data"] for link in view["links"] if link["section"] == "disputes")
        assert found["dispute_id"] == court.dispute_id
        assert (found["status"], found["outcome"]["kind"]) == ("final", "ruling")
        assert [e["number"] for e in found["evidence"]] == [1, 2, 3, 4, 5]
        assert [r["source"] for r in found["rulings"]] == ["arbiter"]
        assert found["steps"][0]["kind"] == "opened"
        assert found["steps"][-1]["kind"] == "final"
        assert "123456" not in str(found)
    plain = await ruled(kernel, client)
    view = (await plain.get(plain.buyer, f"/v1/agreements/{plain.trade.id}/trace")).json()
    (found,) = next(link["data"] for link in view["links"] if link["section"] == "disputes")
    assert found["outcome"] is None


@given(
    frozen=st.integers(0, 10**15),
    released=st.integers(0, 10**15),
    buyer_ppm=st.integers(0, 1_000_000),
    fee_ppm=st.integers(0, 999_999),
    ppms=st.lists(st.integers(1, 300_000), max_size=3),
)
def test_parts_always_sum_to_the_frozen_amount(
    frozen: int, released: int, buyer_ppm: int, fee_ppm: int, ppms: list[int]
) -> None:
    terms = SplitTerms(fee_ppm, tuple((new_id(), ppm) for ppm in ppms))
    amounts = divide(frozen, buyer_ppm, currency="CNY", terms=terms, released_before=released)
    parts = [
        amounts.buyer_minor,
        amounts.fee_minor,
        amounts.seller_minor,
        *(s.amount_minor for s in amounts.shares),
    ]
    assert sum(parts) == frozen
    assert min(parts) >= 0
    assert abs(amounts.buyer_minor * 1_000_000 - frozen * buyer_ppm) < 1_000_000
