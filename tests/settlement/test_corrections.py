"""Corrections: a reason, two operators, a new transfer; nothing booked is changed."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from settlement.accounts import AccountRef
from settlement.commands import Applied
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import (
    available,
    book,
    count,
    fund,
    now,
    state,
    together,
    transfer,
    verified,
)

PATH = "/v1/ledger/corrections"


@pytest.fixture(scope="module")
async def first(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


@pytest.fixture(scope="module")
async def second(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


def legs(*pairs: tuple[AccountRef, int]) -> list[dict[str, Any]]:
    return [{"account_id": show("acc", ref.id), "amount_minor": amount} for ref, amount in pairs]


async def approve(client: httpx.AsyncClient, member: Member, correction: str) -> httpx.Response:
    return await client.post(f"{PATH}/{correction}/approval", headers=member.headers())


async def test_a_correction_needs_two_operators_and_is_booked_once(
    client: httpx.AsyncClient, kernel: Kernel, first: Member, second: Member
) -> None:
    wrong, right = await fund(kernel, new_id(), 500), await fund(kernel, new_id(), 1)
    before = await now(kernel) - timedelta(days=40)
    body = {
        "reason": "Top-up credited to the wrong party",
        "legs": legs((wrong, -500), (right, 500)),
        "event_at": before.isoformat(),
    }
    proposed = await client.post(PATH, json=body, headers=first.headers())
    assert proposed.status_code == 201, proposed.text
    view = proposed.json()
    assert (view["proposed_by"], view["approved_by"], view["transfer_id"]) == (first.id, None, None)
    assert await state(kernel, wrong) == (500, 0, 1)
    own = await approve(client, first, view["id"])
    assert (own.status_code, own.json()["code"]) == (409, "second_operator_required")
    assert await state(kernel, wrong) == (500, 0, 1)
    answers = await together(*(approve(client, second, view["id"]) for _ in range(3)))
    statuses = sorted(a.status_code for a in answers if isinstance(a, httpx.Response))
    assert statuses == [201, 409, 409]
    assert (await state(kernel, wrong), await state(kernel, right)) == ((0, 0, 2), (501, 0, 2))
    shown = (await client.get(f"{PATH}/{view['id']}", headers=first.headers())).json()
    assert shown["approved_by"] == second.id
    assert shown["reason"] == "Top-up credited to the wrong party"
    postings = await client.get(
        f"/v1/accounts/{show('acc', right.id)}/postings", headers=first.headers()
    )
    newest = postings.json()["items"][0]
    assert (newest["kind"], newest["amount_minor"]) == ("correction", 500)
    assert newest["transfer_id"] == shown["transfer_id"]
    assert newest["event_at"] == before.isoformat().replace("+00:00", "Z")
    listed = (await client.get(PATH, headers=first.headers())).json()["items"]
    assert listed[0] == shown
    await verified(kernel)


async def test_a_transfer_is_taken_back_completely(
    client: httpx.AsyncClient, kernel: Kernel, first: Member, second: Member
) -> None:
    source, target = await fund(kernel, new_id(), 300), available(new_id())
    (done,) = await book(kernel, transfer(source, target, 300))
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    body = {"reason": "Paid twice", "reverses": show("txn", done.transfer_id)}
    ids = []
    for _ in range(2):
        answer = await client.post(PATH, json=body, headers=first.headers())
        assert answer.json()["legs"] == sorted(
            legs((source, 300), (target, -300)), key=lambda leg: leg["account_id"]
        )
        ids.append(answer.json()["id"])
    assert (await approve(client, second, ids[0])).status_code == 201
    assert (await state(kernel, source), await state(kernel, target)) == ((300, 0, 3), (0, 0, 2))
    again = await approve(client, second, ids[1])
    assert (again.status_code, again.json()["code"]) == (409, "already_reversed")
    assert (await state(kernel, source))[0] == 300


async def test_what_is_no_transfer_is_not_even_proposed(
    client: httpx.AsyncClient, kernel: Kernel, first: Member
) -> None:
    one, two = await fund(kernel, new_id(), 10), await fund(kernel, new_id(), 10)
    dollars = await fund(kernel, new_id(), 10, "USD")
    tomorrow = (await now(kernel) + timedelta(days=1)).isoformat()
    good = legs((one, -5), (two, 5))
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"legs": legs((one, -5), (two, 4))}, 422, "correction_invalid"),
        ({"legs": legs((one, -5), (dollars, 5))}, 422, "correction_invalid"),
        ({"legs": legs((one, -5), (one, 5))}, 422, "correction_invalid"),
        ({"legs": legs((one, -5), (available(new_id()), 5))}, 404, "account_not_found"),
        ({"reverses": show("txn", new_id())}, 404, "transfer_not_found"),
        ({"legs": good, "event_at": tomorrow}, 422, "correction_invalid"),
        ({}, 422, "validation_failed"),
        ({"legs": good, "reverses": show("txn", new_id())}, 422, "validation_failed"),
        ({"legs": good, "reason": " "}, 422, "validation_failed"),
    ]
    before = await count(kernel, "correction")
    for change, status, code in cases:
        body = {"reason": "test", **change}
        answer = await client.post(PATH, json=body, headers=first.headers())
        assert (answer.status_code, answer.json()["code"]) == (status, code), change
    assert await count(kernel, "correction") == before


async def test_a_correction_cannot_overdraw(
    client: httpx.AsyncClient, kernel: Kernel, first: Member, second: Member
) -> None:
    poor, other = await fund(kernel, new_id(), 10), await fund(kernel, new_id(), 10)
    body = {"reason": "too much", "legs": legs((poor, -11), (other, 11))}
    made = (await client.post(PATH, json=body, headers=first.headers())).json()
    answer = await approve(client, second, made["id"])
    assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_funds")
    assert (await state(kernel, poor), await state(kernel, other)) == ((10, 0, 1), (10, 0, 1))
    # It stays a proposal, for when the money is there.
    await book(kernel, transfer(other, poor, 1))
    assert (await approve(client, second, made["id"])).status_code == 201


async def test_corrections_are_for_operators(
    client: httpx.AsyncClient, kernel: Kernel, first: Member
) -> None:
    buyer, regulator = (
        await make_party(kernel, Role.BUYER),
        await make_party(kernel, Role.REGULATOR),
    )
    assert (await client.get(PATH, headers=buyer.headers())).status_code == 403
    assert (await client.get(PATH, headers=regulator.headers())).status_code == 200
    for member in (buyer, regulator):
        answer = await client.post(PATH, json={"reason": "x"}, headers=member.headers())
        assert answer.status_code == 403
    unknown = await client.get(f"{PATH}/{show('cor', new_id())}", headers=first.headers())
    assert (unknown.status_code, unknown.json()["code"]) == (404, "correction_not_found")
    gone = await approve(client, first, show("cor", new_id()))
    assert (gone.status_code, gone.json()["code"]) == (404, "correction_not_found")
