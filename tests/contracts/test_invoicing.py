"""Invoices from real releases: amounts, numbers, rights, credit notes, and the ledger's words."""

import asyncio
import csv
import io
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from sqlmodel import col, select

from contracts import invoicing
from contracts.billing_models import ReleaseRecord
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.operations.sandbox import AdvanceClock, advance_clock
from pricing.billing_schemas import TaxDeclarationInput
from pricing.taxes import declare_tax
from settlement.accounts import AccountRef
from settlement.billing_models import Invoice
from tests.contracts.factories import Trade, make_agreement, make_trade
from tests.listings.factories import any_operator
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, move_clock, now, state, together, verified

PRICE = 106_000
FEE = 5_300


@dataclass(frozen=True)
class World:
    """One seller and two of its deals, both accepted in a month that is over and invoiced."""

    trade: Trade
    others: list[str]
    operator: Member
    month: str
    seller: Member
    buyer: Member


async def to_next_month(kernel: Kernel) -> None:
    moment = await now(kernel)
    first = (moment.replace(day=1) + timedelta(days=32)).replace(day=1, hour=2, minute=0)
    await advance_clock(
        kernel, any_operator(), AdvanceClock(seconds=int((first - moment).total_seconds()))
    )


async def accept(client: httpx.AsyncClient, kernel: Kernel, trade: Trade, agreement: str) -> None:
    buyer = trade.buyer.with_fresh_token(kernel)
    answer = await client.post(f"/v1/agreements/{agreement}/accept", headers=buyer.headers())
    assert answer.status_code == 200, answer.text


async def run_invoicing(kernel: Kernel) -> int:
    issued = 0
    for _ in range(10):
        issued += await invoicing.issue_invoices(kernel)
    return issued


