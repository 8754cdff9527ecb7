"""Deadlines and their defaults, applied by the job; the database's own guard of the states."""

import itertools
from typing import Any

import httpx
import psycopg
import pytest

from contracts import dispute_jobs
from contracts.dispute_states import CLOSED, TRANSITIONS, DisputeStatus
from market.kernel.context import Kernel
from tests.conftest import TestDatabase
from tests.contracts.dispute_factories import (
    appealed,
    claim,
    in_review,
    opened,
    ruled,
    ruling,
    text,
)
from tests.settlement.factories import together, verified

LARGE: dict[str, Any] = {"price_minor": 10_000_001}


async def test_a_negotiation_lapses(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    assert (await court.later(days=4, hours=23)) is not court
    await court.deadlines()
    court = await court.later(hours=1)
    await court.deadlines()
    view = (await court.get(court.buyer)).json()
    assert (view["status"], view["outcome"]["kind"]) == ("withdrawn", "lapsed")
    assert await court.money() == {"escrow": 10_001, "buyer": 0, "seller": 0, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("active", "active")
    steps = (await court.get(court.buyer, "timeline")).json()["items"]
    assert [(s["kind"], s["actor_id"]) for s in steps][-1] == ("lapsed", None)
    await verified(kernel)


async def test_a_silent_respondent_loses_but_may_appeal(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client, claimed=claim(buyer_ppm=700_000, escalate=True))
    court = await court.later(days=5)
    await court.deadlines()
    assert await court.status() == "evidence_required"
    await court.post(court.buyer, "evidence", text("proof"), expect=201)
    court = await court.later(days=7)
    await court.deadlines()
    (made,) = (await court.get(court.seller, "rulings")).json()["items"]
    assert (made["source"], made["arbiter_id"], made["buyer_ppm"], made["access"]) == (
        "default",
        None,
        700_000,
        "revoke",
    )
    assert await court.status() == "ruled"
    body = {"reasons": "We were on holiday.", "evidence": text("delivery log")}
    await court.post(court.seller, "appeals", body, expect=201)
    await court.post(court.arbiters[0], "assign", {}, expect=200)


async def test_a_silent_respondent_with_much_at_stake_gets_two_judges(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client, **LARGE)
    await court.post(court.buyer, "escalate", expect=200)
    court = await court.later(days=7)
    await court.deadlines()
    assert await court.status() == "under_review"
    assert (await court.get(court.seller, "rulings")).json()["items"] == []


async def test_an_answer_opens_the_rebuttal_then_the_review(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    await court.post(court.buyer, "escalate", expect=200)
    await court.post(court.seller, "evidence", text("all sent"), expect=201)
    court = await court.later(days=7)
    await court.deadlines()
    view = (await court.get(court.seller)).json()
    assert (view["status"], view["turn"]) == ("evidence_required", "claimant")
    court = await court.later(days=3)
    await court.deadlines()
    assert await court.status() == "under_review"


async def test_an_overdue_review_goes_to_another_arbiter(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client)
    court = await court.later(days=5)
    late = await court.post(court.arbiters[0], "rulings", ruling())
    assert (late.status_code, late.json()["code"]) == (409, "dispute_deadline_passed")
    await court.deadlines()
    view = (await court.get(court.buyer)).json()
    assert (view["status"], view["arbiter_id"], view["escalations"]) == ("under_review", None, 1)
    again = await court.post(court.arbiters[0], "assign", {})
    assert (again.status_code, again.json()["reason"]) == (403, "same_arbiter")
    await court.post(court.arbiters[1], "assign", {}, expect=200)
    await court.post(court.arbiters[1], "rulings", ruling(), expect=201)


async def test_a_proposal_is_never_decided_by_default(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await in_review(kernel, client, **LARGE)
    made = (await court.post(court.arbiters[0], "rulings", ruling(), expect=201)).json()
    court = await court.later(days=5)
    await court.deadlines()
    view = (await court.get(court.buyer)).json()
    assert (view["status"], view["ruling_pending"], view["escalations"]) == (
        "under_review",
        True,
        1,
    )
    approve = {"decision": "approve", "comment": "Sorry for the delay."}
    await court.post(court.arbiters[1], f"rulings/{made['id']}/review", approve, expect=200)
    assert await court.status() == "ruled"


async def test_a_ruling_becomes_final_in_silence(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await ruled(kernel, client, alone=True)
    court = await court.later(days=10)
    for path, body in (
        ("ruling/accept", None),
        ("appeals", {"reasons": "Late.", "evidence": text("new")}),
        ("offers", {"buyer_ppm": 1, "access": "keep"}),
    ):
        refused = await court.post(court.seller, path, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "dispute_deadline_passed")
    await court.deadlines()
    assert await court.status() == "final"
    assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    assert (await court.agreement_status(), await court.grant_status()) == ("settled", "revoked")
    await verified(kernel)


async def test_an_appeal_that_nobody_hears_upholds_the_ruling(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await appealed(kernel, client, alone=True)
    court = await court.later(days=7)
    await court.deadlines()
    assert await court.status() == "final"
    assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    assert await court.agreement_status() == "settled"
    await verified(kernel)


async def test_the_job_may_run_many_times_at_once(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    courts = [await ruled(kernel, client, alone=True) for _ in range(3)]
    last = await courts[-1].later(days=10)
    done = await together(*(dispute_jobs.apply_deadlines(kernel) for _ in range(4)))
    assert sum(n for n in done if isinstance(n, int)) >= 3
    assert all(isinstance(n, int) for n in done)
    assert await last.deadlines() == 0
    for court in courts:
        assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
        steps = (await last.get(last.operator, f"/v1/disputes/{court.dispute_id}/timeline")).json()
        assert [s["kind"] for s in steps["items"]].count("final") == 1
    await verified(kernel)


async def test_one_broken_case_does_not_stop_the_others(
    kernel: Kernel, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await ruled(kernel, client)
    sound = await ruled(kernel, client)
    last = await sound.later(days=9, hours=23)
    while await last.deadlines():
        pass
    last = await last.later(hours=1)
    carry_out = dispute_jobs._carry_out

    async def fail(uow, kernel, docket, case, default):  # type: ignore[no-untyped-def]
        if docket.dispute.id == broken.uuid:
            raise RuntimeError("injected")
        await carry_out(uow, kernel, docket, case, default)

    monkeypatch.setattr(dispute_jobs, "_carry_out", fail)
    assert await last.deadlines() == 1
    assert (await broken.money())["frozen"] == 10_001
    assert (await sound.money())["frozen"] == 0
    monkeypatch.undo()
    assert await last.deadlines() == 1


async def test_acts_race_with_the_job(kernel: Kernel, client: httpx.AsyncClient) -> None:
    """At the deadline the default wins whether the job or the act takes the lock first."""
    court = await ruled(kernel, client, alone=True)
    await court.post(court.buyer, "ruling/accept", expect=200)
    court = await court.later(days=10)
    results = await together(
        court.post(court.seller, "ruling/accept"),
        court.deadlines(),
        court.post(court.seller, "appeals", {"reasons": "No.", "evidence": text("new log")}),
        court.deadlines(),
    )
    answers = [r for r in results if isinstance(r, httpx.Response)]
    assert [a.status_code for a in answers] == [409, 409]
    codes = {a.json()["code"] for a in answers}
    assert codes <= {"dispute_deadline_passed", "dispute_state"}
    assert await court.status() == "final"
    assert await court.money() == {"escrow": 0, "buyer": 3_000, "seller": 6_651, "frozen": 0}
    steps = (await court.get(court.buyer, "timeline")).json()["items"]
    assert [s["kind"] for s in steps].count("final") == 1


PAIRS = [
    (source, target)
    for source, target in itertools.product(DisputeStatus, DisputeStatus)
    if source is not target
]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_database_holds_the_same_table(
    database: TestDatabase, source: DisputeStatus, target: DisputeStatus
) -> None:
    """As application role: every step that Python refuses, the trigger refuses too."""
    with psycopg.connect(database.url) as connection:
        connection.execute("SET CONSTRAINTS ALL DEFERRED")
        allowed = target in TRANSITIONS[source]
        row = _plant(database, source)
        closed = target in CLOSED
        statement = (
            "UPDATE contracts.dispute SET status = %s, closed_at = CASE WHEN %s THEN now() END, "
            "deadline_at = CASE WHEN %s THEN NULL ELSE now() END, "
            "round = CASE WHEN %s = 'appealed' THEN 2 ELSE round END WHERE id = %s"
        )
        values = (target.value, closed, closed, target.value, row)
        if allowed:
            assert connection.execute(statement, values).rowcount == 1
        else:
            with pytest.raises(psycopg.errors.RestrictViolation):
                connection.execute(statement, values)
        connection.rollback()


_planted: dict[tuple[str, DisputeStatus], str] = {}


def _plant(database: TestDatabase, status: DisputeStatus) -> str:
    """A dispute row in ``status``, with an agreement of its own to refer to."""
    key = (database.url, status)
    if key in _planted:
        return _planted[key]
    closed = status in CLOSED
    with psycopg.connect(database.url) as connection:
        agreement = connection.execute(
            "INSERT INTO contracts.agreement (id, trade_id, listing_id, product_id, version_id, "
            "plan_id, buyer_id, seller_id, kind, status, lots, price_minor, total_minor, currency, "
            "unit, lot_units, fee_ppm, terms, terms_sha256, jws, formed_at, acceptance_due_at, "
            "expires_at, released_minor, refunded_minor, disputed_minor) SELECT gen_random_uuid(), "
            "gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), "
            "gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'license', 'disputed', 1, 1, "
            "1, 'CNY', 'license', 1, 0, '{}', '', '', now(), now(), now(), 0, 0, 1 "
            "RETURNING id, buyer_id, seller_id"
        ).fetchone()
        assert agreement is not None
        found = connection.execute(
            "INSERT INTO contracts.dispute (id, agreement_id, buyer_id, seller_id, claimant_id, "
            "respondent_id, interested, currency, frozen_minor, two_person, reason, "
            "claim_statement, claim_buyer_ppm, claim_access, escalate_on_expiry, opened_at, "
            "status, round, deadline_at, turn, evidence_requests, respondent_answered, "
            "escalations, ruling_id, updated_at, closed_at) SELECT gen_random_uuid(), %(a)s, "
            "%(b)s, %(s)s, %(b)s, %(s)s, '{}', 'CNY', 1, false, 'other', 'x', 0, 'keep', false, "
            "now(), %(status)s, 2, CASE WHEN %(closed)s THEN NULL ELSE now() END, 'none', 0, "
            "false, 0, gen_random_uuid(), now(), CASE WHEN %(closed)s THEN now() END "
            "RETURNING id",
            {
                "a": agreement[0],
                "b": agreement[1],
                "s": agreement[2],
                "status": status.value,
                "closed": closed,
            },
        ).fetchone()
    assert found is not None
    _planted[key] = str(found[0])
    return _planted[key]


def test_the_object_of_a_dispute_cannot_be_changed(database: TestDatabase) -> None:
    _plant(database, DisputeStatus.OPEN)
    for column, value in (
        ("frozen_minor", "0"),
        ("claimant_id", "gen_random_uuid()"),
        ("claim_buyer_ppm", "1000000"),
        ("two_person", "false"),
        ("interested", "'{}'"),
    ):
        with (
            psycopg.connect(database.url) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"UPDATE contracts.dispute SET {column} = {value}")
