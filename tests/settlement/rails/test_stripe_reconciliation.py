"""The books against the fake Stripe's: fees, disputes, payouts that came back; two currencies."""

from datetime import timedelta

import httpx

from market.kernel.context import Kernel
from market.kernel.security import Role
from settlement.accounts import AccountKind, AccountRef
from settlement.chargebacks import run_chargebacks
from settlement.jobs import run_payouts, run_refunds, run_top_ups
from settlement.payout_runs import run_payout_runs
from settlement.rail_movements import read_movements
from settlement.reconciliation import reconcile_day, run_reconciliation
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock, now, state, verified
from tests.settlement.stripe_fake import StripeFake

STEP = timedelta(minutes=2)


async def top_up(
    client: httpx.AsyncClient, member: Member, fake: StripeFake, amount: int, currency: str
) -> tuple[str, str]:
    body = {"money": {"amount_minor": amount, "currency": currency}}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    return made["id"], fake.pay(fake.only("checkout.session")["id"])


async def pay_out(client: httpx.AsyncClient, member: Member, amount: int) -> None:
    body = {"money": {"amount_minor": amount, "currency": "EUR"}}
    answer = await client.post("/v1/payouts", json=body, headers=member.headers())
    assert answer.status_code == 201


async def test_clearing_is_the_balance_at_stripe_to_the_cent(
    client: httpx.AsyncClient, kernel: Kernel, fake: StripeFake
) -> None:
    member = await make_party(kernel, Role.BUYER, Role.SELLER)
    opened = (await client.post("/v1/payout-accounts", headers=member.headers())).json()
    fake.complete(opened["account"])
    await client.post("/v1/payout-accounts", headers=member.headers())
    paid = [await top_up(client, member, fake, 50_000, "EUR") for _ in range(3)]
    await top_up(client, member, fake, 9_000, "JPY")
    await move_clock(kernel, STEP)
    assert await run_top_ups(kernel) == 4
    await client.post(
        f"/v1/top-ups/{paid[0][0]}/refunds", json={"amount_minor": 700}, headers=member.headers()
    )
    for amount in (4_000, 6_000):
        await pay_out(client, member, amount)
    await run_refunds(kernel)
    await run_payouts(kernel)
    done, failed = [each for each in fake.objects.values() if each["object"] == "payout"][-2:]
    fake.end_payout(done["id"])
    fake.end_payout(failed["id"], failure_code="account_closed")
    fake.dispute(paid[1][1], amount=20_000)
    fake.win_dispute(fake.dispute(paid[2][1]))
    # Stripe's own bill, with nothing of ours behind it.
    fake._move("", -321, {"id": paid[0][1], "currency": "eur"}, kind="fee")
    await move_clock(kernel, STEP)
    assert await run_payouts(kernel) == 2
    await run_chargebacks(kernel)
    day = (await now(kernel)).date()
    await move_clock(kernel, timedelta(days=2))
    assert await run_reconciliation(kernel) == 1
    view = await reconcile_day(kernel, day)
    assert (view.difference_count, view.in_flight_count) == (0, 0)
    totals = {total.currency: total for total in view.totals}
    for currency in ("EUR", "JPY"):
        clearing = AccountRef(AccountKind.CLEARING, None, currency)
        at_stripe = fake.balances["", currency.lower()]
        assert totals[currency].rail_minor == at_stripe == -(await state(kernel, clearing))[0]
        assert totals[currency].difference_minor == 0
    losses = AccountRef(AccountKind.LOSSES, None, "EUR")
    # 1 % of each charge, 15 EUR for each of two disputes, and the bill.
    assert (await state(kernel, losses))[0] == -(3 * 500 + 2 * 1_500 + 321)
    await verified(kernel)


async def test_a_transfer_taken_back_by_somebody_is_found(
    client: httpx.AsyncClient, kernel: Kernel, fake: StripeFake
) -> None:
    member = await make_party(kernel, Role.BUYER, Role.SELLER)
    opened = (await client.post("/v1/payout-accounts", headers=member.headers())).json()
    fake.complete(opened["account"])
    await client.post("/v1/payout-accounts", headers=member.headers())
    await top_up(client, member, fake, 8_000, "EUR")
    await move_clock(kernel, STEP)
    await run_top_ups(kernel)
    schedule = {"interval": "daily", "minimum_minor": 1, "keep_minor": 0, "destination": None}
    fresh = member.with_fresh_token(kernel)
    answer = await client.put("/v1/payout-schedules/EUR", json=schedule, headers=fresh.headers())
    assert answer.status_code == 200
    await move_clock(kernel, timedelta(days=1))
    assert await run_payout_runs(kernel) == 1
    await run_payouts(kernel)
    fake.end_payout(fake.only("payout")["id"])
    await move_clock(kernel, STEP)
    assert await run_payouts(kernel) == 1
    fake.reverse_transfer(fake.only("transfer")["id"])
    await read_movements(kernel)
    day = (await now(kernel)).date()
    await move_clock(kernel, timedelta(days=1, hours=2))
    view = await reconcile_day(kernel, day)
    assert view.difference_count == 1
    operator = await make_party(kernel, Role.OPERATOR)
    listed = await client.get("/v1/rail-cases?state=open", headers=operator.headers())
    kinds = [
        (case["kind"], case["ledger_minor"], case["rail_minor"])
        for case in listed.json()["items"]
        if case["kind"] not in ("chargeback",)
    ]
    # A reversal that we did not order carries no key of ours, so it stands for itself.
    assert kinds == [("missing_here", 0, 8_000)]
