"""Webhooks: attack rows 22 to 27 of the checklist, any order, dead letters and their replay."""

import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import httpx
import pytest
import stripe
from pydantic import SecretStr

from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import Role
from settlement import top_ups
from settlement.jobs import run_payouts, run_refunds
from settlement.rails.base import RailAnswer
from settlement.webhooks import ATTEMPTS_MAX, process_webhooks, replay_by_hand
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import (
    available,
    count,
    fund,
    move_clock,
    state,
    together,
    verified,
)
from tests.settlement.rails.conftest import OLD_SECRET, SECRETS, Deliver
from tests.settlement.stripe_books import Json
from tests.settlement.stripe_fake import Fault, StripeFake


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


@pytest.fixture(autouse=True)
async def empty(kernel: Kernel) -> AsyncIterator[None]:
    """What a test leaves unprocessed is not the next one's."""
    yield
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE settlement.webhook_event SET state = 'ignored' WHERE state = 'received'"
        )


async def checkout(client: httpx.AsyncClient, buyer: Member, amount: int = 5_000) -> Json:
    body = {"money": {"amount_minor": amount, "currency": "EUR"}}
    answer = await client.post("/v1/top-ups", json=body, headers=buyer.headers())
    assert answer.status_code == 201
    made: Json = answer.json()
    return made


async def balance(kernel: Kernel, member: Member) -> int:
    return (await state(kernel, available(member.party_id, "EUR")))[0]


async def status_of(client: httpx.AsyncClient, member: Member, path: str) -> tuple[str, str | None]:
    shown = (await client.get(path, headers=member.headers())).json()
    return shown["status"], shown["failure_code"]


async def outcome(kernel: Kernel, event: Json) -> tuple[str, str | None]:
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT state, detail FROM settlement.webhook_event WHERE event_id = $1", event["id"]
        )
    assert row is not None
    return row["state"], row["detail"]


def event_of(type_: str, object_id: str, **more: object) -> Json:
    made: Json = {
        "id": f"evt_{time.monotonic_ns()}",
        "type": type_,
        "livemode": False,
        "data": {"object": {"id": object_id}},
    }
    return made | more


async def test_row_22_bad_signatures_and_changed_bodies_write_nothing(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver
) -> None:
    before = await count(kernel, "webhook_event")
    event = event_of("checkout.session.completed", "cs_test_1")
    refused = [
        await deliver("platform", event, secret="whsec_" + "x" * 32),
        # The other endpoint's secret is no secret here.
        await deliver("platform", event, secret=SECRETS["connect"]),
        await deliver("connect", event, secret=SECRETS["platform"]),
    ]
    body = json.dumps(event)
    header = stripe.WebhookSignature.generate_signature_header(body, SECRETS["platform"])
    for content, headers in (
        (json.dumps(event, indent=1).encode(), {"Stripe-Signature": header}),
        (b"\xff" + body.encode(), {"Stripe-Signature": header}),
        (body.encode(), {"Stripe-Signature": header.replace("v1=", "v0=")}),
        (body.encode(), {"Stripe-Signature": "t=1,v1=00,,"}),
        (body.encode(), {}),
    ):
        refused.append(
            await client.post("/v1/webhooks/stripe/platform", content=content, headers=headers)
        )
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {
        (400, "webhook_signature_invalid")
    }
    assert await count(kernel, "webhook_event") == before


@pytest.mark.parametrize(("age_s", "status"), [(290, 200), (310, 400), (-290, 200), (-310, 400)])
async def test_row_23_past_and_future_timestamps_are_refused(
    kernel: Kernel, deliver: Deliver, age_s: int, status: int
) -> None:
    before = await count(kernel, "webhook_event")
    answer = await deliver("platform", event_of("x", "y"), at=int(time.time()) - age_s)
    assert answer.status_code == status
    assert await count(kernel, "webhook_event") == before + (status == 200)


async def test_both_secrets_of_a_rotation_are_good(deliver: Deliver) -> None:
    for secret in (SECRETS["platform"], OLD_SECRET):
        assert (await deliver("platform", event_of("x", "y"), secret=secret)).status_code == 200


