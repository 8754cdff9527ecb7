"""Debts: claims after a payout, netting from later money, writing off, what comes back after."""

from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement import chargebacks
from settlement.accounts import AccountKind, AccountRef
from settlement.rails.base import Chargeback
from settlement.receivables import net_debts
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, book, fund, state, together, transfer, verified

LOSSES = AccountRef(AccountKind.LOSSES, None, "CNY")


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


@pytest.fixture
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER, Role.SELLER)


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


def money(amount: int) -> dict[str, Any]:
    return {"amount_minor": amount, "currency": "CNY"}


async def owed(kernel: Kernel, member: Member) -> int:
    return -(await state(kernel, AccountRef(AccountKind.RECEIVABLE, member.party_id, "CNY")))[0]


async def has(kernel: Kernel, member: Member) -> int:
    return (await state(kernel, available(member.party_id)))[0]


async def claim(
    client: httpx.AsyncClient, operator: Member, seller: Member, buyer: Member, amount: int
) -> httpx.Response:
    body = {
        "from_party_id": seller.id,
        "to_party_id": buyer.id,
        "money": money(amount),
        "reason": "Refund of a delivery that was false.",
    }
    return await client.post("/v1/claims", json=body, headers=operator.headers())


async def test_a_claim_after_the_payout_is_a_debt_that_later_money_pays(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, seller: Member, buyer: Member
) -> None:
    await fund(kernel, seller.party_id, 300)
    answer = await claim(client, operator, seller, buyer, 1_000)
    assert answer.status_code == 201
    assert (answer.json()["paid_minor"], answer.json()["owed_minor"]) == (300, 700)
    assert (await has(kernel, seller), await owed(kernel, seller)) == (0, 700)
    assert await has(kernel, buyer) == 1_000
    listed = await client.get("/v1/debts?limit=200", headers=operator.headers())
    debts = {item["party_id"]: item["owed_minor"] for item in listed.json()["items"]}
    assert debts[seller.id] == 700
    # Two workers, one netting.
    await fund(kernel, seller.party_id, 500)
    assert sum(n for n in await together(*(net_debts(kernel) for _ in range(4))) if n == 1) == 1
    assert (await has(kernel, seller), await owed(kernel, seller)) == (0, 200)
    await fund(kernel, seller.party_id, 1_000)
    refused = await client.post(
        "/v1/payouts",
        json={"money": money(900), "destination": "dst_success"},
        headers=seller.headers(),
    )
    assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_funds")
    assert (await has(kernel, seller), await owed(kernel, seller)) == (1_000, 200)
    paid = await client.post(
        "/v1/payouts",
        json={"money": money(800), "destination": "dst_success"},
        headers=seller.headers(),
    )
    assert paid.status_code == 201
    assert (await has(kernel, seller), await owed(kernel, seller)) == (0, 0)
    account = AccountRef(AccountKind.RECEIVABLE, seller.party_id, "CNY")
    statement = await client.get(
        f"/v1/accounts/acc_{account.id.hex}/postings", headers=seller.headers()
    )
    assert [(row["kind"], row["amount_minor"]) for row in statement.json()["items"]] == [
        ("debt_netting", 200),
        ("debt_netting", 500),
        ("claim", -700),
    ]
    assert await net_debts(kernel) == 0
    await verified(kernel)


async def test_claims_need_an_operator_and_two_parties(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, seller: Member, buyer: Member
) -> None:
    assert (await claim(client, buyer, seller, buyer, 10)).status_code == 403
    same = await claim(client, operator, seller, seller, 10)
    assert (same.status_code, same.json()["code"]) == (422, "same_party")
    stranger = Member(new_id(), "", "", seller.actor, "")
    assert (await claim(client, operator, stranger, buyer, 10)).status_code == 404
    assert await owed(kernel, seller) == 0


async def test_a_debt_is_written_off_with_a_reason_and_never_beyond(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, seller: Member, buyer: Member
) -> None:
    await claim(client, operator, seller, buyer, 700)
    before = (await state(kernel, LOSSES))[0]
    path = f"/v1/debts/{seller.id}/write-offs"
    over = await client.post(
        path, json={"money": money(701), "reason": "gone"}, headers=operator.headers()
    )
    assert (over.status_code, over.json()["code"]) == (422, "debt_too_small")
    bare = await client.post(path, json={"money": money(1)}, headers=operator.headers())
    assert bare.status_code == 422
    done = await client.post(
        path, json={"money": money(600), "reason": "gone"}, headers=operator.headers()
    )
    assert (done.status_code, done.json()["recovered_minor"]) == (201, 0)
    assert await owed(kernel, seller) == 100
    assert (await state(kernel, LOSSES))[0] - before == -600
    log = await client.get(
        f"/v1/operator-actions?subject_id={done.json()['id']}", headers=operator.headers()
    )
    assert [row["action"] for row in log.json()["items"]] == ["debt.write_off"]
    hidden = await client.get("/v1/operator-actions", headers=seller.headers())
    assert hidden.status_code == 403
    await verified(kernel)


async def test_money_that_the_bank_returns_after_a_write_off_is_the_exchanges(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, buyer: Member
) -> None:
    body = {"money": money(5_000), "card": "tok_success"}
    made = (await client.post("/v1/top-ups", json=body, headers=buyer.headers())).json()
    await book(kernel, transfer(available(buyer.party_id), available(new_id()), 5_000))
    key = new_id()
    top_up = Chargeback(key.hex, parse("top", made["id"]), 5_000, 1)
    assert await chargebacks.take(kernel, "sandbox", top_up)
    assert await owed(kernel, buyer) == 5_000
    before = (await state(kernel, LOSSES))[0]
    await client.post(
        f"/v1/debts/{buyer.id}/write-offs",
        json={"money": money(2_000), "reason": "insolvent"},
        headers=operator.headers(),
    )
    back = Chargeback(key.hex, top_up.charge_key, 0, 2, won=True)
    assert await chargebacks.take(kernel, "sandbox", back)
    assert (await has(kernel, buyer), await owed(kernel, buyer)) == (0, 0)
    assert (await state(kernel, LOSSES))[0] == before
    await verified(kernel)
