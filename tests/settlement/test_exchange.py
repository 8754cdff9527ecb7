"""Currency exchange: exact integers, quotes that end, conversions that happen once."""

from datetime import timedelta
from fractions import Fraction
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st

from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.money import exponent
from market.kernel.security import Role
from settlement.accounts import AccountRef
from settlement.conversion import convert
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, fund, move_clock, now, state, together, verified


def fx(currency: str) -> AccountRef:
    return AccountRef("fx", None, currency)


@pytest.fixture
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def rate(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member, **change: Any
) -> dict[str, Any]:
    body = {
        "source": "USD",
        "target": "CNY",
        "numerator": 71_234,
        "denominator": 10_000,
        "spread_bps": 50,
        "valid_until": (await now(kernel) + timedelta(hours=1)).isoformat(),
        **change,
    }
    answer = await client.post("/v1/exchange/rates", json=body, headers=operator.headers())
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def quote(
    client: httpx.AsyncClient, member: Member, amount: int, source: str = "USD", target: str = "CNY"
) -> httpx.Response:
    body = {"money": {"amount_minor": amount, "currency": source}, "target": target}
    return await client.post("/v1/exchange/quotes", json=body, headers=member.headers())


async def take(client: httpx.AsyncClient, member: Member, quote_id: str) -> httpx.Response:
    return await client.post(f"/v1/exchange/quotes/{quote_id}/conversion", headers=member.headers())


@given(
    st.integers(1, 10**15),
    st.integers(1, 10**12),
    st.integers(1, 10**12),
    st.integers(0, 5_000),
    st.sampled_from(["CNY", "USD", "JPY", "KWD"]),
    st.sampled_from(["CNY", "USD", "JPY", "KWD"]),
)
def test_conversion_loses_less_than_one_minor_unit(
    amount: int, numerator: int, denominator: int, spread: int, source: str, target: str
) -> None:
    gross, fee = convert(
        amount,
        source,
        target,
        numerator=numerator,
        denominator=denominator,
        spread_bps=spread,
    )
    exact = Fraction(amount * numerator, denominator) * Fraction(10) ** (
        exponent(target) - exponent(source)
    )
    assert 0 <= exact - gross < 1
    assert 0 <= Fraction(gross * spread, 10_000) - fee < 1


def test_golden_conversions() -> None:
    # 100.00 USD at 7.1234: 712.34 CNY, 0.50 % of it 3.5617, charged 3.56.
    usd = convert(10_000, "USD", "CNY", numerator=71_234, denominator=10_000, spread_bps=50)
    assert (usd.gross, usd.fee, usd.net) == (71_234, 356, 70_878)
    # 1.00 CNY at 20.9: 20 yen (no decimals); 1 yen at 1/20.9: 0.04 CNY.
    assert convert(100, "CNY", "JPY", numerator=209, denominator=10, spread_bps=0).gross == 20
    assert convert(1, "JPY", "CNY", numerator=10, denominator=209, spread_bps=0).gross == 4
    # 1.00 USD at 0.307: 0.307 KWD (three decimals).
    assert convert(100, "USD", "KWD", numerator=307, denominator=1_000, spread_bps=0).gross == 307
    for wrong in ({"numerator": 0}, {"denominator": 0}, {"spread_bps": 10_000}):
        with pytest.raises(ValueError, match="positive"):
            convert(1, "USD", "CNY", **{"numerator": 1, "denominator": 1, "spread_bps": 0, **wrong})


