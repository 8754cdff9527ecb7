"""The fee schedule over HTTP: who may decide, what holds when, what everybody sees."""

from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.security import Role
from settlement.fees import Fee, fees_in_force
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import now

PATH = "/v1/fee-schedules"


@pytest.fixture(scope="module")
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


def fee(**changes: Any) -> dict[str, Any]:
    body = {
        "category": None,
        "currency": "CNY",
        "fee_ppm": 40_000,
        "minimum_minor": 100,
        "cap_minor": 5_000,
        "vat_ppm": 60_000,
        "reason": "autumn tariff",
    }
    return {**body, **changes}


async def decide(client: httpx.AsyncClient, operator: Member, **changes: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json=fee(**changes), headers=operator.headers())
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def in_force(
    kernel: Kernel, category: str, currency: str, ahead: timedelta = timedelta()
) -> Fee:
    async with kernel.unit_of_work() as uow:
        pair = (category, currency)
        return (await fees_in_force(uow, kernel.settings, [pair], at=uow.now + ahead))[pair]


async def test_without_a_schedule_the_standard_rate_holds(kernel: Kernel) -> None:
    assert await in_force(kernel, "weather", "JPY") == Fee(None, 50_000, 0, None, 60_000)


async def test_a_category_comes_before_the_default_and_the_newest_begun_holds(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await decide(client, operator, currency="EUR", fee_ppm=10_000)
    await decide(client, operator, currency="EUR", category="energy", fee_ppm=20_000)
    later = (await now(kernel)) + timedelta(days=10)
    await decide(client, operator, currency="EUR", fee_ppm=30_000, effective_from=later.isoformat())
    assert (await in_force(kernel, "energy", "EUR")).fee_ppm == 20_000
    assert (await in_force(kernel, "health", "EUR")).fee_ppm == 10_000
    ahead = timedelta(days=11)
    assert (await in_force(kernel, "health", "EUR", ahead)).fee_ppm == 30_000
    assert (await in_force(kernel, "energy", "EUR", ahead)).fee_ppm == 20_000
    assert (await in_force(kernel, "health", "USD")).fee_ppm == 50_000


async def test_the_schedule_is_public_but_its_reasons_are_for_oversight(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    made = await decide(client, operator, currency="GBP", reason="agreed with the board")
    assert made["reason"] == "agreed with the board"
    assert made["set_by"] == operator.id
    public = (await client.get(PATH, params={"currency": "GBP"})).json()["items"]
    assert [(row["id"], row["reason"], row["set_by"]) for row in public] == [
        (made["id"], None, None)
    ]
    regulator = await make_party(kernel, Role.REGULATOR)
    seen = await client.get(PATH, params={"currency": "GBP"}, headers=regulator.headers())
    assert seen.json()["items"] == [made]


async def test_a_page_is_bounded_and_leads_on(client: httpx.AsyncClient, operator: Member) -> None:
    made = [await decide(client, operator, currency="SEK", fee_ppm=n) for n in (1, 2, 3)]
    first = (await client.get(PATH, params={"currency": "SEK", "limit": 2})).json()
    assert [row["fee_ppm"] for row in first["items"]] == [3, 2]
    after = {"currency": "SEK", "limit": 2, "after": first["next_after"]}
    last = (await client.get(PATH, params=after)).json()
    assert last["items"][0]["id"] == made[0]["id"]
    assert not last["has_more"]


async def test_refusals_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    seller = await make_party(kernel, Role.SELLER)
    past = (await now(kernel) - timedelta(hours=1)).isoformat()
    for body, member, status, code in (
        (fee(currency="NOK"), seller, 403, "role_required"),
        (fee(currency="NOK", effective_from=past), operator, 422, "fee_backdated"),
        (fee(currency="NOK", minimum_minor=9, cap_minor=8), operator, 422, "validation_failed"),
        (fee(currency="NOK", fee_ppm=1_000_000), operator, 422, "validation_failed"),
        (fee(currency="NOK", reason=""), operator, 422, "validation_failed"),
    ):
        answer = await client.post(PATH, json=body, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await client.get(PATH, params={"currency": "NOK"})).json()["items"] == []


async def test_a_preview_shows_fee_and_the_tax_in_it(
    client: httpx.AsyncClient, operator: Member
) -> None:
    await decide(client, operator, currency="CHF", category="finance")
    asked: dict[str, str | int] = {"category": "finance", "currency": "CHF", "amount_minor": 26_500}
    shown = (await client.get(f"{PATH}/preview", params=asked)).json()
    assert (shown["fee_minor"], shown["net_minor"]) == (1_060, 25_440)
    assert (shown["fee_without_tax_minor"], shown["fee_tax_minor"]) == (1_000, 60)
    for amount, expected in ((50, 50), (1_000, 100), (10**6, 5_000)):
        asked["amount_minor"] = amount
        shown = (await client.get(f"{PATH}/preview", params=asked)).json()
        assert shown["fee_minor"] == expected


async def test_a_decided_fee_cannot_be_changed_or_removed(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await decide(client, operator, currency="DKK")
    for statement in (
        "UPDATE settlement.fee_schedule SET fee_ppm = 1",
        "DELETE FROM settlement.fee_schedule",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with kernel.unit_of_work() as uow:
                await (await uow.raw()).execute(statement)
    assert (await in_force(kernel, "other", "DKK")).fee_ppm == 40_000
