"""One row that the rail refuses or that breaks does not stop the others; it becomes a case."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import Role
from settlement.accounts import AccountKind, AccountRef
from settlement.jobs import run_chargebacks, run_payouts, run_refunds, run_top_ups
from settlement.webhooks import process_webhooks
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, fund, move_clock, state, verified
from tests.settlement.rails.conftest import Deliver
from tests.settlement.stripe_fake import StripeFake

STEP = timedelta(minutes=2)


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


async def paid(
    client: httpx.AsyncClient, kernel: Kernel, member: Member, fake: StripeFake
) -> tuple[str, str]:
    """A settled top-up of 5,000 EUR and its session."""
    body = {"money": {"amount_minor": 5_000, "currency": "EUR"}}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    session = fake.only("checkout.session")["id"]
    fake.pay(session)
    await move_clock(kernel, STEP)
    await run_top_ups(kernel)
    return made["id"], session


async def cases(client: httpx.AsyncClient, kernel: Kernel, kind: str) -> list[dict[str, Any]]:
    operator = await make_party(kernel, Role.OPERATOR)
    answer = await client.get(f"/v1/rail-cases?kind={kind}", headers=operator.headers())
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_a_refused_refund_is_a_case_and_the_next_one_goes_on(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = [await paid(client, kernel, buyer, fake) for _ in range(2)]
    refunds = []
    for top_up, _ in made:
        answer = await client.post(
            f"/v1/top-ups/{top_up}/refunds", json={"amount_minor": 100}, headers=buyer.headers()
        )
        refunds.append(answer.json())
    lost = fake.objects.pop(made[0][1])
    assert await run_refunds(kernel) == 1
    (case,) = await cases(client, kernel, "refused")
    assert (case["subject_id"], case["detail"]) == (refunds[0]["id"], "refund: resource_missing")
    # Asked again, the same case; put right at the provider, the refund ends.
    await move_clock(kernel, STEP)
    assert await run_refunds(kernel) == 0
    assert len(await cases(client, kernel, "refused")) == 1
    fake.objects[lost["id"]] = lost
    await move_clock(kernel, STEP)
    assert await run_refunds(kernel) == 1
    assert (await state(kernel, available(buyer.party_id, "EUR")))[0] == 9_800
    await verified(kernel)


async def test_an_unreadable_dispute_does_not_stop_the_next(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    payments = []
    for _ in range(2):
        await paid(client, kernel, buyer, fake)
        payments.append(fake.only("payment_intent")["id"])
    for payment in payments:
        fake.dispute(payment, amount=1_000)
    del fake.objects[payments[0]]
    assert await run_chargebacks(kernel) == 1
    assert await run_chargebacks(kernel) == 0


async def seller_with(
    client: httpx.AsyncClient, kernel: Kernel, fake: StripeFake, amount: int
) -> Member:
    seller = await make_party(kernel, Role.SELLER)
    opened = (await client.post("/v1/payout-accounts", headers=seller.headers())).json()
    fake.complete(opened["account"])
    await client.post("/v1/payout-accounts", headers=seller.headers())
    await fund(kernel, seller.party_id, amount, "EUR")
    fake.balances["", "eur"] += amount
    return seller


async def test_a_refused_reversal_waits_for_a_person_and_others_are_paid(
    client: httpx.AsyncClient, kernel: Kernel, fake: StripeFake
) -> None:
    body = {"money": {"amount_minor": 4_000, "currency": "EUR"}}
    first = await seller_with(client, kernel, fake, 4_000)
    second = await seller_with(client, kernel, fake, 4_000)
    made = [
        (await client.post("/v1/payouts", json=body, headers=member.headers())).json()
        for member in (first, second)
    ]
    assert await run_payouts(kernel) == 0
    stuck, fine = (
        next(
            each
            for each in fake.objects.values()
            if each["object"] == "payout" and each["_account"] == payout["destination"]
        )
        for payout in made
    )
    fake.end_payout(stuck["id"], failure_code="account_closed")
    fake.balances[stuck["_account"], "eur"] = 0
    fake.end_payout(fine["id"])
    await move_clock(kernel, STEP)
    assert await run_payouts(kernel) == 1
    found = [case["subject_id"].replace("-", "") for case in await cases(client, kernel, "refused")]
    assert made[0]["id"][4:] in found
    transit = AccountRef(AccountKind.IN_TRANSIT, None, "EUR")
    assert (await state(kernel, transit))[0] == 4_000
    # Somebody reverses the transfer by hand: the payout ends and the money is back.
    transfer = next(
        each
        for each in fake.objects.values()
        if each["object"] == "transfer" and each["destination"] == stuck["_account"]
    )
    fake.reverse_transfer(transfer["id"])
    await move_clock(kernel, STEP)
    assert await run_payouts(kernel) == 1
    assert (await state(kernel, available(first.party_id, "EUR")))[0] == 4_000
    assert (await state(kernel, transit))[0] == 0
    await verified(kernel)


async def test_a_transfer_reversed_by_somebody_else_is_a_case(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> None:
    body = {"money": {"amount_minor": 3_000, "currency": "EUR"}}
    seller = await seller_with(client, kernel, fake, 3_000)
    made = (await client.post("/v1/payouts", json=body, headers=seller.headers())).json()
    await run_payouts(kernel)
    fake.events.clear()
    fake.reverse_transfer(fake.only("transfer")["id"])
    for source, event in fake.events * 2:
        await deliver(source, event)
    await process_webhooks(kernel)
    (case,) = await cases(client, kernel, "transfer_reversed")
    assert case["subject_id"].replace("-", "") == parse("pay", made["id"]).hex
    assert case["party_id"] == seller.id


@pytest.mark.parametrize(
    ("currency", "balance", "paid_out", "at_stripe"),
    [
        ("HUF", 123_456, 123_400, 123_400),
        ("TWD", 99_950, 99_900, 99_900),
        ("UGX", 5_001, 5_001, 500_100),
        ("ISK", 777, 777, 77_700),
        ("JPY", 777, 777, 777),
        ("KWD", 5_005, 5_000, 5_000),
    ],
)
async def test_whole_units_go_to_the_bank(
    client: httpx.AsyncClient,
    kernel: Kernel,
    fake: StripeFake,
    currency: str,
    balance: int,
    paid_out: int,
    at_stripe: int,
) -> None:
    seller = await seller_with(client, kernel, fake, 1)
    await fund(kernel, seller.party_id, balance, currency)
    fake.balances["", currency.lower()] += at_stripe
    if paid_out != balance:
        body = {"money": {"amount_minor": balance, "currency": currency}}
        refused = await client.post("/v1/payouts", json=body, headers=seller.headers())
        assert (refused.status_code, refused.json()["code"]) == (422, "amount_not_payable")
    body = {"money": {"amount_minor": paid_out, "currency": currency}}
    answer = await client.post("/v1/payouts", json=body, headers=seller.headers())
    assert answer.status_code == 201
    await run_payouts(kernel)
    payout = fake.only("payout")
    assert (payout["amount"], payout["currency"]) == (at_stripe, currency.lower())
    fake.end_payout(payout["id"])
    await move_clock(kernel, STEP)
    assert await run_payouts(kernel) == 1
    place = (payout["_account"], currency.lower())
    assert fake.balances[place] == fake.balances["", currency.lower()] == 0
