"""Statements of a period and balances as of a moment, by booking and by event time."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.money import decimal_text
from market.kernel.security import Role
from settlement import periods
from settlement.accounts import AccountRef
from settlement.commands import Transfer
from settlement.errors import StatementFormatNotOffered
from settlement.schemas import Basis
from settlement.statement_formats import StatementFormat, choose
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, book, fund, now


@pytest.fixture(scope="module")
async def member(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


def url(account: AccountRef, tail: str = "statement") -> str:
    return f"/v1/accounts/{show('acc', account.id)}/{tail}"


def paid(source: AccountRef, amount: int, event_at: datetime | None = None) -> Transfer:
    legs = ((source, -amount), (available(new_id(), source.currency), amount))
    return Transfer(f"test:{new_id().hex}", "sale", legs, event_at=event_at)


async def statement(
    client: httpx.AsyncClient, member: Member, account: AccountRef, **params: str
) -> dict[str, Any]:
    renamed = {{"start": "from"}.get(name, name): value for name, value in params.items()}
    answer = await client.get(url(account), params=renamed, headers=member.headers())
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_backdated_transfers_count_where_they_belong(
    client: httpx.AsyncClient, kernel: Kernel, member: Member
) -> None:
    account = await fund(kernel, member.party_id, 1_000)
    start = await now(kernel)
    long_ago = start - timedelta(days=30)
    await book(kernel, paid(account, 100), paid(account, 7, long_ago))
    middle = await now(kernel)
    await book(kernel, paid(account, 20), paid(account, 3, long_ago + timedelta(days=1)))
    # By booking: the lines since `start`, in order, whatever their event time.
    booked = await statement(client, member, account, start=start.isoformat())
    assert (booked["opening_minor"], booked["closing_minor"]) == (1_000, 870)
    assert (booked["debit_minor"], booked["credit_minor"], booked["line_count"]) == (130, 0, 4)
    assert [line["amount_minor"] for line in booked["lines"]] == [-100, -7, -20, -3]
    assert [line["balance_minor"] for line in booked["lines"]] == [900, 893, 873, 870]
    # By event: the two backdated ones are in the opening balance.
    events = await statement(client, member, account, start=start.isoformat(), by="event")
    assert (events["opening_minor"], events["closing_minor"]) == (990, 870)
    assert [line["amount_minor"] for line in events["lines"]] == [-100, -20]
    assert [line["balance_minor"] for line in events["lines"]] == [890, 870]
    past = await statement(client, member, account, until=start.isoformat(), by="event")
    assert (past["opening_minor"], past["closing_minor"]) == (0, 990)
    assert [line["amount_minor"] for line in past["lines"]] == [-7, -3, 1_000]
    assert [line["balance_minor"] for line in past["lines"]] == [-7, -10, 990]
    for moment, by, posted, postings in (
        (middle, "booking", 893, 3),
        (middle, "event", 890, 4),
        (long_ago, "event", -7, 1),
        (long_ago, "booking", 0, 0),
    ):
        answer = await client.get(
            url(account, "balance"),
            params={"as_of": moment.isoformat(), "by": by},
            headers=member.headers(),
        )
        assert (answer.json()["posted_minor"], answer.json()["posting_count"]) == (posted, postings)
        assert answer.json()["by"] == by


async def test_event_time_equals_a_plain_sum(kernel: Kernel) -> None:
    """Against the definition, for postings before, at and after when they were booked."""
    member = await make_party(kernel, Role.SELLER)
    account = await fund(kernel, member.party_id, 100_000, "EUR")
    base = await now(kernel)
    shifts = [None, -9, -3, 0, 2, 5, None, -1, 4, -7, 8, None]
    for number, shift in enumerate(shifts):
        moment = None if shift is None else base + timedelta(seconds=shift)
        await book(kernel, paid(account, 10 + number, moment))
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        rows = await connection.fetch(
            "SELECT p.amount, t.event_at, t.booked_at FROM settlement.posting p"
            " JOIN settlement.transfer t ON t.id = p.transfer_id WHERE p.account_id = $1",
            account.id,
        )
        assert len(rows) == 13
        for offset in range(-10, 10):
            moment = base + timedelta(seconds=offset)
            found = await periods.position_at(connection, account.id, moment, Basis.EVENT)
            happened = [row["amount"] for row in rows if row["event_at"] <= moment]
            assert found == (sum(happened), len(happened))
            booked = await periods.position_at(connection, account.id, moment, Basis.BOOKING)
            known = [row["amount"] for row in rows if row["booked_at"] <= moment]
            assert booked == (sum(known), len(known))


async def test_adjoining_periods_meet(
    client: httpx.AsyncClient, kernel: Kernel, member: Member
) -> None:
    account = await fund(kernel, member.party_id, 5_000, "USD")
    marks = [await now(kernel)]
    for amount in (1, 22, 333):
        await book(kernel, paid(account, amount), paid(account, amount, marks[0]))
        marks.append(await now(kernel))
    for by in ("booking", "event"):
        closing = 0
        count = 0
        bounds = [None, *marks]
        for start, until in zip(bounds, marks, strict=False):
            part = await statement(
                client,
                member,
                account,
                by=by,
                until=until.isoformat(),
                **({"start": start.isoformat()} if start else {}),
            )
            assert part["opening_minor"] == closing
            closing = part["closing_minor"]
            count += part["line_count"]
        assert (closing, count) == (5_000 - 2 * 356, 7)


async def test_the_three_formats_say_the_same(
    client: httpx.AsyncClient,
    kernel: Kernel,
    member: Member,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(periods, "LINES_PER_READ", 3)
    account = await fund(kernel, member.party_id, 10_000, "JPY")
    await book(kernel, *(paid(account, 10 + n) for n in range(8)))
    plain = await statement(client, member, account, format="json")
    assert (plain["line_count"], plain["closing_minor"]) == (9, 10_000 - 108)
    accepted = await client.get(
        url(account), headers={**member.headers(), "Accept": "text/csv, application/json"}
    )
    assert accepted.headers["content-type"].startswith("text/csv")
    assert accepted.headers["content-disposition"].endswith('.csv"')
    rows = list(csv.DictReader(io.StringIO(accepted.text)))
    assert [row["kind"] for row in (rows[0], rows[-1])] == ["opening_balance", "closing_balance"]
    assert (rows[0]["balance"], rows[-1]["balance_minor"]) == ("0", str(plain["closing_minor"]))
    for row, line in zip(rows[1:-1], plain["lines"], strict=True):
        assert row["transfer_id"] == line["transfer_id"]
        assert int(row["amount_minor"]) == line["amount_minor"]
        assert row["balance"] == decimal_text(line["balance_minor"], "JPY")
    body = await client.get(url(account), params={"format": "parquet"}, headers=member.headers())
    assert body.headers["content-type"] == "application/vnd.apache.parquet"
    file = pq.ParquetFile(io.BytesIO(body.content))
    assert file.num_row_groups == 3
    table = file.read()
    assert table["amount_minor"].to_pylist() == [line["amount_minor"] for line in plain["lines"]]
    assert table["balance_minor"].to_pylist() == [line["balance_minor"] for line in plain["lines"]]
    assert table["booked_at"][0].as_py().tzinfo is not None
    head = orjson.loads(table.schema.metadata[b"statement"])
    assert head["closing_minor"] == plain["closing_minor"]


async def test_refusals(client: httpx.AsyncClient, kernel: Kernel, member: Member) -> None:
    account = await fund(kernel, member.party_id, 1, "GBP")
    stranger = await make_party(kernel, Role.BUYER)
    headers = member.headers()
    later = (await now(kernel) + timedelta(days=1)).isoformat()
    for params in ({"until": later}, {"from": later}, {"until": "1960-01-01T00:00:00Z"}):
        answer = await client.get(url(account), params=params, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "period_invalid")
    foreign = await client.get(url(account), headers=stranger.headers())
    assert (foreign.status_code, foreign.json()["code"]) == (404, "account_not_found")
    image = await client.get(url(account), headers={**headers, "Accept": "image/png"})
    assert (image.status_code, image.json()["code"]) == (406, "format_not_offered")
    wrong = await client.get(url(account), params={"format": "xml"}, headers=headers)
    assert wrong.status_code == 422
    assert (await client.get(url(account))).status_code == 401


async def test_a_statement_is_bounded(
    client: httpx.AsyncClient, kernel: Kernel, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await fund(kernel, member.party_id, 100, "CHF")
    await book(kernel, *(paid(account, 1) for _ in range(5)))
    monkeypatch.setattr(periods, "LINES_MAX", 5)
    for by in ("booking", "event"):
        answer = await client.get(url(account), params={"by": by}, headers=member.headers())
        assert (answer.status_code, answer.json()["code"]) == (422, "statement_too_long")


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        (None, StatementFormat.JSON),
        ("*/*", StatementFormat.JSON),
        ("text/*", StatementFormat.CSV),
        ("text/csv;q=0, application/json", StatementFormat.JSON),
        ("text/csv;q=0.0, application/vnd.apache.parquet", StatementFormat.PARQUET),
        ("image/png, text/csv;q=0.5", StatementFormat.CSV),
    ],
)
def test_accept_is_read(accept: str | None, format_: StatementFormat) -> None:
    assert choose(None, accept) is format_
    assert choose(StatementFormat.CSV, accept) is StatementFormat.CSV


def test_nothing_acceptable() -> None:
    with pytest.raises(StatementFormatNotOffered):
        choose(None, "text/csv;q=0")


def test_decimal_text() -> None:
    assert decimal_text(-125_005, "CNY") == "-1250.05"
    assert decimal_text(-5, "CNY") == "-0.05"
    assert decimal_text(7, "JPY") == "7"
    assert decimal_text(1_234, "KWD") == "1.234"
    assert decimal_text(0, "USD") == "0.00"
