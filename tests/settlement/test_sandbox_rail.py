"""The sandbox rail's 3-D Secure step, refunds and list of movements, on the movable clock."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement.jobs import run_payouts, run_refunds, run_top_ups
from settlement.rails.base import BalanceTransaction, ChargeRequest, RailStatus, RefundRequest
from settlement.rails.sandbox import AUTHENTICATION_TTL, SandboxRail
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, fund, move_clock, state, verified


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


async def top_up(client: httpx.AsyncClient, buyer: Member, card: str | None) -> httpx.Response:
    body = {"money": {"amount_minor": 5_000, "currency": "CNY"}, "card": card}
    return await client.post("/v1/top-ups", json=body, headers=buyer.headers())


async def shown(client: httpx.AsyncClient, member: Member, path: str) -> dict[str, Any]:
    made: dict[str, Any] = (await client.get(path, headers=member.headers())).json()
    return made


@pytest.mark.parametrize(
    ("outcome", "status", "failure", "balance"),
    [("approved", "succeeded", None, 5_000), ("refused", "failed", "authentication_failed", 0)],
)
async def test_the_payer_answers_the_challenge_once(
    client: httpx.AsyncClient,
    kernel: Kernel,
    buyer: Member,
    outcome: str,
    status: str,
    failure: str | None,
    balance: int,
) -> None:
    made = (await top_up(client, buyer, "tok_3ds")).json()
    page = f"/v1/sandbox/top-ups/{made['id']}/authentication"
    assert (made["status"], made["redirect_url"]) == ("pending", page)
    stranger = await make_party(kernel, Role.BUYER)
    hidden = await client.post(page, json={"outcome": outcome}, headers=stranger.headers())
    assert hidden.status_code == 404
    answer = await client.post(page, json={"outcome": outcome}, headers=buyer.headers())
    assert answer.status_code == 201
    final = answer.json()
    assert (final["status"], final["failure_code"]) == (status, failure)
    assert final["redirect_url"] is None
    again = await client.post(page, json={"outcome": "approved"}, headers=buyer.headers())
    assert (again.status_code, again.json()["code"]) == (409, "not_challenged")
    assert (await state(kernel, available(buyer.party_id)))[0] == balance


async def test_an_unanswered_challenge_fails_with_time(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    made = (await top_up(client, buyer, "tok_3ds")).json()
    await move_clock(kernel, timedelta(seconds=31))
    assert await run_top_ups(kernel) == 0
    await move_clock(kernel, AUTHENTICATION_TTL)
    assert await run_top_ups(kernel) == 1
    page = f"/v1/sandbox/top-ups/{made['id']}/authentication"
    late = buyer.with_fresh_token(kernel)
    refused = await client.post(page, json={"outcome": "approved"}, headers=late.headers())
    assert refused.status_code == 409
    final = await shown(client, late, f"/v1/top-ups/{made['id']}")
    assert (final["status"], final["failure_code"]) == ("failed", "authentication_expired")
    assert await state(kernel, available(buyer.party_id)) == (0, 0, 0)


@pytest.mark.parametrize("card", [None, "pm_1", "checkout_save"])
async def test_stripes_tokens_are_422_here(
    client: httpx.AsyncClient, buyer: Member, card: str | None
) -> None:
    answer = await top_up(client, buyer, card)
    assert (answer.status_code, answer.json()["code"]) == (422, "card_not_accepted")


async def test_the_sandbox_keeps_no_cards(client: httpx.AsyncClient, buyer: Member) -> None:
    assert (await shown(client, buyer, "/v1/saved-cards"))["items"] == []
    forgotten = await client.delete("/v1/saved-cards/pm_visa", headers=buyer.headers())
    assert (forgotten.status_code, forgotten.json()["code"]) == (404, "saved_card_not_found")


async def test_a_payout_needs_a_destination_here(client: httpx.AsyncClient, kernel: Kernel) -> None:
    seller = await make_party(kernel, Role.SELLER)
    account = await fund(kernel, seller.party_id, 5_000)
    body = {"money": {"amount_minor": 1_000, "currency": "CNY"}}
    answer = await client.post("/v1/payouts", json=body, headers=seller.headers())
    assert (answer.status_code, answer.json()["code"]) == (422, "destination_not_accepted")
    assert await state(kernel, account) == (5_000, 0, 1)
    opened = await client.post("/v1/payout-accounts", headers=seller.headers())
    assert (opened.status_code, opened.json()["payouts_enabled"]) == (201, True)


async def test_refunds_take_what_is_there_and_no_more_than_was_paid(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    made = (await top_up(client, buyer, "tok_success")).json()
    path = f"/v1/top-ups/{made['id']}/refunds"
    for amount, status in ((3_000, 201), (2_001, 409), (2_000, 201), (1, 409)):
        answer = await client.post(path, json={"amount_minor": amount}, headers=buyer.headers())
        assert answer.status_code == status
    assert (await state(kernel, available(buyer.party_id)))[0] == 0
    assert await run_refunds(kernel) == 2
    statuses = {row["status"] for row in (await shown(client, buyer, path))["items"]}
    assert statuses == {"succeeded"}
    pending = (await top_up(client, buyer, "tok_delayed")).json()
    path = f"/v1/top-ups/{pending['id']}/refunds"
    answer = await client.post(path, json={"amount_minor": 1}, headers=buyer.headers())
    assert (answer.status_code, answer.json()["code"]) == (409, "not_refundable")
    await verified(kernel)


async def test_money_that_was_spent_is_not_refunded(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    made = (await top_up(client, buyer, "tok_success")).json()
    path = f"/v1/top-ups/{made['id']}/refunds"
    first = await client.post(path, json={"amount_minor": 4_000}, headers=buyer.headers())
    assert first.status_code == 201
    other = (await top_up(client, buyer, "tok_success")).json()
    assert other["status"] == "succeeded"
    path = f"/v1/top-ups/{other['id']}/refunds"
    for amount in (5_000, 1_000):
        await client.post(path, json={"amount_minor": amount}, headers=buyer.headers())
    assert (await state(kernel, available(buyer.party_id)))[0] == 1_000


async def test_the_rail_itself_refuses_to_refund_more_than_a_charge(kernel: Kernel) -> None:
    rail = SandboxRail(kernel)
    charge = ChargeRequest(new_id(), 100, "CNY", "tok_success", new_id())
    await rail.charge(charge)
    first = RefundRequest(new_id(), charge.key, 60, "CNY")
    for _ in range(2):
        assert (await rail.refund(first)).status is RailStatus.SUCCEEDED
    over = await rail.refund(RefundRequest(new_id(), charge.key, 41, "CNY"))
    assert (over.status, over.failure_code) == (RailStatus.FAILED, "amount_too_large")
    unknown = await rail.refund(RefundRequest(new_id(), new_id(), 1, "CNY"))
    assert unknown.failure_code == "charge_not_refundable"


async def test_movements_are_listed_when_they_are_certain(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    rail = SandboxRail(kernel)
    earlier = await rail.list_balance_transactions("", 10_000)
    start = earlier[-1].position if earlier else ""
    member = await make_party(kernel, Role.BUYER, Role.SELLER)
    ids = []
    for card in ("tok_success", "tok_delayed", "tok_chargeback", "tok_3ds", "tok_delayed_declined"):
        ids.append(parse("top", (await top_up(client, member, card)).json()["id"]))
    await top_up(client, member, "tok_declined")
    body = {"money": {"amount_minor": 700, "currency": "CNY"}, "destination": "dst_delayed"}
    payout = (await client.post("/v1/payouts", json=body, headers=member.headers())).json()
    await run_payouts(kernel)
    ids.append(parse("pay", payout["id"]))
    every = await rail.list_balance_transactions(start, 100)
    at_once = [row for row in every if row.key in ids]
    assert [(row.key, row.amount_minor) for row in at_once] == [(ids[0], 5_000), (ids[2], 5_000)]
    await move_clock(kernel, timedelta(seconds=61))
    assert await rail.authenticate(ids[3], approved=True)
    later: list[BalanceTransaction] = []
    position = every[-1].position
    while page := await rail.list_balance_transactions(position, 1):
        later.extend(page)
        position = page[-1].position
    assert [(row.kind, row.key, row.amount_minor) for row in later if row.key in ids] == [
        ("charge", ids[1], 5_000),
        ("payout", ids[5], -700),
        ("dispute", ids[2], -5_000),
        ("charge", ids[3], 5_000),
    ]
