"""Payout runs: who is paid, who is not and why, and that two runners pay once."""

from datetime import date, timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.security import Role
from settlement.accounts import AccountKind, AccountRef
from settlement.jobs import run_payouts
from settlement.payout_run_models import Interval
from settlement.payout_runs import run_payout_runs
from settlement.payout_schedules import next_day
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import (
    available,
    book,
    fund,
    move_clock,
    now,
    state,
    together,
    transfer,
    verified,
)

DAY = timedelta(days=1)


def body(interval: str = "daily", **more: Any) -> dict[str, Any]:
    return {"interval": interval, "destination": "dst_success", **more}


async def seller_of(
    client: httpx.AsyncClient, kernel: Kernel, amount: int, currency: str = "CNY", **more: Any
) -> Member:
    member = await make_party(kernel, Role.SELLER)
    if amount:
        await fund(kernel, member.party_id, amount, currency)
    answer = await client.put(
        f"/v1/payout-schedules/{currency}", json=body(**more), headers=member.headers()
    )
    assert answer.status_code == 200, answer.text
    return member


async def lines_of(
    client: httpx.AsyncClient, kernel: Kernel
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The newest run and its lines by party."""
    operator = await make_party(kernel, Role.OPERATOR)
    runs = await client.get("/v1/payout-runs", headers=operator.headers())
    run: dict[str, Any] = runs.json()["items"][0]
    lines = await client.get(
        f"/v1/payout-runs/{run['id']}/lines?limit=200", headers=operator.headers()
    )
    return run, {line["party_id"]: line for line in lines.json()["items"]}


async def finish(kernel: Kernel) -> None:
    while await run_payout_runs(kernel):
        pass


@pytest.mark.parametrize(
    ("interval", "after", "expected"),
    [
        ("daily", date(2026, 2, 28), date(2026, 3, 1)),
        ("weekly", date(2026, 11, 22), date(2026, 11, 23)),
        ("weekly", date(2026, 11, 23), date(2026, 11, 30)),
        ("monthly", date(2026, 1, 31), date(2026, 2, 1)),
        ("monthly", date(2026, 12, 1), date(2027, 1, 1)),
        ("manual", date(2026, 1, 1), None),
    ],
)
def test_the_next_day(interval: str, after: date, expected: date | None) -> None:
    assert next_day(Interval(interval), after) == expected


async def test_a_run_pays_what_is_due_and_says_why_it_skips(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    rich = await seller_of(client, kernel, 5_000, keep_minor=1_200)
    poor = await seller_of(client, kernel, 99)
    modest = await seller_of(client, kernel, 900, minimum_minor=1_000)
    by_hand = await seller_of(client, kernel, 5_000, interval="manual")
    later = await seller_of(client, kernel, 5_000, interval="monthly")
    nowhere = await seller_of(client, kernel, 5_000, destination=None)
    stranger = await make_party(kernel, Role.SELLER, verified=False)
    await fund(kernel, stranger.party_id, 5_000)
    unverified = await client.put(
        "/v1/payout-schedules/CNY", json=body(), headers=stranger.headers()
    )
    assert unverified.status_code == 200
    indebted = await seller_of(client, kernel, 3_000)
    debt = AccountRef(AccountKind.RECEIVABLE, indebted.party_id, "CNY")
    await book(kernel, transfer(debt, available(rich.party_id), 1_000))
    drowned = await seller_of(client, kernel, 50)
    sunk = AccountRef(AccountKind.RECEIVABLE, drowned.party_id, "CNY")
    await book(kernel, transfer(sunk, available(rich.party_id), 80))
    assert await run_payout_runs(kernel) == 0
    # A day that is no first of a month.
    await move_clock(kernel, DAY if (await now(kernel) + DAY).day != 1 else 2 * DAY)
    await finish(kernel)
    run, lines = await lines_of(client, kernel)
    assert (run["trigger"], run["finished_at"] is not None) == ("schedule", True)
    assert by_hand.id not in lines
    assert later.id not in lines
    assert {member: lines[member]["skipped"] for member in lines} == {
        rich.id: None,
        indebted.id: None,
        poor.id: "below_minimum",
        modest.id: "below_minimum",
        nowhere.id: "destination_not_accepted",
        stranger.id: "party_not_verified",
        drowned.id: "in_debt",
    }
    assert (run["paid_count"], run["skipped_count"]) == (2, 5)
    line = lines[rich.id]
    assert (line["balance_minor"], line["amount_minor"]) == (6_080, 4_880)
    line = lines[indebted.id]
    assert (line["balance_minor"], line["netted_minor"], line["amount_minor"]) == (
        3_000,
        1_000,
        2_000,
    )
    assert (await state(kernel, debt))[0] == 0
    # What the drowned one had went to its debt.
    assert (await state(kernel, sunk))[0] == -30
    assert await run_payouts(kernel) == 2
    assert (await state(kernel, available(rich.party_id)))[0] == 1_200
    assert await run_payout_runs(kernel) == 0
    await verified(kernel)


async def test_two_runners_make_one_payout_each(client: httpx.AsyncClient, kernel: Kernel) -> None:
    members = [await seller_of(client, kernel, 2_000) for _ in range(6)]
    await move_clock(kernel, DAY)
    await together(*(run_payout_runs(kernel) for _ in range(5)))
    await finish(kernel)
    _, lines = await lines_of(client, kernel)
    for member in members:
        assert lines[member.id]["amount_minor"] == 2_000
        listed = await client.get("/v1/payouts", headers=member.with_fresh_token(kernel).headers())
        (payout,) = listed.json()["items"]
        assert payout["id"] == lines[member.id]["payout_id"]
        assert (await state(kernel, available(member.party_id)))[0] == 0
    await verified(kernel)


async def test_a_failed_payout_of_a_run_brings_the_money_back(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await seller_of(client, kernel, 2_000, destination="dst_closed")
    await move_clock(kernel, DAY)
    await finish(kernel)
    assert (await state(kernel, available(member.party_id)))[0] == 0
    while await run_payouts(kernel):
        pass
    assert (await state(kernel, available(member.party_id)))[0] == 2_000
    await move_clock(kernel, DAY)
    await finish(kernel)
    _, lines = await lines_of(client, kernel)
    assert lines[member.id]["amount_minor"] == 2_000


async def test_fresh_money_is_held_back(
    client: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The day of everybody else's schedules first.
    await move_clock(kernel, DAY)
    await finish(kernel)
    member = await seller_of(client, kernel, 3_000)
    await move_clock(kernel, 8 * DAY)
    await fund(kernel, member.party_id, 500)
    careful = kernel.settings.model_copy(update={"payout_holdback_days": 7})
    with monkeypatch.context() as patch:
        patch.setitem(kernel.__dict__, "settings", careful)
        await finish(kernel)
    _, lines = await lines_of(client, kernel)
    line = lines[member.id]
    assert (line["balance_minor"], line["held_back_minor"], line["amount_minor"]) == (
        3_500,
        500,
        3_000,
    )
    assert (await state(kernel, available(member.party_id)))[0] == 500
    await move_clock(kernel, DAY)
    with monkeypatch.context() as patch:
        patch.setitem(kernel.__dict__, "settings", careful)
        await finish(kernel)
    _, lines = await lines_of(client, kernel)
    assert lines[member.id]["skipped"] == "held_back"


async def test_minimums_are_per_currency(
    client: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    yuan = await seller_of(client, kernel, 150)
    yen = await seller_of(client, kernel, 150, "JPY")
    strict = kernel.settings.model_copy(update={"payout_minimums": {"JPY": 1_000}})
    await move_clock(kernel, DAY)
    with monkeypatch.context() as patch:
        patch.setitem(kernel.__dict__, "settings", strict)
        await finish(kernel)
        direct = await client.post(
            "/v1/payouts",
            json={
                "money": {"amount_minor": 150, "currency": "JPY"},
                "destination": "dst_success",
            },
            headers=yen.with_fresh_token(kernel).headers(),
        )
    assert (direct.status_code, direct.json()["code"]) == (422, "amount_too_small")
    _, lines = await lines_of(client, kernel)
    assert lines[yuan.id]["amount_minor"] == 150
    assert lines[yen.id]["skipped"] == "below_minimum"


async def test_an_operator_starts_one_run_at_a_time_for_all_days(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    member = await seller_of(client, kernel, 700, interval="monthly")
    operator = await make_party(kernel, Role.OPERATOR)
    why = {"reason": "The exchange moves to another bank."}
    started = await client.post("/v1/payout-runs", json=why, headers=operator.headers())
    assert (started.status_code, started.json()["finished_at"]) == (201, None)
    second = await client.post("/v1/payout-runs", json=why, headers=operator.headers())
    assert (second.status_code, second.json()["code"]) == (409, "payout_run_open")
    refused = await client.post("/v1/payout-runs", json=why, headers=member.headers())
    assert refused.status_code == 403
    await finish(kernel)
    path = f"/v1/payout-runs/{started.json()['id']}"
    shown = await client.get(path, headers=operator.headers())
    assert shown.json()["finished_at"] is not None
    lines = await client.get(f"{path}/lines?limit=200", headers=operator.headers())
    paid = {line["party_id"]: line["amount_minor"] for line in lines.json()["items"]}
    assert paid[member.id] == 700
    log = await client.get(
        f"/v1/operator-actions?subject_id={started.json()['id']}", headers=operator.headers()
    )
    assert log.json()["items"][0]["reason"] == why["reason"]
    missing = await client.get(
        "/v1/payout-runs/00000000-0000-7000-8000-000000000000", headers=operator.headers()
    )
    assert (missing.status_code, missing.json()["code"]) == (404, "payout_run_not_found")


async def test_schedules_are_ones_own(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await seller_of(client, kernel, 0, minimum_minor=500)
    listed = await client.get("/v1/payout-schedules", headers=member.headers())
    (schedule,) = listed.json()["items"]
    assert (schedule["currency"], schedule["minimum_minor"]) == ("CNY", 500)
    assert schedule["next_on"] == ((await now(kernel)).date() + DAY).isoformat()
    one = await client.get("/v1/payout-schedules/CNY", headers=member.headers())
    assert one.json() == schedule
    none = await client.get("/v1/payout-schedules/EUR", headers=member.headers())
    assert (none.status_code, none.json()["code"]) == (404, "payout_schedule_not_found")
    unknown = await client.get("/v1/payout-schedules/XYZ", headers=member.headers())
    assert unknown.status_code == 422
    stopped = await client.put(
        "/v1/payout-schedules/CNY", json=body("manual"), headers=member.headers()
    )
    assert stopped.json()["next_on"] is None
