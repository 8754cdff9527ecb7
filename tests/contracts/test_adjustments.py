"""Partial releases and refunds by agreement; frozen fee, intermediary and tax in real money."""

import uuid
from typing import Any

import asyncpg
import httpx
import pytest

from contracts import jobs
from contracts.agreement_states import AgreementStatus
from contracts.metering import meter_of
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from pricing.billing_schemas import IntermediaryInput, TaxDeclarationInput
from pricing.intermediaries import set_intermediary
from pricing.schemas import ShareInput, SharesInput
from pricing.shares import set_shares
from pricing.taxes import declare_tax
from settlement.accounts import AccountRef
from settlement.billing_schemas import FeeScheduleInput
from settlement.fees import set_fee
from settlement.split import SplitTerms, cumulative
from tests.contracts.factories import (
    Trade,
    agreement_of,
    bearer,
    grant_of,
    make_agreement,
    make_trade,
    mint,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, state, verified

FEES = AccountRef("fees", None, "CNY")


async def posted(kernel: Kernel, ref: AccountRef) -> int:
    return (await state(kernel, ref))[0]


async def propose(
    client: httpx.AsyncClient, trade: Trade, member: Member, release: int, refund: int
) -> httpx.Response:
    body = {"release_minor": release, "refund_minor": refund, "reason": "half was delivered"}
    path = f"/v1/agreements/{trade.id}/adjustments"
    return await client.post(path, json=body, headers=member.headers())


async def reply(
    client: httpx.AsyncClient, trade: Trade, member: Member, number: int, word: str
) -> httpx.Response:
    path = f"/v1/agreements/{trade.id}/adjustments/{number}/{word}"
    return await client.post(path, headers=member.headers())


async def agreed(
    client: httpx.AsyncClient, trade: Trade, number: int, release: int, refund: int
) -> None:
    made = await propose(client, trade, trade.seller, release, refund)
    assert (made.status_code, made.json()["number"]) == (201, number)
    done = await reply(client, trade, trade.buyer, number, "accept")
    assert (done.status_code, done.json()["status"]) == (200, "accepted")


async def test_partial_release_and_refund_then_the_rest_settles(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, kind="license", price_minor=1_001)
    fees = await posted(kernel, FEES)
    await agreed(client, trade, 1, 333, 100)
    agreement = await agreement_of(kernel, trade.agreement.id)
    assert (agreement.released_minor, agreement.refunded_minor) == (333, 100)
    assert agreement.status == AgreementStatus.ACTIVE
    assert await posted(kernel, trade.escrow) == 568 == agreement.escrow_minor
    assert await posted(kernel, available(trade.buyer.party_id)) == 100
    await agreed(client, trade, 2, 500, 68)
    agreement = await agreement_of(kernel, trade.agreement.id)
    assert (agreement.status, agreement.escrow_minor) == (AgreementStatus.SETTLED, 0)
    parts = cumulative(833, SplitTerms(50_000))
    assert await posted(kernel, FEES) - fees == parts.fee
    assert await posted(kernel, available(trade.seller.party_id)) == parts.seller
    rows = await client.get(f"/v1/agreements/{trade.id}/releases", headers=trade.buyer.headers())
    assert [
        (row["released_before_minor"], row["amount_minor"]) for row in rows.json()["items"]
    ] == [(0, 333), (333, 500)]
    assert sum(row["fee_minor"] for row in rows.json()["items"]) == parts.fee
    late = await propose(client, trade, trade.seller, 1, 0)
    assert (late.status_code, late.json()["code"]) == (409, "agreement_state")
    await verified(kernel)


async def test_only_the_other_party_may_accept_and_only_once(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, kind="license", price_minor=1_000)
    stranger = await make_party(kernel, Role.BUYER)
    assert (await propose(client, trade, stranger, 1, 0)).status_code == 404
    assert (await propose(client, trade, trade.buyer, 0, 400)).status_code == 201
    second = await propose(client, trade, trade.seller, 1, 0)
    assert (second.status_code, second.json()["code"]) == (409, "adjustment_open")
    for member, word in (
        (trade.buyer, "accept"),
        (trade.buyer, "decline"),
        (trade.seller, "withdraw"),
        (stranger, "accept"),
    ):
        assert (await reply(client, trade, member, 1, word)).status_code == 404
    assert await posted(kernel, trade.escrow) == 1_000
    declined = await reply(client, trade, trade.seller, 1, "decline")
    assert declined.json()["status"] == "declined"
    assert (await reply(client, trade, trade.seller, 1, "accept")).status_code == 404
    assert (await propose(client, trade, trade.buyer, 0, 400)).status_code == 201
    assert (await reply(client, trade, trade.buyer, 2, "withdraw")).status_code == 200
    too_much = await propose(client, trade, trade.buyer, 600, 401)
    assert (too_much.status_code, too_much.json()["code"]) == (409, "adjustment_exceeds_escrow")
    assert too_much.json()["escrow_minor"] == 1_000
    assert await posted(kernel, trade.escrow) == 1_000
    seen = await client.get(
        f"/v1/agreements/{trade.id}/adjustments", params={"limit": 1}, headers=trade.buyer.headers()
    )
    assert ([row["status"] for row in seen.json()["items"]], seen.json()["has_more"]) == (
        ["declined"],
        True,
    )


async def test_use_catches_up_with_a_metered_release(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lot_units=10, price_minor=100)
    refused = await propose(client, trade, trade.buyer, 0, 1)
    assert (refused.status_code, refused.json()["code"]) == (409, "adjustment_refused")
    await agreed(client, trade, 1, 55, 0)
    for used, released in ((5, 55), (4, 90), (1, 100)):
        token = await mint(kernel, trade)
        answer = await client.get(
            "/v1/delivery/rows", params={"limit": used}, headers=bearer(token)
        )
        assert answer.status_code == 200
        await meter_of(kernel).flush()
        await jobs.accrue(kernel)
        assert (await agreement_of(kernel, trade.agreement.id)).released_minor == released
    assert (await agreement_of(kernel, trade.agreement.id)).status == AgreementStatus.SETTLED
    assert await posted(kernel, trade.escrow) == 0


async def priced(kernel: Kernel) -> tuple[Trade, Member, Member, Member]:
    """A listing with fee bounds, tax, an intermediary and a contributor, and a deal formed now."""
    first = await make_trade(kernel, kind="license", price_minor=106_000)
    operator, broker, helper = [
        await make_party(kernel, role) for role in (Role.OPERATOR, Role.SELLER, Role.SELLER)
    ]
    listing_id, seller = first.agreement.listing_id, first.seller.actor
    await set_fee(
        kernel,
        operator.actor,
        FeeScheduleInput(
            currency="CNY", fee_ppm=100_000, minimum_minor=300, cap_minor=6_000,
            vat_ppm=60_000, reason="test",
        ),
    )  # fmt: skip
    await declare_tax(kernel, seller, TaxDeclarationInput(rate_ppm=60_000))
    await set_intermediary(
        kernel, seller, listing_id,
        IntermediaryInput(party_id=broker.party_id, ppm=50_000), expected_version=0,
    )  # fmt: skip
    shares = SharesInput(shares=[ShareInput(party_id=helper.party_id, ppm=200_000)])
    await set_shares(kernel, seller, listing_id, shares, expected_version=0)
    agreement = await make_agreement(kernel, first.buyer, first.seller, first.plan)
    grant = await grant_of(kernel, agreement.id)
    return (
        Trade(first.buyer, first.seller, first.plan, agreement, grant.id),
        operator,
        broker,
        helper,
    )


async def test_an_agreement_freezes_fee_intermediary_and_tax(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade, operator, broker, helper = await priced(kernel)
    path = f"/v1/plans/{show('pln', trade.plan.id)}/split"
    preview = await client.get(path, headers=trade.seller.headers())
    assert (await client.get(path, headers=trade.buyer.headers())).status_code == 404
    await set_fee(
        kernel, operator.actor,
        FeeScheduleInput(currency="CNY", fee_ppm=500_000, vat_ppm=0, reason="later"),
    )  # fmt: skip
    shown: list[dict[str, Any]] = []
    for member in (trade.buyer, trade.seller):
        answer = await client.get(f"/v1/agreements/{trade.id}", headers=member.headers())
        shown.append(answer.json()["terms"])
    assert shown[0] == shown[1]
    terms = shown[0]
    assert terms["fee_ppm"] == 100_000
    assert (terms["fee"]["minimum_minor"], terms["fee"]["cap_minor"]) == (300, 6_000)
    assert terms["intermediary"] == {"party_id": broker.id, "ppm": 50_000}
    assert terms["tax"] == {
        "rate_ppm": 60_000,
        "price_includes_tax": True,
        "without_tax_minor": 100_000,
        "tax_minor": 6_000,
    }
    fees = await posted(kernel, FEES)
    done = await client.post(f"/v1/agreements/{trade.id}/accept", headers=trade.buyer.headers())
    assert done.status_code == 200
    paid = [
        await posted(kernel, FEES) - fees,
        await posted(kernel, available(broker.party_id)),
        await posted(kernel, available(helper.party_id)),
        await posted(kernel, available(trade.seller.party_id)),
    ]
    assert paid == [6_000, 5_000, 20_000, 75_000]
    split = preview.json()
    assert paid == [
        split["fee_minor"],
        split["intermediary"]["amount_minor"],
        split["shares"][0]["amount_minor"],
        split["seller_minor"],
    ]
    assert (split["fee_tax_minor"], split["tax_minor"]) == (340, 6_000)


async def test_partial_releases_pay_the_minimum_first_and_stop_at_the_cap(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade, operator, _, _ = await priced(kernel)
    assert operator.party_id != trade.seller.party_id
    fees = await posted(kernel, FEES)
    await agreed(client, trade, 1, 200, 0)
    assert await posted(kernel, FEES) - fees == 200
    await agreed(client, trade, 2, 100_000, 0)
    assert await posted(kernel, FEES) - fees == 6_000
    await agreed(client, trade, 3, 0, 5_800)
    assert await posted(kernel, FEES) - fees == 6_000
    assert (await agreement_of(kernel, trade.agreement.id)).status == AgreementStatus.SETTLED


async def test_release_records_are_append_only(kernel: Kernel) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(
                "DELETE FROM contracts.release_record WHERE id = $1", uuid.uuid4()
            )
