"""Top-ups over HTTP: one credit per key whatever happens, declines remembered, own ones only."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from settlement import chargebacks, top_ups
from settlement.accounts import AccountRef
from settlement.errors import RailUnavailable
from settlement.jobs import run_chargebacks, run_top_ups
from settlement.rails.base import Chargeback, ChargeRequest
from settlement.rails.choice import rail_of
from settlement.rails.sandbox import SandboxRail
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import (
    available,
    book,
    count,
    move_clock,
    state,
    together,
    transfer,
    verified,
)


def body(amount: Any = 5_000, card: Any = "tok_success", currency: Any = "CNY") -> dict[str, Any]:
    return {"money": {"amount_minor": amount, "currency": currency}, "card": card}


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


async def test_a_good_card_credits_the_balance(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    answer = await client.post("/v1/top-ups", json=body(), headers=buyer.headers())
    assert answer.status_code == 201
    made = answer.json()
    assert made["status"] == "succeeded"
    assert made["money"] == {"amount_minor": 5_000, "currency": "CNY"}
    assert made["party_id"] == buyer.id
    assert "card" not in made
    assert answer.headers["Location"] == f"/v1/top-ups/{made['id']}"
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)
    shown = await client.get(answer.headers["Location"], headers=buyer.headers())
    assert shown.json() == made
    listed = await client.get("/v1/top-ups", headers=buyer.headers())
    assert listed.json()["items"] == [made]


async def test_the_same_key_gives_the_same_answer_and_one_credit(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    headers = buyer.headers()
    first = await client.post("/v1/top-ups", json=body(), headers=headers)
    again = await client.post("/v1/top-ups", json=body(), headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await client.post("/v1/top-ups", json=body(amount=6_000), headers=headers)
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


async def test_one_key_many_times_at_once_is_one_credit(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    headers = buyer.headers()
    answers = await asyncio.gather(
        *(client.post("/v1/top-ups", json=body(), headers=headers) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    final = await client.post("/v1/top-ups", json=body(), headers=headers)
    assert final.status_code == 201
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("tok_declined", "card_declined"),
        ("tok_insufficient_funds", "insufficient_funds"),
        ("tok_authentication_required", "authentication_required"),
        ("tok_made_up", "card_unknown"),
    ],
)
async def test_a_declined_card_is_a_402_and_remembered(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, card: str, reason: str
) -> None:
    headers = buyer.headers()
    first = await client.post("/v1/top-ups", json=body(card=card), headers=headers)
    assert first.status_code == 402
    problem = first.json()
    assert (problem["code"], problem["failure_code"]) == ("card_declined", reason)
    again = await client.post("/v1/top-ups", json=body(card=card), headers=headers)
    assert (again.status_code, again.content) == (402, first.content)
    kept = await client.get(f"/v1/top-ups/{problem['top_up_id']}", headers=buyer.headers())
    assert (kept.json()["status"], kept.json()["failure_code"]) == ("failed", reason)
    assert await state(kernel, available(buyer.party_id)) == (0, 0, 0)
    assert len((await client.get("/v1/top-ups", headers=buyer.headers())).json()["items"]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        body(amount=0),
        body(amount=-1),
        body(amount=10**15 + 1),
        body(amount=1.5),
        body(amount="100"),
        body(amount=True),
        body(amount=None),
        body(currency="cny"),
        body(currency="XXX"),
        body(card="4242424242424242"),
        body(card=""),
        body(card=7),
        {**body(), "status": "succeeded"},
        {"money": {"amount_minor": 1, "currency": "CNY", "exponent": 0}, "card": "tok_success"},
        {"card": "tok_success"},
        [],
    ],
)
async def test_bad_input_is_a_422_and_changes_nothing(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, bad: object
) -> None:
    before = await count(kernel, "top_up")
    answer = await client.post("/v1/top-ups", json=bad, headers=buyer.headers())
    assert answer.status_code == 422
    assert answer.json()["code"] == "validation_failed"
    assert await count(kernel, "top_up") == before


async def test_nan_and_huge_numbers_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    before = await count(kernel, "top_up")
    for number in ("NaN", "Infinity", "1e3", "9" * 400, "1.0"):
        text = f'{{"money":{{"amount_minor":{number},"currency":"CNY"}},"card":"tok_success"}}'
        headers = {**buyer.headers(), "Content-Type": "application/json"}
        answer = await client.post("/v1/top-ups", content=text, headers=headers)
        assert answer.status_code in {400, 422}, number
    assert await count(kernel, "top_up") == before


async def test_foreign_top_ups_do_not_exist(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    made = (await client.post("/v1/top-ups", json=body(), headers=buyer.headers())).json()
    stranger = await make_party(kernel, Role.SELLER)
    path = f"/v1/top-ups/{made['id']}"
    refused = await client.get(path, headers=stranger.headers())
    assert (refused.status_code, refused.json()["code"]) == (404, "top_up_not_found")
    assert (await client.get("/v1/top-ups", headers=stranger.headers())).json()["items"] == []
    regulator = await make_party(kernel, Role.REGULATOR)
    assert (await client.get(path, headers=regulator.headers())).json() == made
    assert (await client.get(path)).status_code == 401
    forbidden = await client.post("/v1/top-ups", json=body(), headers=regulator.headers())
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "role_required")


async def test_a_delayed_card_is_settled_by_the_job(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    good = await client.post("/v1/top-ups", json=body(card="tok_delayed"), headers=buyer.headers())
    bad = await client.post(
        "/v1/top-ups", json=body(card="tok_delayed_declined"), headers=buyer.headers()
    )
    assert (good.status_code, good.json()["status"]) == (201, "pending")
    assert (bad.status_code, bad.json()["status"]) == (201, "pending")
    assert await run_top_ups(kernel) == 0
    await move_clock(kernel, timedelta(seconds=31))
    member = buyer.with_fresh_token(kernel)
    assert await run_top_ups(kernel) == 2
    assert await run_top_ups(kernel) == 0
    paths = [f"/v1/top-ups/{answer.json()['id']}" for answer in (good, bad)]
    states = [(await client.get(path, headers=member.headers())).json() for path in paths]
    assert [item["status"] for item in states] == ["succeeded", "failed"]
    assert states[1]["failure_code"] == "card_declined"
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


async def test_a_lost_answer_is_found_again(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    """The rail charged, its answer got lost: pending now, credited once by whoever asks next."""
    answer = await client.post(
        "/v1/top-ups", json=body(card="tok_timeout"), headers=buyer.headers()
    )
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")
    await move_clock(kernel, timedelta(seconds=31))
    done = await together(*(run_top_ups(kernel) for _ in range(3)))
    assert sum(n for n in done if isinstance(n, int)) == 1
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


async def test_a_request_that_died_before_the_charge_is_continued(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(self: SandboxRail, request: ChargeRequest) -> None:
        raise RuntimeError("killed")

    headers = buyer.headers()
    with monkeypatch.context() as patch:
        patch.setattr(SandboxRail, "charge", dies)
        assert (await client.post("/v1/top-ups", json=body(), headers=headers)).status_code == 500
    again = await client.post("/v1/top-ups", json=body(), headers=headers)
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert len((await client.get("/v1/top-ups", headers=headers)).json()["items"]) == 1
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


async def test_a_request_that_died_is_finished_by_the_job(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise RuntimeError("killed")

    headers = buyer.headers()
    with monkeypatch.context() as patch:
        patch.setattr(top_ups, "settle", dies)
        assert (await client.post("/v1/top-ups", json=body(), headers=headers)).status_code == 500
    different = await client.post("/v1/top-ups", json=body(amount=1), headers=headers)
    assert (different.status_code, different.json()["code"]) == (422, "idempotency_key_reused")
    await move_clock(kernel, timedelta(seconds=31))
    assert await run_top_ups(kernel) == 1
    again = await client.post(
        "/v1/top-ups",
        json=body(),
        headers={**buyer.with_fresh_token(kernel).headers(headers["Idempotency-Key"])},
    )
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert await state(kernel, available(buyer.party_id)) == (5_000, 0, 1)


async def test_a_chargeback_takes_the_money_and_leaves_the_rest_as_debt(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    answer = await client.post(
        "/v1/top-ups", json=body(card="tok_chargeback"), headers=buyer.headers()
    )
    assert answer.json()["status"] == "succeeded"
    account, elsewhere = available(buyer.party_id), available(new_id())
    await book(kernel, transfer(account, elsewhere, 3_500))
    clearing = AccountRef("clearing", None, "CNY")
    before = (await state(kernel, clearing))[0]
    assert await run_chargebacks(kernel) == 0
    await move_clock(kernel, timedelta(seconds=61))
    done = await together(*(run_chargebacks(kernel) for _ in range(3)))
    assert sum(n for n in done if isinstance(n, int)) == 1
    assert await state(kernel, account) == (0, 0, 3)
    debt = AccountRef("receivable", buyer.party_id, "CNY")
    assert (await state(kernel, debt))[0] == -3_500
    assert (await state(kernel, clearing))[0] - before == 5_000
    top_up_id = parse("top", answer.json()["id"])
    again = Chargeback(top_up_id.hex, top_up_id, 5_000, 1)
    assert await chargebacks.take(kernel, "sandbox", again) is False
    assert await run_chargebacks(kernel) == 0
    await verified(kernel)


async def test_the_sandbox_rail_is_idempotent_and_refuses_a_changed_request(
    kernel: Kernel,
) -> None:
    rail = SandboxRail(kernel)
    request = ChargeRequest(new_id(), 100, "CNY", "tok_timeout", new_id())
    with pytest.raises(RailUnavailable):
        await rail.charge(request)
    assert (await rail.charge(request)).status == "succeeded"
    found = await rail.find_charge(request.key)
    assert found is not None
    assert found.status == "succeeded"
    assert await rail.find_charge(new_id()) is None
    with pytest.raises(ValueError, match="another charge"):
        await rail.charge(replace(request, amount_minor=101))
    with pytest.raises(AssertionError, match="unit of work"):
        async with kernel.unit_of_work():
            await rail.charge(request)


async def test_there_is_no_sandbox_money_in_production(kernel: Kernel) -> None:
    settings = kernel.settings.model_copy(update={"environment": "production"})
    production = type(kernel)(
        settings=settings,
        clock=kernel.clock,
        db=kernel.db,
        redis=kernel.redis,
        blobs=kernel.blobs,
        keys=kernel.keys,
        limits=kernel.limits,
    )
    with pytest.raises(RailUnavailable):
        rail_of(production)
