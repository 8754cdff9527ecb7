"""Invariant 14: the rail's movements are the clearing entries, and every difference shows."""

from datetime import date, timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Transfer
from settlement.jobs import run_chargebacks, run_payouts, run_refunds, run_top_ups
from settlement.rails.base import ChargeRequest
from settlement.rails.sandbox import SandboxRail
from settlement.reconciliation import reconcile_day, run_reconciliation
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import book, move_clock, now, state, together, verified

CLEARING = AccountRef(AccountKind.CLEARING, None, "CNY")
LOSSES = AccountRef(AccountKind.LOSSES, None, "CNY")
CARDS = (
    "tok_success",
    "tok_delayed",
    "tok_chargeback",
    "tok_chargeback_won",
    "tok_timeout",
    "tok_delayed_declined",
)
DESTINATIONS = ("dst_success", "dst_closed", "dst_delayed", "dst_delayed_closed", "dst_timeout")


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def play(client: httpx.AsyncClient, kernel: Kernel) -> Member:
    """A day of a party: every card and destination of the sandbox, and a refund."""
    member = await make_party(kernel, Role.BUYER, Role.SELLER)
    made = []
    for card in CARDS:
        body = {"money": {"amount_minor": 5_000, "currency": "CNY"}, "card": card}
        made.append((await client.post("/v1/top-ups", json=body, headers=member.headers())).json())
    for destination in DESTINATIONS:
        body = {
            "money": {"amount_minor": 700, "currency": "CNY"},
            "destination": destination,
        }
        await client.post("/v1/payouts", json=body, headers=member.headers())
    await client.post(
        f"/v1/top-ups/{made[0]['id']}/refunds", json={"amount_minor": 300}, headers=member.headers()
    )
    return member


async def work(kernel: Kernel) -> None:
    """All of the worker's calls to the rail, until everything is decided."""
    for _ in range(4):
        for job in (run_top_ups, run_payouts, run_refunds, run_chargebacks):
            await job(kernel)
        await move_clock(kernel, timedelta(minutes=16))


async def tomorrow(kernel: Kernel) -> date:
    """Move past midnight and the hour after it; returns the day that is over."""
    today = (await now(kernel)).date()
    await move_clock(
        kernel, timedelta(days=1, hours=1) - (await now(kernel) - _start(await now(kernel)))
    )
    return today


def _start(moment: Any) -> Any:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