async def issue_one_and_fail(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        first = await invoicing._due(uow)
        assert first is not None
        groups = await invoicing._groups(await uow.raw(), first)
        assert await invoicing._issue(uow, kernel, groups[0]) == 1
        raise RuntimeError("power cut")


async def add_a_line(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        await connection.execute(
            "INSERT INTO settlement.invoice_line SELECT invoice_id, 199, agreement_id, item, "
            "tax_ppm, 1, 0, 1, NULL FROM settlement.invoice_line LIMIT 1"
        )
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.fixture
def world(kernel: Kernel, closed_month: World) -> World:
    """The same with tokens that the moved clock has not ended."""
    return replace(
        closed_month,
        operator=closed_month.operator.with_fresh_token(kernel),
        seller=closed_month.seller.with_fresh_token(kernel),
        buyer=closed_month.buyer.with_fresh_token(kernel),
    )


@pytest.fixture(scope="module")
async def closed_month(client: httpx.AsyncClient, kernel: Kernel) -> World:
    # At the start of a month: the deals must not straddle its end.
    await to_next_month(kernel)
    trade = await make_trade(kernel, kind="license", price_minor=PRICE)
    await declare_tax(kernel, trade.seller.actor, TaxDeclarationInput(rate_ppm=60_000))
    made = [
        await make_agreement(kernel, trade.buyer, trade.seller, trade.plan, price_minor=price)
        for price in (PRICE, 333)
    ]
    # The first was formed before the declaration: its frozen rate is 0.
    ids = [trade.id, *(show("agr", agreement.id) for agreement in made)]
    for agreement in ids:
        await accept(client, kernel, trade, agreement)
    month = f"{await now(kernel):%Y-%m}"
    assert await run_invoicing(kernel) == 0
    await to_next_month(kernel)
    runs = await together(invoicing.issue_invoices(kernel), invoicing.issue_invoices(kernel))
    assert [run for run in runs if not isinstance(run, int)] == []
    assert sum(run for run in runs if isinstance(run, int)) == 2
    assert await run_invoicing(kernel) == 0
    operator = await make_party(kernel, Role.OPERATOR)
    return World(
        trade, ids, operator, month,
        trade.seller.with_fresh_token(kernel), trade.buyer.with_fresh_token(kernel),
    )  # fmt: skip


async def listed(client: httpx.AsyncClient, member: Member, **params: str) -> list[dict[str, Any]]:
    answer = await client.get("/v1/invoices", params=params, headers=member.headers())
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def whole(client: httpx.AsyncClient, member: Member, supply: str) -> dict[str, Any]:
    found = await listed(client, member, supply=supply, kind="invoice")
    answer = await client.get(f"/v1/invoices/{found[0]['id']}", headers=member.headers())
    view: dict[str, Any] = answer.json()
    return view


async def test_a_month_gives_the_buyer_one_invoice_with_a_line_per_agreement(
    client: httpx.AsyncClient, world: World
) -> None:
    assert len(await listed(client, world.buyer)) == 1
    invoice = await whole(client, world.buyer, "data")
    assert invoice["period_start"] == f"{world.month}-01"
    assert (invoice["issuer"]["id"], invoice["recipient"]["id"]) == (
        world.seller.id,
        world.buyer.id,
    )
    lines = {line["agreement_id"]: line for line in invoice["lines"]}
    amounts = [
        (lines[key]["tax_ppm"], lines[key]["without_tax_minor"], lines[key]["tax_minor"])
        for key in world.others
    ]
    assert amounts == [(0, PRICE, 0), (60_000, 100_000, 6_000), (60_000, 314, 19)]
    assert invoice["total_minor"] == 2 * PRICE + 333
    assert invoice["without_tax_minor"] + invoice["tax_minor"] == invoice["total_minor"]


async def test_the_exchange_invoices_its_fee_with_its_tax(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    invoice = await whole(client, world.seller, "fee")
    assert (invoice["issuer"]["id"], invoice["recipient"]["id"]) == (None, world.seller.id)
    assert invoice["total_minor"] == 2 * FEE + 17
    assert [line["without_tax_minor"] for line in invoice["lines"]][:2] == [5_000, 5_000]
    async with kernel.unit_of_work() as uow:
        records = list(
            await uow.session.exec(
                select(ReleaseRecord).where(ReleaseRecord.seller_id == world.seller.party_id)
            )
        )
    assert sum(row.fee_minor for row in records) == invoice["total_minor"]
    assert sum(row.amount_minor for row in records) == 2 * PRICE + 333


async def test_only_the_two_parties_and_overseers_see_an_invoice(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    data, fee = [await whole(client, world.seller, kind) for kind in ("data", "fee")]
    stranger = await make_party(kernel, Role.BUYER)
    regulator = await make_party(kernel, Role.REGULATOR)
    for member, seen in (
        (world.seller, (200, 200)),
        (world.buyer, (200, 404)),
        (stranger, (404, 404)),
        (world.operator, (200, 200)),
        (regulator, (200, 200)),
    ):
        got = [
            (await client.get(f"/v1/invoices/{item['id']}", headers=member.headers())).status_code
            for item in (data, fee)
        ]
        assert tuple(got) == seen
    assert await listed(client, stranger) == []


async def test_numbers_have_no_gap_even_after_a_failed_issue(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    buyers = [await make_party(kernel, Role.BUYER) for _ in range(3)]
    for buyer in buyers:
        made = await make_agreement(kernel, buyer, world.trade.seller, world.trade.plan)
        trade = Trade(buyer, world.trade.seller, world.trade.plan, made, made.id)
        await accept(client, kernel, trade, show("agr", made.id))
    await to_next_month(kernel)
    with pytest.raises(RuntimeError, match="power cut"):
        await issue_one_and_fail(kernel)
    assert await run_invoicing(kernel) == 4
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(select(Invoice).order_by(col(Invoice.id))))
    series: dict[tuple[object, int], list[int]] = {}
    for row in rows:
        series.setdefault((row.issuer_id, row.year), []).append(row.number)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in series.values())
    assert sum(len(numbers) for numbers in series.values()) >= 6


async def test_an_issued_invoice_cannot_be_changed(kernel: Kernel, world: World) -> None:
    for statement in (
        "UPDATE settlement.invoice SET total_minor = total_minor + 1",
        "DELETE FROM settlement.invoice_line",
        "UPDATE settlement.invoice_series SET last_number = 0",
        "INSERT INTO settlement.invoice_series VALUES (gen_random_uuid(), 2026, 9)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with kernel.unit_of_work() as uow:
                await (await uow.raw()).execute(statement)


async def test_a_line_cannot_be_added_to_an_issued_invoice(kernel: Kernel, world: World) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="add up"):
        await add_a_line(kernel)


async def test_credit_notes_pay_back_and_never_exceed_the_line(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    invoice = await whole(client, world.buyer, "data")
    line = next(item for item in invoice["lines"] if item["total_minor"] == 333)
    path = f"/v1/invoices/{invoice['id']}/credit-notes"
    buyer_before = (await state(kernel, available(world.buyer.party_id)))[0]
    taken = []
    for amount in (100, 200, 33):
        body = {"position": line["position"], "amount_minor": amount, "reason": "gaps in May"}
        answer = await client.post(path, json=body, headers=world.seller.headers())
        assert answer.status_code == 201, answer.text
        note = answer.json()
        assert (note["kind"], note["corrects"]) == ("credit_note", invoice["id"])
        assert note["total_minor"] == amount
        taken.append((note["without_tax_minor"], note["tax_minor"]))
    assert sum(tax for _, tax in taken) == line["tax_minor"] == 19
    assert sum(without for without, _ in taken) == line["without_tax_minor"]
    assert (await state(kernel, available(world.buyer.party_id)))[0] == buyer_before + 333
    body = {"position": line["position"], "amount_minor": 1, "reason": "once more"}
    more = await client.post(path, json=body, headers=world.seller.headers())
    assert (more.status_code, more.json()["code"]) == (409, "credit_exceeded")
    assert more.json()["remaining_minor"] == 0
    for member in (world.buyer, world.operator):
        refused = await client.post(path, json=body, headers=member.headers())
        assert (refused.status_code, refused.json()["code"]) == (404, "invoice_not_found")
    again = f"/v1/invoices/{note['id']}/credit-notes"
    refused = await client.post(again, json=body, headers=world.seller.headers())
    assert refused.json()["code"] == "not_creditable"
    await verified(kernel)


async def test_two_credits_at_once_cannot_take_the_same_rest(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    invoice = await whole(client, world.seller, "fee")
    line = invoice["lines"][0]
    path = f"/v1/invoices/{invoice['id']}/credit-notes"
    body = {
        "position": line["position"],
        "amount_minor": line["total_minor"] - 1,
        "reason": "fee waived",
    }
    fees = AccountRef("fees", None, "CNY")
    before = (await state(kernel, fees))[0]
    answers = await asyncio.gather(
        *(client.post(path, json=body, headers=world.operator.headers()) for _ in range(3))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    assert (await state(kernel, fees))[0] == before - (line["total_minor"] - 1)


async def test_csv_and_html_carry_the_same_figures_and_escape(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    title = '=cmd|"<script>alert(1)</script>"'
    profile = {"title": title, "tax_number": "91310000MA1FL0X00X", "bank_name": "招商银行"}
    put = await client.put(
        "/v1/billing-profile",
        json=profile,
        headers={"Authorization": f"Bearer {world.seller.token}"},
    )
    assert put.status_code == 200, put.text
    invoice = await whole(client, world.seller, "fee")
    path = f"/v1/invoices/{invoice['id']}"
    line = invoice["lines"][0]
    body = {"position": line["position"], "amount_minor": 1, "reason": "<b>rest</b>"}
    made = await client.post(f"{path}/credit-notes", json=body, headers=world.operator.headers())
    note = f"/v1/invoices/{made.json()['id']}"
    sheet = await client.get(note, params={"format": "csv"}, headers=world.seller.headers())
    assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(sheet.content.decode("utf-8-sig")))
    assert row["recipient"] == f"'{title}"
    assert (row["total_minor"], row["recipient_tax_number"]) == ("1", profile["tax_number"])
    for language, word in (("en", "Credit note"), ("zh", "红字账单")):
        asked = {"format": "html", "language": language}
        page = await client.get(note, params=asked, headers=world.seller.headers())
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert word in page.text
        assert "-0.01 CNY" in page.text
        assert "&lt;b&gt;rest&lt;/b&gt;" in page.text
        assert "<script" not in page.text
        assert "招商银行" in page.text
    old = await client.get(path, headers=world.seller.headers())
    assert old.json()["recipient"]["title"] != title


async def test_a_months_statement_equals_the_postings(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    path = f"/v1/statements/{world.month}"
    statement = (await client.get(path, headers=world.seller.headers())).json()
    assert statement["final"] is True
    (account,) = statement["accounts"]
    assert account["opening_minor"] == 0
    assert [line["kind"] for line in account["movements"]] == ["release"]
    released = 2 * (PRICE - FEE) + 333 - 17
    assert account["closing_minor"] == released
    assert account["movements"][0] == {
        "kind": "release",
        "postings": 3,
        "credit_minor": released,
        "debit_minor": 0,
        "net_minor": released,
    }
    postings = f"/v1/accounts/{account['account_id']}/postings"
    rows = (await client.get(postings, headers=world.seller.headers())).json()["items"]
    inside = [row for row in rows if account["first_seq"] <= row["seq"] <= account["last_seq"]]
    assert sum(row["amount_minor"] for row in inside) == released
    await move_clock(kernel, timedelta(seconds=1))
    current = f"/v1/statements/{await now(kernel):%Y-%m}"
    running = (await client.get(current, headers=world.seller.headers())).json()
    assert running["final"] is False
    for item in running["accounts"]:
        moved = sum(line["net_minor"] for line in item["movements"])
        assert item["opening_minor"] + moved == item["closing_minor"]
        assert item["closing_minor"] == (await state(kernel, available(world.seller.party_id)))[0]


async def test_a_statement_is_its_partys_own(
    client: httpx.AsyncClient, kernel: Kernel, world: World
) -> None:
    path = f"/v1/statements/{world.month}"
    asked = {"party_id": world.seller.id}
    refused = await client.get(path, params=asked, headers=world.buyer.headers())
    assert (refused.status_code, refused.json()["code"]) == (404, "party_not_found")
    seen = await client.get(path, params=asked, headers=world.operator.headers())
    assert seen.json()["party_id"] == world.seller.id
    future = await client.get("/v1/statements/2099-12", headers=world.buyer.headers())
    assert (future.status_code, future.json()["code"]) == (422, "month_unknown")
    sheet = await client.get(path, params={"format": "csv"}, headers=world.buyer.headers())
    rows = list(csv.DictReader(io.StringIO(sheet.content.decode("utf-8-sig"))))
    assert [row["line"] for row in rows][:: len(rows) - 1] == ["opening", "closing"]
    assert rows[-1]["balance_minor"] == "0"
    page = await client.get(
        path, params={"format": "html", "language": "zh"}, headers=world.buyer.headers()
    )
    assert "期末余额" in page.text
