"""Chargebacks in steps and parts, in any order; what is frozen, and the operators' queue."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement import chargebacks
from settlement.accounts import AccountKind, AccountRef
from settlement.jobs import run_chargebacks
from settlement.rails.choice import stripe_rail_of
from settlement.webhooks import process_webhooks
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, book, fund, move_clock, state, transfer, verified
from tests.settlement.rails.conftest import Deliver
from tests.settlement.stripe_fake import StripeFake

LOSSES = AccountRef(AccountKind.LOSSES, None, "EUR")


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


class Paid:
    """A top-up of 5,000 that was paid, by a buyer with nothing else."""

    def __init__(self, member: Member, top_up: str, payment: str) -> None:
        self.member = member
        self.top_up = top_up
        self.payment = payment

    @property
    def debt(self) -> AccountRef:
        return AccountRef(AccountKind.RECEIVABLE, self.member.party_id, "EUR")


@pytest.fixture
async def paid(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> AsyncIterator[Paid]:
    member = await make_party(kernel, Role.BUYER)
    body = {"money": {"amount_minor": 5_000, "currency": "EUR"}}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    payment = fake.pay(fake.only("checkout.session")["id"])
    await delivered(kernel, deliver, fake)
    yield Paid(member, made["id"], payment)
    await verified(kernel)


async def delivered(kernel: Kernel, deliver: Deliver, fake: StripeFake) -> None:
    """All events so far, worked on."""
    for source, event in fake.events:
        await deliver(source, event)
    fake.events.clear()
    await process_webhooks(kernel)


async def money(kernel: Kernel, paid: Paid) -> tuple[int, int, int]:
    """Balance, frozen, debt."""
    posted, held, _ = await state(kernel, available(paid.member.party_id, "EUR"))
    return posted, held, -(await state(kernel, paid.debt))[0]


async def shown(client: httpx.AsyncClient, paid: Paid) -> str:
    answer = await client.get(f"/v1/top-ups/{paid.top_up}", headers=paid.member.headers())
    status: str = answer.json()["status"]
    return status


async def case_of(
    client: httpx.AsyncClient, operator: Member, subject: str, kind: str = "chargeback"
) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/rail-cases?kind={kind}", headers=operator.headers())
    items: list[dict[str, Any]] = answer.json()["items"]
    return [item for item in items if item["subject_id"].replace("-", "") == subject[4:]]


async def test_a_partial_chargeback_freezes_the_rest_until_an_operator_closes_it(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    fake: StripeFake,
    paid: Paid,
    operator: Member,
) -> None:
    fake.dispute(paid.payment, amount=2_000)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (3_000, 3_000, 0)
    assert await shown(client, paid) == "charged_back"
    (case,) = await case_of(client, operator, paid.top_up)
    assert (case["state"], case["ledger_minor"], case["rail_minor"]) == ("open", 5_000, 3_000)
    assert case["party_id"] == paid.member.id
    path = f"/v1/rail-cases/{case['id']}/closing"
    refused = await client.post(
        path,
        json={"resolution": "booked_to_losses", "reason": "no"},
        headers=operator.headers(),
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "case_not_bookable")
    assert await money(kernel, paid) == (3_000, 3_000, 0)
    closing = {"resolution": "explained", "reason": "The buyer showed the invoice."}
    foreign = await client.post(path, json=closing, headers=paid.member.headers())
    assert foreign.status_code == 403
    closed = await client.post(path, json=closing, headers=operator.headers())
    assert (closed.status_code, closed.json()["state"]) == (201, "closed")
    assert await money(kernel, paid) == (3_000, 0, 0)
    again = await client.post(path, json=closing, headers=operator.headers())
    assert (again.status_code, again.json()["code"]) == (409, "case_closed")
    log = await client.get(
        f"/v1/operator-actions?subject_id={case['id']}", headers=operator.headers()
    )
    (entry,) = log.json()["items"]
    assert (entry["action"], entry["reason"]) == ("case.close", closing["reason"])
    assert (entry["via"], entry["actor_id"]) == ("api", operator.id)


async def test_the_bank_takes_in_two_steps_and_returns_a_part(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake, paid: Paid
) -> None:
    dispute = fake.dispute(paid.payment, amount=1_000)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (4_000, 4_000, 0)
    fake.withdraw(dispute, amount=500)
    await delivered(kernel, deliver, fake)
    # What is frozen cannot pay: the rest is a debt until somebody looks.
    assert await money(kernel, paid) == (4_000, 4_000, 500)
    fake.win_dispute(dispute, amount=700)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (4_200, 0, 0)
    assert await shown(client, paid) == "charged_back"
    fake.win_dispute(dispute, amount=800)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (5_000, 0, 0)
    assert await shown(client, paid) == "succeeded"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
async def test_events_of_a_lost_dispute_come_in_any_order_and_twice(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    fake: StripeFake,
    paid: Paid,
    order: tuple[int, ...],
) -> None:
    await book(
        kernel, transfer(available(paid.member.party_id, "EUR"), available(new_id(), "EUR"), 4_000)
    )
    dispute = fake.dispute(paid.payment)
    fake.lose_dispute(dispute)
    events = [*fake.events, fake.events[0]]
    assert len(events) == 4
    for place in order:
        await deliver(*events[place])
        await process_webhooks(kernel)
    fake.events.clear()
    assert await money(kernel, paid) == (0, 0, 4_000)
    assert await shown(client, paid) == "charged_back"
    async with kernel.unit_of_work() as uow:
        (record,) = await chargebacks.records_of(uow, parse("top", paid.top_up))
    assert (record.outcome, record.amount_minor, record.party_minor) == ("lost", 5_000, 5_000)


async def test_an_older_report_never_undoes_a_newer_one(
    kernel: Kernel, fake: StripeFake, paid: Paid
) -> None:
    rail = stripe_rail_of(kernel)
    dispute = fake.dispute(paid.payment)
    early = await rail.find_chargeback(dispute)
    fake.win_dispute(dispute)
    late = await rail.find_chargeback(dispute)
    assert early is not None
    assert late is not None
    assert await chargebacks.take(kernel, "stripe", early) is True
    assert await chargebacks.take(kernel, "stripe", late) is True
    assert await chargebacks.take(kernel, "stripe", early) is False
    assert await money(kernel, paid) == (5_000, 0, 0)
    fake.events.clear()


async def test_an_inquiry_takes_nothing_until_it_becomes_a_chargeback(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    fake: StripeFake,
    paid: Paid,
    operator: Member,
) -> None:
    dispute = fake.dispute(paid.payment, inquiry=True)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (5_000, 0, 0)
    assert await shown(client, paid) == "succeeded"
    assert await case_of(client, operator, paid.top_up) == []
    fake.withdraw(dispute)
    fake.events.clear()
    # Its webhook was lost: the job asks again.
    await move_clock(kernel, chargebacks.CHECK_EVERY)
    await run_chargebacks(kernel)
    assert await money(kernel, paid) == (0, 0, 0)
    fake.win_dispute(dispute)
    await delivered(kernel, deliver, fake)
    late = operator.with_fresh_token(kernel)
    (case,) = await case_of(client, late, paid.top_up)
    assert (case["state"], case["resolution"]) == ("closed", "agrees")
    assert await money(kernel, paid) == (5_000, 0, 0)


async def test_what_was_refunded_before_is_the_exchanges_loss(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake, paid: Paid
) -> None:
    before = (await state(kernel, LOSSES))[0]
    answer = await client.post(
        f"/v1/top-ups/{paid.top_up}/refunds",
        json={"amount_minor": 2_000},
        headers=paid.member.headers(),
    )
    assert answer.status_code == 201
    dispute = fake.dispute(paid.payment)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (0, 0, 0)
    assert (await state(kernel, LOSSES))[0] - before == -2_000
    fake.win_dispute(dispute)
    await delivered(kernel, deliver, fake)
    assert await money(kernel, paid) == (3_000, 0, 0)
    assert (await state(kernel, LOSSES))[0] == before


async def test_two_disputes_of_one_payment_take_it_once(
    kernel: Kernel, deliver: Deliver, fake: StripeFake, paid: Paid
) -> None:
    before = (await state(kernel, LOSSES))[0]
    fake.dispute(paid.payment, amount=3_000)
    fake.dispute(paid.payment, amount=3_000)
    await delivered(kernel, deliver, fake)
    posted, frozen, debt = await money(kernel, paid)
    # Between the two, 2,000 were frozen: they pay the debt when the case is closed.
    assert (posted - debt, frozen) == (0, 2_000)
    assert (await state(kernel, LOSSES))[0] - before == -1_000


async def test_a_debit_that_bounces_fails_the_top_up(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> None:
    member = await make_party(kernel, Role.BUYER)
    body = {"money": {"amount_minor": 700, "currency": "EUR"}}
    made = (await client.post("/v1/top-ups", json=body, headers=member.headers())).json()
    session = fake.only("checkout.session")["id"]
    fake.pay(session, slow=True)
    fake.bounce(session)
    for source, event in fake.events[::-1] * 2:
        await deliver(source, event)
    await process_webhooks(kernel)
    final = await client.get(f"/v1/top-ups/{made['id']}", headers=member.headers())
    assert (final.json()["status"], final.json()["failure_code"]) == ("failed", "payment_failed")
    assert await state(kernel, available(member.party_id, "EUR")) == (0, 0, 0)


async def test_requirements_close_and_open_the_way_out(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    opened = (await client.post("/v1/payout-accounts", headers=seller.headers())).json()
    await fund(kernel, seller.party_id, 5_000, "EUR")
    body = {"money": {"amount_minor": 500, "currency": "EUR"}}
    steps: list[tuple[Any, int, list[str]]] = [
        (lambda: fake.complete(opened["account"]), 201, []),
        (
            lambda: fake.demand(opened["account"], "individual.verification.document"),
            409,
            ["individual.verification.document"],
        ),
        (lambda: fake.complete(opened["account"]), 201, []),
    ]
    for act, status, due in steps:
        act()
        for source, event in fake.events * 2:
            await deliver(source, event)
        fake.events.clear()
        await process_webhooks(kernel)
        listed = await client.get("/v1/payout-accounts", headers=seller.headers())
        assert listed.json()["items"][0]["due"] == due
        answer = await client.post("/v1/payouts", json=body, headers=seller.headers())
        assert answer.status_code == status