async def test_what_is_signed_but_no_event_is_malformed(kernel: Kernel, deliver: Deliver) -> None:
    before = await count(kernel, "webhook_event")
    good = event_of("x", "y")
    bad: list[Json] = [
        {},
        good | {"id": "evt\u0000"},
        good | {"livemode": "no"},
        good | {"account": 7},
        good | {"data": {"object": []}},
    ]
    for event in bad:
        answer = await deliver("platform", event)
        assert (answer.status_code, answer.json()["code"]) == (400, "webhook_malformed")
    assert await count(kernel, "webhook_event") == before


async def test_row_24_a_hundred_duplicates_at_once_are_one_posting(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    await checkout(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    before = await count(kernel, "webhook_event")
    answers = await together(*(deliver("platform", fake.events[0][1]) for _ in range(100)))
    assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {200}
    assert len(answers) == 100
    assert await count(kernel, "webhook_event") == before + 1
    for source, event in fake.events:
        await deliver(source, event)
    await together(*(process_webhooks(kernel) for _ in range(4)))
    assert await state(kernel, available(buyer.party_id, "EUR")) == (5_000, 0, 1)
    await verified(kernel)


@pytest.mark.parametrize("order", ["forward", "backward"])
async def test_row_25_any_order_ends_in_the_same_state(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    buyer: Member,
    fake: StripeFake,
    order: str,
) -> None:
    made = await checkout(client, buyer)
    payment = fake.pay(fake.only("checkout.session")["id"], slow=True)
    fake.clear(fake.only("checkout.session")["id"])
    fake.win_dispute(fake.dispute(payment))
    events = fake.events if order == "forward" else fake.events[::-1]
    for source, event in events:
        await deliver(source, event)
        await process_webhooks(kernel)
    assert await status_of(client, buyer, f"/v1/top-ups/{made['id']}") == ("succeeded", None)
    assert await balance(kernel, buyer) == 5_000
    await verified(kernel)


async def test_a_lost_dispute_that_came_before_its_charge_is_a_debt(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    made = await checkout(client, buyer)
    dispute = fake.dispute(fake.pay(fake.only("checkout.session")["id"]))
    for source, event in fake.events[::-1]:
        await deliver(source, event)
    assert await process_webhooks(kernel) == 4
    path = f"/v1/top-ups/{made['id']}"
    assert await status_of(client, buyer, path) == ("charged_back", None)
    assert await balance(kernel, buyer) == 0
    fake.win_dispute(dispute)
    await deliver(*fake.events[-1])
    await process_webhooks(kernel)
    assert await status_of(client, buyer, path) == ("succeeded", None)
    assert await balance(kernel, buyer) == 5_000
    await verified(kernel)


async def test_row_26_other_accounts_and_modes_are_quarantined(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    await checkout(client, buyer)
    session = fake.only("checkout.session")["id"]
    fake.pay(session)
    events: dict[str, tuple[str, Json]] = {
        "livemode differs from our key": ("platform", {"livemode": True}),
        "a connected account on our own endpoint": ("platform", {"account": "acct_other"}),
        "an account that is not ours": ("connect", {"account": "acct_other"}),
    }
    for detail, (source, more) in events.items():
        event = event_of("checkout.session.completed", session, **more)
        assert (await deliver(source, event)).status_code == 200
        assert await process_webhooks(kernel) == 1
        assert await outcome(kernel, event) == ("quarantined", detail)
    assert await state(kernel, available(buyer.party_id, "EUR")) == (0, 0, 0)


@pytest.mark.parametrize("change", ["amount", "currency"])
async def test_row_27_another_amount_or_currency_is_not_credited(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    buyer: Member,
    fake: StripeFake,
    change: str,
) -> None:
    made = await checkout(client, buyer)
    session = fake.only("checkout.session")
    fake.pay(session["id"], amount=50 if change == "amount" else None)
    if change == "currency":
        session["currency"] = "huf"
    await deliver(*fake.events[0])
    assert await process_webhooks(kernel) == 1
    path = f"/v1/top-ups/{made['id']}"
    assert await status_of(client, buyer, path) == ("failed", "amount_mismatch")
    assert await state(kernel, available(buyer.party_id, "EUR")) == (0, 0, 0)
    assert await state(kernel, available(buyer.party_id, "HUF")) == (0, 0, 0)
    async with kernel.unit_of_work() as uow:
        alerts = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM kernel.outbox WHERE type = 'rail.amount_mismatch' "
            "AND object_id = $1",
            parse("top", made["id"]),
        )
    assert alerts == 1


async def test_an_event_finds_a_session_whose_answer_was_lost(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    fake.faults.append(Fault("POST", "/v1/checkout/sessions", "hang", effect=True))
    made = await checkout(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    await deliver(*fake.events[0])
    assert await process_webhooks(kernel) == 1
    assert await status_of(client, buyer, f"/v1/top-ups/{made['id']}") == ("succeeded", None)
    assert await balance(kernel, buyer) == 5_000


async def test_connect_events_update_accounts_and_payouts_and_late_returns(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    opened = await client.post("/v1/payout-accounts", headers=seller.headers())
    fake.complete(opened.json()["account"])
    await deliver(*fake.events.pop())
    assert await process_webhooks(kernel) == 1
    listed = (await client.get("/v1/payout-accounts", headers=seller.headers())).json()
    assert [row["payouts_enabled"] for row in listed["items"]] == [True]
    await fund(kernel, seller.party_id, 3_000, "EUR")
    fake.balances["", "eur"] += 3_000
    body = {"money": {"amount_minor": 3_000, "currency": "EUR"}}
    made = await client.post("/v1/payouts", json=body, headers=seller.headers())
    path = f"/v1/payouts/{made.json()['id']}"
    assert await run_payouts(kernel) == 0
    payout = fake.only("payout")["id"]
    fake.end_payout(payout)
    fake.end_payout(payout, failure_code="account_closed")
    fake.objects[payout]["status"] = "paid"
    await deliver(*fake.events[0])
    assert await process_webhooks(kernel) == 1
    assert await status_of(client, seller, path) == ("paid", None)
    assert await balance(kernel, seller) == 0
    # Days later the bank sends it back.
    fake.objects[payout]["status"] = "failed"
    await deliver(*fake.events[1])
    assert await process_webhooks(kernel) == 1
    assert await status_of(client, seller, path) == ("failed", "account_closed")
    assert await balance(kernel, seller) == 3_000
    await verified(kernel)


async def test_a_refund_that_fails_later_comes_back(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    made = await checkout(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    await deliver(*fake.events[0])
    await process_webhooks(kernel)
    path = f"/v1/top-ups/{made['id']}/refunds"
    await client.post(path, json={"amount_minor": 2_000}, headers=buyer.headers())
    assert await run_refunds(kernel) == 1
    assert await balance(kernel, buyer) == 3_000
    fake.fail_refund(fake.only("refund")["id"])
    for source, event in fake.events[-1:] * 2:
        await deliver(source, event)
    await process_webhooks(kernel)
    assert await balance(kernel, buyer) == 5_000
    await verified(kernel)


async def test_events_of_others_on_the_same_stripe_account_are_ignored(
    kernel: Kernel, deliver: Deliver, fake: StripeFake
) -> None:
    foreign = fake._make("pi", "payment_intent", status="succeeded", metadata={}, currency="eur")
    event = event_of("payment_intent.succeeded", foreign["id"])
    await deliver("platform", event)
    assert await process_webhooks(kernel) == 1
    assert await outcome(kernel, event) == ("ignored", "not a charge of ours")


async def test_an_outage_costs_no_attempt(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, buyer: Member, fake: StripeFake
) -> None:
    await checkout(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    event = fake.events[0][1]
    await deliver("platform", event)
    fake.down = True
    for _ in range(ATTEMPTS_MAX + 2):
        assert await process_webhooks(kernel) == 0
        await move_clock(kernel, timedelta(minutes=31))
    assert (await outcome(kernel, event))[0] == "received"
    fake.down = False
    assert await process_webhooks(kernel) == 1
    assert await balance(kernel, buyer) == 5_000


async def test_poison_ends_as_a_dead_letter_and_can_be_replayed(
    client: httpx.AsyncClient,
    kernel: Kernel,
    deliver: Deliver,
    buyer: Member,
    fake: StripeFake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await checkout(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    poison = fake.events[0][1]
    await deliver("platform", poison)

    async def broken(_uow: object, _key: object, _answer: RailAnswer) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(top_ups, "settle", broken)
        for attempt in range(ATTEMPTS_MAX):
            ended = await process_webhooks(kernel)
            assert ended == (attempt + 1 == ATTEMPTS_MAX)
            await move_clock(kernel, timedelta(minutes=31))
        assert await process_webhooks(kernel) == 0
    assert await outcome(kernel, poison) == ("dead", "KeyError: 'a bug'")
    assert await balance(kernel, buyer) == 0
    operator = await make_party(kernel, Role.OPERATOR)
    listed = await client.get("/v1/webhook-events?state=dead", headers=operator.headers())
    (found,) = listed.json()["items"]
    assert (found["event_id"], found["attempts"]) == (poison["id"], ATTEMPTS_MAX)
    path = f"/v1/webhook-events/{found['id']}/replay"
    stranger = buyer.with_fresh_token(kernel)
    assert (await client.post(path, headers=stranger.headers())).status_code == 403
    replayed = await client.post(path, headers=operator.headers())
    assert (replayed.status_code, replayed.json()["state"]) == (201, "received")
    assert await process_webhooks(kernel) == 1
    assert await outcome(kernel, poison) == ("done", None)
    assert await balance(kernel, buyer) == 5_000
    # Replaying what is done books nothing again.
    await client.post(path, headers=operator.headers())
    assert await process_webhooks(kernel) == 1
    assert await balance(kernel, buyer) == 5_000


async def test_a_replay_is_in_the_audit_log_by_whom_and_why(
    client: httpx.AsyncClient, kernel: Kernel, deliver: Deliver, operator: Member
) -> None:
    event = event_of("customer.created", "cus_1")
    await deliver("platform", event)
    await process_webhooks(kernel)
    assert (await outcome(kernel, event))[0] == "ignored"
    listed = await client.get("/v1/webhook-events?limit=1", headers=operator.headers())
    identity = listed.json()["items"][0]["id"]
    await client.post(f"/v1/webhook-events/{identity}/replay", headers=operator.headers())
    assert (await outcome(kernel, event))[0] == "received"
    await replay_by_hand(kernel, UUID(identity), "asked by Stripe")
    log = await client.get(
        f"/v1/operator-actions?subject_id={identity}", headers=operator.headers()
    )
    entries = [
        (row["via"], row["actor_id"], row["reason"], row["data"]["state"])
        for row in log.json()["items"]
    ]
    assert entries == [
        ("cli", None, "asked by Stripe", "received"),
        ("api", operator.id, None, "ignored"),
    ]
    async with kernel.unit_of_work() as uow:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await (await uow.raw()).execute("DELETE FROM settlement.operator_action")


async def test_replay_of_an_unknown_event_is_404(
    client: httpx.AsyncClient, operator: Member
) -> None:
    path = "/v1/webhook-events/00000000-0000-7000-8000-000000000000/replay"
    answer = await client.post(path, headers=operator.headers())
    assert (answer.status_code, answer.json()["code"]) == (404, "webhook_event_not_found")


async def test_without_secrets_nothing_is_accepted(
    kernel: Kernel, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty: tuple[SecretStr, ...] = ()
    bare = kernel.settings.model_copy(update={"stripe_webhook_secrets": empty})
    with monkeypatch.context() as patch:
        patch.setitem(kernel.__dict__, "settings", bare)
        assert (await deliver("platform", event_of("x", "y"))).status_code == 400
