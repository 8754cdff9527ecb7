"""Payouts: verified sellers only, money never in two places, one payment per payout."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.security import Role
from settlement import payouts
from settlement.accounts import AccountRef
from settlement.errors import RailUnavailable
from settlement.jobs import run_payouts
from settlement.rails.base import PayoutRequest
from settlement.rails.sandbox import SandboxRail
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

IN_TRANSIT = AccountRef("in_transit", None, "CNY")


def body(amount: Any = 4_000, destination: Any = "dst_success") -> dict[str, Any]:
    return {
        "money": {"amount_minor": amount, "currency": "CNY"},
        "destination": destination,
    }


@pytest.fixture
async def seller(kernel: Kernel) -> Member:
    member = await make_party(kernel, Role.SELLER)
    await fund(kernel, member.party_id, 10_000)
    return member


async def status_of(client: httpx.AsyncClient, member: Member, made: dict[str, Any]) -> str:
    answer = await client.get(f"/v1/payouts/{made['id']}", headers=member.headers())
    assert answer.status_code == 200
    status: str = answer.json()["status"]
    return status


async def test_a_payout_leaves_at_once_and_arrives(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    answer = await client.post("/v1/payouts", json=body(), headers=seller.headers())
    assert answer.status_code == 201
    made = answer.json()
    assert made["status"] == "pending"
    assert answer.headers["Location"] == f"/v1/payouts/{made['id']}"
    assert await state(kernel, available(seller.party_id)) == (6_000, 0, 2)
    in_transit = (await state(kernel, IN_TRANSIT))[0]
    assert in_transit == 4_000
    assert await run_payouts(kernel) == 1
    assert await run_payouts(kernel) == 0
    assert await status_of(client, seller, made) == "paid"
    assert (await state(kernel, IN_TRANSIT))[0] == 0
    assert await state(kernel, available(seller.party_id)) == (6_000, 0, 2)
    await verified(kernel)


async def test_the_same_key_pays_out_once(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    headers = seller.headers()
    first = await client.post("/v1/payouts", json=body(), headers=headers)
    again = await client.post("/v1/payouts", json=body(), headers=headers)
    assert again.content == first.content
    assert await state(kernel, available(seller.party_id)) == (6_000, 0, 2)
    await run_payouts(kernel)


@pytest.mark.parametrize("destination", ["dst_closed", "dst_made_up"])
async def test_a_failed_payout_brings_the_money_back(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, destination: str
) -> None:
    answer = await client.post(
        "/v1/payouts", json=body(destination=destination), headers=seller.headers()
    )
    assert await run_payouts(kernel) == 1
    shown = await client.get(answer.headers["Location"], headers=seller.headers())
    assert shown.json()["status"] == "failed"
    assert shown.json()["failure_code"] in {"account_closed", "destination_unknown"}
    assert await state(kernel, available(seller.party_id)) == (10_000, 0, 3)
    assert (await state(kernel, IN_TRANSIT))[0] == 0


async def test_a_delayed_payout_is_asked_for_again(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    made = (
        await client.post(
            "/v1/payouts", json=body(destination="dst_delayed"), headers=seller.headers()
        )
    ).json()
    assert await run_payouts(kernel) == 0
    assert await status_of(client, seller, made) == "submitted"
    assert await run_payouts(kernel) == 0
    await move_clock(kernel, timedelta(seconds=61))
    assert await run_payouts(kernel) == 1
    assert await status_of(client, seller.with_fresh_token(kernel), made) == "paid"


async def test_a_lost_answer_pays_once(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    made = (
        await client.post(
            "/v1/payouts", json=body(destination="dst_timeout"), headers=seller.headers()
        )
    ).json()
    assert await run_payouts(kernel) == 0
    assert await status_of(client, seller, made) == "submitted"
    await move_clock(kernel, timedelta(seconds=16))
    done = await together(*(run_payouts(kernel) for _ in range(3)))
    assert sum(n for n in done if isinstance(n, int)) == 1
    assert await status_of(client, seller, made) == "paid"


@pytest.mark.parametrize("moment", ["before the call", "after the call", "before the posting"])
async def test_a_worker_that_dies_anywhere_pays_once(
    client: httpx.AsyncClient,
    kernel: Kernel,
    seller: Member,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    made = (await client.post("/v1/payouts", json=body(), headers=seller.headers())).json()
    real = SandboxRail.pay_out

    async def dies(self: SandboxRail, request: PayoutRequest) -> None:
        if moment == "after the call":
            await real(self, request)
        raise KeyboardInterrupt

    async def settle_dies(*_: object) -> None:
        raise KeyboardInterrupt

    rows = await count(kernel, "sandbox_payout")
    with monkeypatch.context() as patch:
        if moment == "before the posting":
            patch.setattr(payouts, "settle", settle_dies)
        else:
            patch.setattr(SandboxRail, "pay_out", dies)
        with pytest.raises(KeyboardInterrupt):
            await run_payouts(kernel)
    assert await status_of(client, seller, made) == "submitted"
    await move_clock(kernel, timedelta(seconds=16))
    assert await run_payouts(kernel) == 1
    assert await status_of(client, seller.with_fresh_token(kernel), made) == "paid"
    assert await count(kernel, "sandbox_payout") == rows + 1
    assert await state(kernel, available(seller.party_id)) == (6_000, 0, 2)
    await verified(kernel)


async def test_more_than_the_balance_is_refused_and_remembered(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    headers = seller.headers()
    before = await count(kernel, "payout")
    first = await client.post("/v1/payouts", json=body(amount=10_001), headers=headers)
    assert (first.status_code, first.json()["code"]) == (402, "insufficient_funds")
    await fund(kernel, seller.party_id, 10_000)
    again = await client.post("/v1/payouts", json=body(amount=10_001), headers=headers)
    assert (again.status_code, again.content) == (402, first.content)
    assert await count(kernel, "payout") == before
    assert await state(kernel, available(seller.party_id)) == (20_000, 0, 2)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (body(amount=99), "amount_too_small"),
        (body(amount=0), "validation_failed"),
        (body(amount=-5), "validation_failed"),
        (body(amount=2.5), "validation_failed"),
        (body(amount=10**16), "validation_failed"),
        (body(destination="DE89370400440532013000"), "validation_failed"),
        ({**body(), "party_id": "pty_" + "0" * 32}, "validation_failed"),
    ],
)
async def test_bad_input_is_a_422_and_changes_nothing(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, bad: dict[str, Any], code: str
) -> None:
    before = await count(kernel, "payout")
    answer = await client.post("/v1/payouts", json=bad, headers=seller.headers())
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await count(kernel, "payout") == before
    assert await state(kernel, available(seller.party_id)) == (10_000, 0, 1)


async def test_only_verified_sellers_take_money_out(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    pending = await make_party(kernel, Role.SELLER, verified=False)
    await fund(kernel, pending.party_id, 10_000)
    refused = await client.post("/v1/payouts", json=body(), headers=pending.headers())
    assert refused.status_code == 403
    assert refused.json()["code"] == "party_not_verified"
    buyer = await make_party(kernel, Role.BUYER)
    refused = await client.post("/v1/payouts", json=body(), headers=buyer.headers())
    assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    assert await state(kernel, available(pending.party_id)) == (10_000, 0, 1)


async def test_foreign_payouts_do_not_exist(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    made = (await client.post("/v1/payouts", json=body(), headers=seller.headers())).json()
    stranger = await make_party(kernel, Role.SELLER)
    path = f"/v1/payouts/{made['id']}"
    refused = await client.get(path, headers=stranger.headers())
    assert (refused.status_code, refused.json()["code"]) == (404, "payout_not_found")
    assert (await client.get("/v1/payouts", headers=stranger.headers())).json()["items"] == []
    operator = await make_party(kernel, Role.OPERATOR)
    assert (await client.get(path, headers=operator.headers())).json() == made
    own = (await client.get("/v1/payouts", headers=seller.headers())).json()["items"]
    assert own == [made]
    await run_payouts(kernel)


async def test_the_sandbox_payout_is_idempotent(kernel: Kernel) -> None:
    rail = SandboxRail(kernel)
    request = PayoutRequest(new_id(), 100, "CNY", "dst_timeout")
    with pytest.raises(RailUnavailable):
        await rail.pay_out(request)
    assert (await rail.pay_out(request)).status == "succeeded"
    assert await rail.find_payout(new_id()) is None
    with pytest.raises(ValueError, match="another payout"):
        await rail.pay_out(PayoutRequest(request.key, 100, "CNY", "dst_closed"))
