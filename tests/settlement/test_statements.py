"""Reading the books: own accounts only, pages that add up, balances as of a moment."""

import itertools
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from settlement import statements
from settlement.accounts import AccountRef
from settlement.checkpoints import CHECKPOINT_TYP, checkpoint_file, write_checkpoint
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import (
    available,
    book,
    escrowed,
    fund,
    hold,
    now,
    state,
    transfer,
)


@pytest.fixture(scope="module")
async def buyer(kernel: Kernel) -> Member:
    """1,000 in, then 24 payments of 10, and 100 held."""
    member = await make_party(kernel, Role.BUYER)
    account = await fund(kernel, member.party_id, 1_000)
    for _ in range(24):
        await book(kernel, transfer(account, available(new_id()), 10))
    await book(kernel, hold(account, 100, await now(kernel) + timedelta(days=9)))
    return member


def wire(ref: AccountRef) -> str:
    return show("acc", ref.id)


async def test_an_account_shows_posted_held_and_available(
    client: httpx.AsyncClient, buyer: Member
) -> None:
    account = available(buyer.party_id)
    listed = await client.get("/v1/accounts", headers=buyer.headers())
    assert listed.json() == {
        "items": [
            {
                "id": wire(account),
                "kind": "available",
                "owner": buyer.id,
                "currency": "CNY",
                "posted_minor": 760,
                "held_minor": 100,
                "available_minor": 660,
                "posting_count": 25,
            }
        ],
        "has_more": False,
        "next_after": None,
    }
    shown = await client.get(f"/v1/accounts/{wire(account)}", headers=buyer.headers())
    assert shown.json() == listed.json()["items"][0]
    filtered = await client.get("/v1/accounts", params={"currency": "USD"}, headers=buyer.headers())
    assert filtered.json()["items"] == []


async def test_a_statement_pages_through_every_posting_once(
    client: httpx.AsyncClient, buyer: Member
) -> None:
    path = f"/v1/accounts/{wire(available(buyer.party_id))}/postings"
    rows: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 10}
    for _ in range(3):
        page = (await client.get(path, params=params, headers=buyer.headers())).json()
        rows += page["items"]
        params["after"] = page["next_after"]
    assert page["has_more"] is False
    assert [row["seq"] for row in rows] == list(range(25, 0, -1))
    assert rows[-1]["kind"] == "top_up"
    for newer, older in itertools.pairwise(rows):
        assert newer["balance_minor"] == older["balance_minor"] + newer["amount_minor"]
        assert newer["booked_at"] >= older["booked_at"]
    assert sum(row["amount_minor"] for row in rows) == 760


