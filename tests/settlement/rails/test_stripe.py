"""Every flow of the Stripe rail through the fake: once whatever breaks, and the books agree."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement.accounts import AccountKind, AccountRef
from settlement.errors import RailUnavailable
from settlement.jobs import run_chargebacks, run_payouts, run_refunds, run_top_ups
from settlement.rails.base import BalanceTransaction, ChargeRequest, PayoutRequest
from settlement.rails.choice import stripe_rail_of
from settlement.rails.stripe_gateway import KEY_LIFE, StripeRefused
from settlement.webhooks import process_webhooks
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, fund, move_clock, state, verified
from tests.settlement.stripe_fake import Fault, StripeFake

STEP = timedelta(minutes=2)


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


@pytest.fixture
async def seller(kernel: Kernel, client: httpx.AsyncClient, fake: StripeFake) -> Member:
    """Verified, with a complete payout account and 10,000 on its balance, as Stripe has them."""
    made = await make_party(kernel, Role.SELLER)
    opened = await client.post("/v1/payout-accounts", headers=made.headers())
    assert opened.status_code == 201
    fake.complete(opened.json()["account"])
    await client.post("/v1/payout-accounts", headers=made.headers())
    await fund(kernel, made.party_id, 10_000, "EUR")
    fake.balances["", "eur"] += 10_000
    return made


async def top_up(
    client: httpx.AsyncClient,
    member: Member,
    amount: int = 5_000,
    currency: str = "EUR",
    **more: Any,
) -> dict[str, Any]:
    body = {"money": {"amount_minor": amount, "currency": currency}, **more}
    answer = await client.post("/v1/top-ups", json=body, headers=member.headers())
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def shown(client: httpx.AsyncClient, member: Member, path: str) -> dict[str, Any]:
    made: dict[str, Any] = (await client.get(path, headers=member.headers())).json()
    return made


async def after(kernel: Kernel, job: Callable[[Kernel], Awaitable[int]]) -> int:
    """Move on until everything is due, then run a job."""
    await move_clock(kernel, STEP)
    return await job(kernel)


async def test_a_checkout_top_up_is_credited_when_the_payer_has_paid(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = await top_up(client, buyer)
    session = fake.only("checkout.session")
    assert (made["status"], made["redirect_url"]) == ("pending", session["url"])
    assert await after(kernel, run_top_ups) == 0
    fake.pay(session["id"])
    assert await after(kernel, run_top_ups) == 1
    final = await shown(client, buyer, f"/v1/top-ups/{made['id']}")
    assert (final["status"], final["redirect_url"]) == ("succeeded", None)
    assert await state(kernel, available(buyer.party_id, "EUR")) == (5_000, 0, 1)
    assert await after(kernel, run_top_ups) == 0


async def test_stripe_sends_people_back_to_pages_that_exist(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    await top_up(client, buyer)
    await client.post("/v1/payout-accounts", headers=seller.headers())
    sent = [dict(parse_qsl(request.body.decode())) for request in fake.sent]
    names = ("success_url", "cancel_url", "return_url", "refresh_url")
    urls = [fields[name] for fields in sent for name in names if name in fields]
    assert len(urls) == 4
    for url in urls:
        page = await client.get(urlsplit(url).path)
        # Signed out: asked to sign in, and sent on to the page.
        assert page.status_code == 303, url


async def test_an_expired_session_fails_the_top_up(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = await top_up(client, buyer)
    fake.only("checkout.session")["status"] = "expired"
    assert await after(kernel, run_top_ups) == 1
    final = await shown(client, buyer, f"/v1/top-ups/{made['id']}")
    assert (final["status"], final["failure_code"]) == ("failed", "checkout_expired")
    assert await state(kernel, available(buyer.party_id, "EUR")) == (0, 0, 0)


@pytest.mark.parametrize("how", ["hang", "error"])
@pytest.mark.parametrize("effect", [True, False])
async def test_an_unknown_outcome_makes_one_session(
    client: httpx.AsyncClient,
    kernel: Kernel,
    buyer: Member,
    fake: StripeFake,
    how: str,
    effect: bool,
) -> None:
    before = fake.count("checkout.session")
    fake.faults.append(Fault("POST", "/v1/checkout/sessions", how, effect))
    made = await top_up(client, buyer)
    assert (made["status"], made["redirect_url"]) == ("pending", None)
    assert fake.faults == []
    await after(kernel, run_top_ups)
    if how == "error" and not effect:
        # The stored 500 comes back for as long as Stripe keeps the key; then it never happened.
        assert fake.count("checkout.session") == before
        await move_clock(kernel, KEY_LIFE)
        assert await run_top_ups(kernel) == 1
        late = buyer.with_fresh_token(kernel)
        final = await shown(client, late, f"/v1/top-ups/{made['id']}")
        assert (final["status"], final["failure_code"]) == ("failed", "never_received")
        assert fake.count("checkout.session") == before
        return
    assert fake.count("checkout.session") == before + 1
    final = await shown(client, buyer, f"/v1/top-ups/{made['id']}")
    assert final["redirect_url"] == fake.only("checkout.session")["url"]
    keys = {
        sent.headers["idempotency-key"]
        for sent in fake.sent
        if (sent.method, sent.target) == ("POST", "/v1/checkout/sessions")
    }
    assert keys == {parse("top", made["id"]).hex}


async def test_a_saved_card_is_charged_at_once(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    await top_up(client, buyer, card="checkout_save")
    fake.pay(fake.only("checkout.session")["id"])
    assert await after(kernel, run_top_ups) == 1
    cards = (await shown(client, buyer, "/v1/saved-cards"))["items"]
    assert [(card["brand"], card["last4"], card["expires"]) for card in cards] == [
        ("visa", "4242", "2030-04")
    ]
    made = await top_up(client, buyer, 700, card=cards[0]["id"])
    assert (made["status"], made["redirect_url"]) == ("succeeded", None)
    assert await state(kernel, available(buyer.party_id, "EUR")) == (5_700, 0, 2)
    path = f"/v1/saved-cards/{cards[0]['id']}"
    stranger = await make_party(kernel, Role.BUYER)
    refused = await client.delete(path, headers=stranger.headers())
    assert (refused.status_code, refused.json()["code"]) == (404, "saved_card_not_found")
    assert (await client.delete(path, headers=buyer.headers())).status_code == 204
    assert (await shown(client, buyer, "/v1/saved-cards"))["items"] == []


async def test_a_declined_saved_card_is_402_and_another_partys_card_too(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    await top_up(client, buyer)
    customer = fake.only("checkout.session")["customer"]
    cards = {
        "authentication_required": fake.save_card(customer, decline="authentication_required"),
        "payment_method_not_of_customer": fake.save_card("cus_other"),
    }
    for code, card in cards.items():
        body = {"money": {"amount_minor": 500, "currency": "EUR"}, "card": card}
        answer = await client.post("/v1/top-ups", json=body, headers=buyer.headers())
        assert (answer.status_code, answer.json()["failure_code"]) == (402, code)
    assert await state(kernel, available(buyer.party_id, "EUR")) == (0, 0, 0)


@pytest.mark.parametrize(
    ("amount", "currency", "at_stripe"),
    [(500, "JPY", 500), (500, "ISK", 50_000), (5_000, "KWD", 5_000)],
)
async def test_special_currencies_are_written_as_stripe_writes_them(
    client: httpx.AsyncClient,
    kernel: Kernel,
    buyer: Member,
    fake: StripeFake,
    amount: int,
    currency: str,
    at_stripe: int,
) -> None:
    await top_up(client, buyer, amount, currency)
    session = fake.only("checkout.session")
    assert session["amount_total"] == at_stripe
    fake.pay(session["id"])
    assert await after(kernel, run_top_ups) == 1
    assert await state(kernel, available(buyer.party_id, currency)) == (amount, 0, 1)


async def test_tokens_and_amounts_that_stripe_does_not_take_are_422(
    client: httpx.AsyncClient, buyer: Member, fake: StripeFake
) -> None:
    for money, card, code in (
        ((5_000, "EUR"), "tok_success", "card_not_accepted"),
        ((5_001, "KWD"), None, "amount_not_payable"),
        ((5_000, "KPW"), None, "amount_not_payable"),
        ((100_000_000, "EUR"), None, "amount_not_payable"),
    ):
        body = {"money": {"amount_minor": money[0], "currency": money[1]}, "card": card}
        answer = await client.post("/v1/top-ups", json=body, headers=buyer.headers())
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert fake.sent == []


async def test_refunds_go_back_to_the_card_and_never_beyond_the_payment(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = await top_up(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    await after(kernel, run_top_ups)
    path = f"/v1/top-ups/{made['id']}/refunds"
    fake.faults.append(Fault("POST", "/v1/refunds", "hang", effect=True))
    first = await client.post(path, json={"amount_minor": 2_000}, headers=buyer.headers())
    assert (first.status_code, first.json()["status"]) == (201, "pending")
    assert await state(kernel, available(buyer.party_id, "EUR")) == (3_000, 0, 2)
    assert await run_refunds(kernel) == 0
    assert await after(kernel, run_refunds) == 1
    assert fake.only("payment_intent")["_refunded"] == 2_000
    over = await client.post(path, json={"amount_minor": 3_001}, headers=buyer.headers())
    assert (over.status_code, over.json()["code"]) == (409, "not_refundable")
    # Somebody refunded in the dashboard too: Stripe refuses, the money stays with the party.
    fake.only("payment_intent")["_refunded"] = 4_000
    second = await client.post(path, json={"amount_minor": 3_000}, headers=buyer.headers())
    assert second.status_code == 201
    assert await after(kernel, run_refunds) == 1
    listed = (await shown(client, buyer, path))["items"]
    assert [(row["status"], row["failure_code"]) for row in listed] == [
        ("failed", "amount_too_large"),
        ("succeeded", None),
    ]
    assert (await state(kernel, available(buyer.party_id, "EUR")))[0] == 3_000
    stranger = await make_party(kernel, Role.BUYER)
    hidden = await client.post(path, json={"amount_minor": 1}, headers=stranger.headers())
    assert hidden.status_code == 404
    await verified(kernel)


async def test_polling_finds_chargebacks_and_their_return(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = await top_up(client, buyer)
    payment = fake.pay(fake.only("checkout.session")["id"])
    await after(kernel, run_top_ups)
    dispute = fake.dispute(payment)
    assert await run_chargebacks(kernel) == 1
    assert (await shown(client, buyer, f"/v1/top-ups/{made['id']}"))["status"] == "charged_back"
    assert (await state(kernel, available(buyer.party_id, "EUR")))[0] == 0
    assert await run_chargebacks(kernel) == 0
    fake.win_dispute(dispute)
    rail = stripe_rail_of(kernel)
    (chargeback,) = (await rail.list_chargebacks("", 50)).items
    assert chargeback.amount_minor == 0


async def test_onboarding_asks_until_the_account_is_complete(
    client: httpx.AsyncClient, kernel: Kernel, fake: StripeFake
) -> None:
    member = await make_party(kernel, Role.SELLER)
    fake.faults.append(Fault("POST", "/v1/accounts", "hang", effect=True))
    headers = member.headers()
    lost = await client.post("/v1/payout-accounts", headers=headers)
    assert (lost.status_code, lost.json()["code"]) == (503, "rail_unavailable")
    count = fake.count("account")
    opened = await client.post("/v1/payout-accounts", headers=headers)
    assert opened.status_code == 201
    assert fake.count("account") == count
    account = opened.json()
    assert (account["payouts_enabled"], account["due"]) == (False, ["external_account"])
    assert account["onboarding_url"].startswith("https://connect.example/")
    assert fake.objects[account["account"]]["schedule"] == {"interval": "manual"}
    early = {"money": {"amount_minor": 500, "currency": "EUR"}}
    await fund(kernel, member.party_id, 500, "EUR")
    refused = await client.post("/v1/payouts", json=early, headers=member.headers())
    assert (refused.status_code, refused.json()["code"]) == (409, "payout_account_not_ready")
    fake.complete(account["account"])
    again = await client.post("/v1/payout-accounts", headers=member.headers())
    assert (again.json()["payouts_enabled"], again.json()["onboarding_url"]) == (True, None)
    listed = (await shown(client, member, "/v1/payout-accounts"))["items"]
    assert [(row["account"], row["due"]) for row in listed] == [(account["account"], [])]
    buyer = await make_party(kernel, Role.BUYER)
    assert (await client.post("/v1/payout-accounts", headers=buyer.headers())).status_code == 403


async def pay_out(client: httpx.AsyncClient, member: Member, amount: int = 4_000) -> dict[str, Any]:
    body = {"money": {"amount_minor": amount, "currency": "EUR"}}
    answer = await client.post("/v1/payouts", json=body, headers=member.headers())
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.parametrize(
    "path", [None, "/v1/transfers", "/v1/payouts"], ids=["calm", "transfer", "payout"]
)
@pytest.mark.parametrize("how", ["hang", "error"])
async def test_a_payout_is_one_transfer_and_one_payout(
    client: httpx.AsyncClient,
    kernel: Kernel,
    seller: Member,
    fake: StripeFake,
    path: str | None,
    how: str,
) -> None:
    transfers, payouts = fake.count("transfer"), fake.count("payout")
    if path is not None:
        fake.faults.append(Fault("POST", path, how, effect=True))
    made = await pay_out(client, seller)
    assert await run_payouts(kernel) == 0
    assert await after(kernel, run_payouts) == 0
    assert (fake.count("transfer"), fake.count("payout")) == (transfers + 1, payouts + 1)
    fake.end_payout(fake.only("payout")["id"])
    assert await after(kernel, run_payouts) == 1
    assert (await shown(client, seller, f"/v1/payouts/{made['id']}"))["status"] == "paid"
    assert await state(kernel, available(seller.party_id, "EUR")) == (6_000, 0, 2)
    assert (await state(kernel, AccountRef(AccountKind.IN_TRANSIT, None, "EUR")))[0] == 0


@pytest.mark.parametrize("how", [None, "hang", "error"])
async def test_a_failed_payout_reverses_its_transfer_once(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, fake: StripeFake, how: str | None
) -> None:
    platform = fake.balances["", "eur"]
    made = await pay_out(client, seller)
    await run_payouts(kernel)
    assert fake.balances["", "eur"] == platform - 4_000
    if how is not None:
        fake.faults.append(Fault("POST", "/v1/transfers/.*/reversals", how, effect=True))
    fake.end_payout(fake.only("payout")["id"], failure_code="account_closed")
    assert await after(kernel, run_payouts) == (how is None)
    assert await after(kernel, run_payouts) == (how is not None)
    final = await shown(client, seller, f"/v1/payouts/{made['id']}")
    assert (final["status"], final["failure_code"]) == ("failed", "account_closed")
    assert (await state(kernel, available(seller.party_id, "EUR")))[0] == 10_000
    assert fake.balances["", "eur"] == platform
    assert fake.only("transfer")["amount_reversed"] == 4_000


async def test_a_platform_without_the_money_refuses_the_payout(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, fake: StripeFake
) -> None:
    kept, fake.balances["", "eur"] = fake.balances["", "eur"], 0
    made = await pay_out(client, seller)
    assert await run_payouts(kernel) == 1
    final = await shown(client, seller, f"/v1/payouts/{made['id']}")
    assert (final["status"], final["failure_code"]) == ("failed", "balance_insufficient")
    assert (await state(kernel, available(seller.party_id, "EUR")))[0] == 10_000
    fake.balances["", "eur"] = kept


async def test_an_hour_of_500s_only_delays(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, buyer: Member, fake: StripeFake
) -> None:
    fake.down = True
    deposit = await top_up(client, buyer)
    made = await pay_out(client, seller)
    assert deposit["status"] == "pending"
    for job in (run_top_ups, run_payouts):
        assert await job(kernel) == 0
        assert await after(kernel, job) == 0
    with pytest.raises(RailUnavailable):
        await run_chargebacks(kernel)
    fake.down = False
    await move_clock(kernel, timedelta(minutes=10))
    seller = seller.with_fresh_token(kernel)
    await after(kernel, run_payouts)
    fake.end_payout(fake.only("payout")["id"])
    assert await after(kernel, run_payouts) == 1
    assert (await shown(client, seller, f"/v1/payouts/{made['id']}"))["status"] == "paid"
    await after(kernel, run_top_ups)
    fake.pay(fake.only("checkout.session")["id"])
    await move_clock(kernel, timedelta(minutes=20))
    assert await run_top_ups(kernel) == 1


async def test_no_call_is_made_inside_a_unit_of_work(kernel: Kernel, fake: StripeFake) -> None:
    rail = stripe_rail_of(kernel)
    async with kernel.unit_of_work():
        with pytest.raises(AssertionError, match="outgoing I/O"):
            await rail.gateway.ask(rail.gateway.api.customers.list_async())
    assert fake.sent == []


async def test_a_key_serves_one_command(kernel: Kernel, fake: StripeFake, buyer: Member) -> None:
    rail = stripe_rail_of(kernel)
    key = new_id()
    await rail.charge(ChargeRequest(key, 500, "EUR", "checkout", buyer.party_id))
    with pytest.raises(ValueError, match="another command"):
        await rail.pay_out(PayoutRequest(key, 500, "EUR", "acct_1"))
    with pytest.raises(StripeRefused):
        await rail.gateway.ask(rail.gateway.api.transfers.retrieve_async("tr_unknown"))


async def test_balance_transactions_come_oldest_first_with_our_keys(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, fake: StripeFake
) -> None:
    made = await top_up(client, buyer)
    fake.pay(fake.only("checkout.session")["id"])
    rail = stripe_rail_of(kernel)
    every = await rail.list_balance_transactions("", 5_000)
    last = every[-1]
    assert (last.kind, last.amount_minor, last.fee_minor, last.currency) == (
        "charge",
        5_000,
        50,
        "EUR",
    )
    assert last.key == parse("top", made["id"])
    paged: list[BalanceTransaction] = []
    position = ""
    while page := await rail.list_balance_transactions(position, 3):
        paged.extend(page)
        position = page[-1].position
    assert paged == list(every)


async def test_webhooks_do_nothing_when_none_came(kernel: Kernel) -> None:
    assert await process_webhooks(kernel) == 0