async def open_cases(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, kind: str | None = None
) -> list[dict[str, Any]]:
    fresh = operator.with_fresh_token(kernel)
    more = f"&kind={kind}" if kind else ""
    answer = await client.get(f"/v1/rail-cases?state=open&limit=200{more}", headers=fresh.headers())
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_a_day_of_everything_agrees_and_runs_once(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await play(client, kernel)
    await work(kernel)
    day = await tomorrow(kernel)
    assert sum(n for n in await together(run_reconciliation(kernel)) if isinstance(n, int)) == 1
    assert await run_reconciliation(kernel) == 0
    fresh = operator.with_fresh_token(kernel)
    listed = await client.get("/v1/reconciliations", headers=fresh.headers())
    run = listed.json()["items"][0]
    assert (run["difference_count"], run["in_flight_count"]) == (0, 0)
    # Five charges, two disputes, one return, one refund, three payouts.
    assert run["movement_count"] == 12
    (total,) = run["totals"]
    assert total["rail_minor"] == total["ledger_minor"] == -(await state(kernel, CLEARING))[0]
    assert total["difference_minor"] == 0
    assert run["until"].startswith((day + timedelta(days=1)).isoformat())
    differences = [
        case
        for case in await open_cases(client, kernel, operator)
        if case["kind"] not in ("chargeback",)
    ]
    assert differences == []
    await verified(kernel)


async def test_money_that_the_ledger_does_not_know_is_a_case_and_can_be_booked(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await SandboxRail(kernel).charge(ChargeRequest(new_id(), 4_200, "CNY", "tok_success", new_id()))
    day = await tomorrow(kernel)
    assert (await reconcile_day(kernel, day)).difference_count == 1
    (case,) = await open_cases(client, kernel, operator, "missing_here")
    assert (case["ledger_minor"], case["rail_minor"]) == (0, 4_200)
    assert case["detail"] == "The ledger has nothing, the rail 42.00 CNY (charge)."
    # Comparing again joins the open case.
    assert (await reconcile_day(kernel, day)).difference_count == 1
    assert len(await open_cases(client, kernel, operator, "missing_here")) == 1
    before = (await state(kernel, LOSSES))[0]
    fresh = operator.with_fresh_token(kernel)
    closed = await client.post(
        f"/v1/rail-cases/{case['id']}/closing",
        json={"resolution": "booked_to_losses", "reason": "A test charge."},
        headers=fresh.headers(),
    )
    assert closed.status_code == 201
    assert (await state(kernel, LOSSES))[0] - before == 4_200
    view = await reconcile_day(kernel, day)
    assert (view.difference_count, view.totals[0].difference_minor) == (0, 0)
    await verified(kernel)


async def test_another_amount_is_a_case_that_closes_itself_when_it_is_put_right(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    member = await make_party(kernel, Role.BUYER)
    body = {"money": {"amount_minor": 5_000, "currency": "CNY"}, "card": "tok_success"}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    top_up_id = parse("top", made["id"])
    legs = ((CLEARING, 100), (LOSSES, -100))
    key = f"top_up:{top_up_id.hex}:chargeback"
    await book(kernel, Transfer(key, "chargeback", legs, memo_id=top_up_id))
    day = await tomorrow(kernel)
    await reconcile_day(kernel, day)
    (case,) = await open_cases(client, kernel, operator, "amount_differs")
    assert (case["ledger_minor"], case["rail_minor"]) == (4_900, 5_000)
    assert (case["subject_id"], case["party_id"]) == (str(top_up_id), member.id)
    right = ((CLEARING, -100), (LOSSES, 100))
    again = f"top_up:{top_up_id.hex}:reinstate"
    await book(kernel, Transfer(again, "chargeback_return", right, memo_id=top_up_id))
    assert (await reconcile_day(kernel, day)).difference_count == 0
    fresh = operator.with_fresh_token(kernel)
    shown = await client.get(f"/v1/rail-cases/{case['id']}", headers=fresh.headers())
    assert (shown.json()["state"], shown.json()["resolution"]) == ("closed", "agrees")


async def test_what_is_in_flight_is_no_difference_and_is_looked_at_again(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await make_party(kernel, Role.BUYER, Role.SELLER)
    for path, more in (
        ("top-ups", {"card": "tok_success"}),
        ("payouts", {"destination": "dst_timeout"}),
    ):
        body = {"money": {"amount_minor": 600, "currency": "CNY"}, **more}
        answer = await client.post(f"/v1/{path}", json=body, headers=member.headers())
        assert answer.status_code == 201
    assert await run_payouts(kernel) == 0
    first = await tomorrow(kernel)
    view = await reconcile_day(kernel, first)
    assert (view.in_flight_count, view.difference_count) == (1, 0)
    assert view.totals[0].in_flight_minor == -600
    assert view.totals[0].difference_minor == -600
    assert await run_payouts(kernel) == 1
    view = await reconcile_day(kernel, await tomorrow(kernel))
    assert (view.in_flight_count, view.difference_count) == (0, 0)
    assert view.totals[0].difference_minor == 0


async def test_a_fee_that_was_booked_wrongly_is_a_case_of_its_own(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    member = await make_party(kernel, Role.BUYER)
    body = {"money": {"amount_minor": 5_000, "currency": "CNY"}, "card": "tok_success"}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    day = await tomorrow(kernel)
    assert (await reconcile_day(kernel, day)).difference_count == 0
    async with kernel.unit_of_work() as uow:
        movement_id = await (await uow.raw()).fetchval(
            "SELECT id FROM settlement.rail_movement WHERE key = $1", parse("top", made["id"])
        )
    # The sandbox takes no fee, so one on the books is wrong.
    legs = ((CLEARING, 30), (LOSSES, -30))
    key = f"rail_fee:{movement_id.hex}"
    await book(kernel, Transfer(key, "rail_fee", legs, memo_id=movement_id))
    assert (await reconcile_day(kernel, day)).difference_count == 1
    (case,) = await open_cases(client, kernel, operator, "fee_differs")
    assert (case["ledger_minor"], case["rail_minor"]) == (4_970, 5_000)
    fresh = operator.with_fresh_token(kernel)
    closed = await client.post(
        f"/v1/rail-cases/{case['id']}/closing",
        json={"resolution": "booked_to_losses", "reason": "Booked by mistake."},
        headers=fresh.headers(),
    )
    assert closed.status_code == 201
    assert (await reconcile_day(kernel, day)).difference_count == 0


async def test_an_operator_compares_a_past_day_and_no_other(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    fresh = operator.with_fresh_token(kernel)
    today = (await now(kernel)).date()
    early = await client.post(
        "/v1/reconciliations", json={"day": today.isoformat()}, headers=fresh.headers()
    )
    assert (early.status_code, early.json()["code"]) == (422, "day_not_over")
    past = (today - timedelta(days=1)).isoformat()
    done = await client.post("/v1/reconciliations", json={"day": past}, headers=fresh.headers())
    assert (done.status_code, done.json()["since"][:10]) == (201, past)
    buyer = await make_party(kernel, Role.BUYER)
    hidden = await client.post("/v1/reconciliations", json={"day": past}, headers=buyer.headers())
    assert hidden.status_code == 403


async def test_money_that_the_rail_does_not_know_is_a_case_that_stays_explained(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await book(
        kernel, Transfer("test:manual", "top_up", ((CLEARING, -900), (LOSSES, 900)), memo_id=None)
    )
    day = await tomorrow(kernel)
    assert (await reconcile_day(kernel, day)).difference_count == 1
    (case,) = await open_cases(client, kernel, operator, "missing_there")
    assert (case["ledger_minor"], case["rail_minor"]) == (900, 0)
    fresh = operator.with_fresh_token(kernel)
    await client.post(
        f"/v1/rail-cases/{case['id']}/closing",
        json={"resolution": "explained", "reason": "Wired to the bank directly."},
        headers=fresh.headers(),
    )
    assert (await reconcile_day(kernel, day)).difference_count == 0
    assert await open_cases(client, kernel, operator, "missing_there") == []