async def test_balance_as_of_every_posting(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    account = available(buyer.party_id)
    async with kernel.unit_of_work() as uow:
        rows = await statements.history(uow, account)
    path = f"/v1/accounts/{wire(account)}/balance"
    for row in rows:
        answer = await client.get(
            path, params={"as_of": row.booked_at.isoformat()}, headers=buyer.headers()
        )
        assert answer.json()["posted_minor"] == row.balance_minor
        assert answer.json()["posting_count"] == row.seq
    first: datetime = rows[-1].booked_at
    before = await client.get(
        path,
        params={"as_of": (first - timedelta(microseconds=1)).isoformat()},
        headers=buyer.headers(),
    )
    assert (before.json()["posted_minor"], before.json()["posting_count"]) == (0, 0)
    current = await client.get(path, headers=buyer.headers())
    assert current.json()["posted_minor"] == 760
    bad = await client.get(path, params={"as_of": "yesterday"}, headers=buyer.headers())
    assert bad.status_code == 422
    naive = await client.get(path, params={"as_of": "2026-01-01T00:00:00"}, headers=buyer.headers())
    assert naive.status_code == 422


async def test_foreign_and_platform_accounts_do_not_exist(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    stranger = await make_party(kernel, Role.SELLER)
    agreement = await escrowed(kernel, new_id(), 50)
    accounts = [
        available(buyer.party_id),
        agreement,
        AccountRef("clearing", None, "CNY"),
        available(new_id()),
    ]
    for account in accounts:
        for tail in ("", "/postings", "/balance"):
            answer = await client.get(
                f"/v1/accounts/{wire(account)}{tail}", headers=stranger.headers()
            )
            assert (answer.status_code, answer.json()["code"]) == (404, "account_not_found")
    assert (await client.get("/v1/accounts", headers=stranger.headers())).json()["items"] == []
    regulator = await make_party(kernel, Role.REGULATOR)
    for account in accounts[:3]:
        answer = await client.get(f"/v1/accounts/{wire(account)}", headers=regulator.headers())
        assert answer.json()["posted_minor"] == (await state(kernel, account))[0]
    kinds = await client.get("/v1/accounts", params={"kind": "escrow"}, headers=regulator.headers())
    assert [item["id"] for item in kinds.json()["items"]] == [wire(agreement)]
    assert kinds.json()["items"][0]["owner"].startswith("agr_")


async def test_pages_of_accounts_cover_all(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 7}
    for _ in range(100):
        page = (await client.get("/v1/accounts", params=params, headers=operator.headers())).json()
        seen += [item["id"] for item in page["items"]]
        if not page["has_more"]:
            break
        params["after"] = page["next_after"]
    assert len(seen) == len(set(seen))
    async with kernel.unit_of_work() as uow:
        total = await (await uow.raw()).fetchval("SELECT count(*) FROM settlement.account")
    assert len(seen) == total > 7


@pytest.mark.parametrize("cursor", ["x", "WyJ4Il0", "W10", "WyItMSJd"])
async def test_wrong_cursors_are_refused(
    client: httpx.AsyncClient, buyer: Member, cursor: str
) -> None:
    path = f"/v1/accounts/{wire(available(buyer.party_id))}/postings"
    for url in ("/v1/accounts", path, "/v1/top-ups", "/v1/payouts", "/v1/ledger/checkpoints"):
        answer = await client.get(url, params={"after": cursor}, headers=buyer.headers())
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


async def test_the_trial_balance_adds_up(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    await fund(kernel, new_id(), 777, "USD")
    operator = await make_party(kernel, Role.OPERATOR)
    answer = await client.get("/v1/ledger/trial-balance", headers=operator.headers())
    assert answer.status_code == 200
    sheet = answer.json()
    assert sheet["balanced"] is True
    by_currency = {item["currency"]: item for item in sheet["currencies"]}
    assert set(by_currency) == {"CNY", "USD"}
    assert by_currency["USD"]["debit_minor"] == by_currency["USD"]["credit_minor"] == 777
    cny = by_currency["CNY"]
    assert (
        cny["debit_minor"]
        == cny["credit_minor"]
        == -(await state(kernel, AccountRef("clearing", None, "CNY")))[0]
    )
    refused = await client.get("/v1/ledger/trial-balance", headers=buyer.headers())
    assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    assert (await client.get("/v1/ledger/trial-balance")).status_code == 401


async def test_checkpoints_are_public_signed_and_kept_outside(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    assert await write_checkpoint(kernel) == 1
    await fund(kernel, new_id(), 5)
    # A crash in the middle of an append leaves half a line; nothing may be lost behind it.
    path = checkpoint_file(kernel)
    with path.open("ab") as file:
        file.write(b'{"number":99,"jw')
    assert await write_checkpoint(kernel) == 1
    assert await write_checkpoint(kernel) == 0
    page = (await client.get("/v1/ledger/checkpoints")).json()
    numbers = [item["number"] for item in page["items"]]
    assert len(numbers) == 2
    assert numbers[0] > numbers[1]
    for item in page["items"]:
        claims = kernel.keys.verify(CHECKPOINT_TYP, item["jws"])
        assert (claims["number"], claims["hash"]) == (item["number"], item["hash"])
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert page["items"][0]["jws"].encode() in lines[2]
    assert page["items"][1]["jws"].encode() in lines[0]


async def test_a_wiped_file_is_written_again(kernel: Kernel, buyer: Member) -> None:
    await write_checkpoint(kernel)
    path = checkpoint_file(kernel)
    whole = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    path.unlink()
    assert await write_checkpoint(kernel) == 0
    assert path.read_bytes().splitlines() == whole