async def test_a_conversion_moves_both_currencies_through_fx(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    set_ = await rate(client, kernel, operator)
    member = await make_party(kernel, Role.BUYER)
    await fund(kernel, member.party_id, 25_000, "USD")
    positions = (await state(kernel, fx("USD")), await state(kernel, fx("CNY")))
    fees = (await state(kernel, AccountRef("fees", None, "CNY")))[0]
    offered = (await quote(client, member, 10_000)).json()
    assert offered["rate_id"] == set_["id"]
    assert offered["gross"] == {"amount_minor": 71_234, "currency": "CNY"}
    assert offered["fee_minor"] == 356
    assert offered["net"] == {"amount_minor": 70_878, "currency": "CNY"}
    assert offered["transfer_id"] is None
    done = await take(client, member, offered["id"])
    assert done.status_code == 201
    assert done.json()["transfer_id"].startswith("txn_")
    assert (await state(kernel, available(member.party_id, "USD")))[0] == 15_000
    assert (await state(kernel, available(member.party_id, "CNY")))[0] == 70_878
    assert (await state(kernel, fx("USD")))[0] - positions[0][0] == 10_000
    assert (await state(kernel, fx("CNY")))[0] - positions[1][0] == -71_234
    assert (await state(kernel, AccountRef("fees", None, "CNY")))[0] - fees == 356
    shown = await client.get(f"/v1/exchange/quotes/{offered['id']}", headers=member.headers())
    assert shown.json() == done.json()
    await verified(kernel)


async def test_a_quote_is_taken_once(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await rate(client, kernel, operator)
    member = await make_party(kernel, Role.SELLER)
    await fund(kernel, member.party_id, 5_000, "USD")
    offered = (await quote(client, member, 1_000)).json()
    answers = await together(*(take(client, member, offered["id"]) for _ in range(4)))
    statuses = sorted(a.status_code for a in answers if isinstance(a, httpx.Response))
    assert statuses == [201, 409, 409, 409]
    assert (await state(kernel, available(member.party_id, "USD")))[0] == 4_000
    again = await take(client, member, offered["id"])
    assert (again.status_code, again.json()["code"]) == (409, "exchange_quote_used")
    # The same request again gives the same answer.
    other = (await quote(client, member, 1_000)).json()
    headers = member.headers()
    path = f"/v1/exchange/quotes/{other['id']}/conversion"
    first, repeated = [await client.post(path, headers=headers) for _ in range(2)]
    assert (first.status_code, repeated.content) == (201, first.content)
    assert (await state(kernel, available(member.party_id, "USD")))[0] == 3_000


async def test_expired_foreign_and_unfunded_quotes_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    await rate(client, kernel, operator)
    member, stranger = await make_party(kernel, Role.BUYER), await make_party(kernel, Role.BUYER)
    await fund(kernel, member.party_id, 999, "USD")
    offered = (await quote(client, member, 1_000)).json()
    short = await take(client, member, offered["id"])
    assert (short.status_code, short.json()["code"]) == (402, "insufficient_funds")
    foreign = await take(client, stranger, offered["id"])
    assert (foreign.status_code, foreign.json()["code"]) == (404, "exchange_quote_not_found")
    hidden = await client.get(f"/v1/exchange/quotes/{offered['id']}", headers=stranger.headers())
    assert hidden.status_code == 404
    await fund(kernel, member.party_id, 1, "USD")
    await move_clock(kernel, timedelta(seconds=61))
    late = await take(client, member, offered["id"])
    assert (late.status_code, late.json()["code"]) == (409, "exchange_quote_expired")
    assert await state(kernel, available(member.party_id, "USD")) == (1_000, 0, 2)
    assert await state(kernel, available(member.party_id, "CNY")) == (0, 0, 0)
    listed = (await client.get("/v1/exchange/quotes", headers=member.headers())).json()["items"]
    assert [item["id"] for item in listed] == [offered["id"]]
    mine = (await client.get("/v1/exchange/quotes", headers=stranger.headers())).json()["items"]
    assert mine == []


async def test_the_newest_valid_rate_counts(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    member = await make_party(kernel, Role.BUYER)
    pair = {"source": "EUR", "target": "JPY", "spread_bps": 0, "denominator": 1}
    none = await quote(client, member, 100, "EUR", "JPY")
    assert (none.status_code, none.json()["code"]) == (404, "exchange_rate_not_found")
    first = await rate(client, kernel, operator, **pair, numerator=160)
    soon = (await now(kernel) + timedelta(minutes=30)).isoformat()
    await rate(client, kernel, operator, **pair, numerator=170, valid_from=soon)
    offered = (await quote(client, member, 100, "EUR", "JPY")).json()
    assert (offered["rate_id"], offered["net"]["amount_minor"]) == (first["id"], 160)
    second = await rate(client, kernel, operator, **pair, numerator=161)
    offered = (await quote(client, member, 100, "EUR", "JPY")).json()
    assert (offered["rate_id"], offered["net"]["amount_minor"]) == (second["id"], 161)
    await move_clock(kernel, timedelta(hours=2))
    await now(kernel)  # so that the clock knows
    member = member.with_fresh_token(kernel)
    gone = await quote(client, member, 100, "EUR", "JPY")
    assert gone.status_code == 404
    listed = await client.get(
        "/v1/exchange/rates", params={"source": "EUR", "limit": 2}, headers=member.headers()
    )
    assert listed.status_code == 200, listed.text
    assert [item["numerator"] for item in listed.json()["items"]] == [161, 170]
    assert listed.json()["has_more"] is True
    assert parse("fxr", first["id"]).version == 7


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"target": "USD"}, "exchange_rate_invalid"),
        ({"valid_until": "2020-01-01T00:00:00Z"}, "exchange_rate_invalid"),
        ({"numerator": 0}, "validation_failed"),
        ({"numerator": 7.1}, "validation_failed"),
        ({"spread_bps": 5_001}, "validation_failed"),
    ],
)
async def test_unusable_rates_are_refused(
    client: httpx.AsyncClient, operator: Member, change: dict[str, Any], code: str
) -> None:
    body = {
        "source": "USD",
        "target": "CNY",
        "numerator": 7,
        "denominator": 1,
        "valid_until": "2999-01-01T00:00:00Z",
        **change,
    }
    answer = await client.post("/v1/exchange/rates", json=body, headers=operator.headers())
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_amounts_that_vanish_or_burst_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, operator: Member
) -> None:
    member = await make_party(kernel, Role.BUYER)
    await rate(client, kernel, operator, source="JPY", target="USD", numerator=1, denominator=200)
    nothing = await quote(client, member, 1, "JPY", "USD")
    assert (nothing.status_code, nothing.json()["code"]) == (422, "amount_not_convertible")
    await rate(
        client, kernel, operator, source="USD", target="IDR", numerator=16_000, denominator=1
    )
    too_much = await quote(client, member, 10**15, "USD", "IDR")
    assert (too_much.status_code, too_much.json()["code"]) == (422, "amount_not_convertible")


async def test_only_operators_set_rates(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.BUYER)
    answer = await client.post("/v1/exchange/rates", json={}, headers=member.headers())
    assert (answer.status_code, answer.json()["code"]) == (403, "role_required")
