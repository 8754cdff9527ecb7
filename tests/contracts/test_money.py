"""From use to money: exact to the last unit, and escrow is zero in the end."""

import dataclasses

import httpx
import pytest

from contracts import accrual, grants as grant_service, jobs, tokens
from contracts.agreement_states import AgreementStatus
from contracts.agreements import freeze_rest, lock_agreement, move, thaw_rest
from contracts.metering import meter_of
from contracts.models import Agreement
from contracts.schemas import TokenBody
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from market.operations.sandbox import AdvanceClock, advance_clock
from pricing.schemas import ShareInput, SharesInput
from pricing.shares import set_shares
from settlement import escrow
from settlement.accounts import AccountKind, AccountRef
from tests.contracts.factories import (
    Trade,
    agreement_of,
    bearer,
    grant_of,
    make_agreement,
    make_trade,
    mint,
)
from tests.listings.factories import any_operator
from tests.market.parties.factories import make_party
from tests.settlement.factories import available, state, verified

ROWS = "/v1/delivery/rows"
FEES = AccountRef(AccountKind.FEES, None, "CNY")


async def posted(kernel: Kernel, ref: AccountRef) -> int:
    return (await state(kernel, ref))[0]


async def read(client: httpx.AsyncClient, kernel: Kernel, trade: Trade, rows: int) -> None:
    answer = await client.get(
        ROWS, params={"limit": rows}, headers=bearer(await mint(kernel, trade))
    )
    assert answer.status_code == 200, answer.text
    await meter_of(kernel).flush()


async def run_jobs(kernel: Kernel) -> None:
    for job in (jobs.accrue, jobs.expire_grants, jobs.end_leases, jobs.close_windows):
        await job(kernel)
    await jobs.close_out(kernel)


async def advance(kernel: Kernel, days: int) -> None:
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=days * 86_400))


async def assert_closed(kernel: Kernel, trade: Trade, status: AgreementStatus) -> Agreement:
    agreement = await agreement_of(kernel, trade.agreement.id)
    assert (agreement.status, agreement.escrow_minor) == (status, 0)
    assert await posted(kernel, trade.escrow) == 0
    return agreement


async def test_use_releases_its_value_and_the_last_unit_the_rest(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lots=1, lot_units=7, price_minor=100)
    fees = await posted(kernel, FEES)
    value = 0
    for used in range(1, 8):
        await read(client, kernel, trade, 1)
        assert await jobs.accrue(kernel) == 1
        value = 100 * used // 7
        assert await posted(kernel, trade.escrow) == 100 - value
        assert (await agreement_of(kernel, trade.agreement.id)).released_minor == value
    await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    assert value == 100
    assert await posted(kernel, FEES) - fees == 5
    assert await posted(kernel, available(trade.seller.party_id)) == 95
    assert await jobs.accrue(kernel) == 0
    await verified(kernel)


async def test_contributors_get_their_frozen_share(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    base = await make_trade(kernel, lots=1, lot_units=3, price_minor=1_001)
    contributor = await make_party(kernel, Role.SELLER)
    body = SharesInput(shares=[ShareInput(party_id=contributor.party_id, ppm=300_000)])
    await set_shares(kernel, base.seller.actor, base.plan.listing_id, body, expected_version=0)
    agreement = await make_agreement(kernel, base.buyer, base.seller, base.plan)
    grant = await grant_of(kernel, agreement.id)
    trade = dataclasses.replace(base, agreement=agreement, grant_id=grant.id)
    fees = await posted(kernel, FEES)
    for _ in range(3):
        await read(client, kernel, trade, 1)
        await jobs.accrue(kernel)
    await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    paid = [
        await posted(kernel, FEES) - fees,
        await posted(kernel, available(contributor.party_id)),
        await posted(kernel, available(base.seller.party_id)),
    ]
    assert sum(paid) == 1_001
    assert paid == [50, 285, 666]
    await verified(kernel)


async def test_a_license_is_paid_when_accepted(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, kind="license", price_minor=5_000)
    await read(client, kernel, trade, 10)
    await jobs.accrue(kernel)
    assert (await agreement_of(kernel, trade.agreement.id)).status == "delivered"
    assert await posted(kernel, trade.escrow) == 5_000
    path = f"/v1/agreements/{trade.id}/accept"
    by_seller = await client.post(path, headers=trade.seller.headers())
    assert by_seller.status_code == 404
    headers = trade.buyer.headers()
    accepted = await client.post(path, headers=headers)
    assert (accepted.status_code, accepted.json()["status"]) == (200, "settled")
    assert (await client.post(path, headers=headers)).json() == accepted.json()
    again = await client.post(path, headers=trade.buyer.headers())
    assert (again.status_code, again.json()["code"]) == (409, "agreement_state")
    agreement = await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    assert agreement.accepted_at is not None
    assert await posted(kernel, available(trade.seller.party_id)) == 4_750
    await read(client, kernel, trade, 10)
    assert await jobs.accrue(kernel) == 1


async def test_a_metered_agreement_is_not_accepted_before_its_units_are_used(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lots=1, lot_units=4, price_minor=400)
    path = f"/v1/agreements/{trade.id}/accept"
    await read(client, kernel, trade, 3)
    early = await client.post(path, headers=trade.buyer.headers())
    assert (early.status_code, early.json()["code"]) == (409, "agreement_not_delivered")
    assert await posted(kernel, trade.escrow) == 400
    await read(client, kernel, trade, 1)
    done = await client.post(path, headers=trade.buyer.headers())
    assert (done.status_code, done.json()["status"]) == (200, "settled")
    await assert_closed(kernel, trade, AgreementStatus.SETTLED)


async def test_the_acceptance_window_ends_in_silence(kernel: Kernel) -> None:
    trade = await make_trade(kernel, kind="license", price_minor=900, acceptance_window_days=3)
    await run_jobs(kernel)
    assert (await agreement_of(kernel, trade.agreement.id)).status == "active"
    await advance(kernel, 3)
    await run_jobs(kernel)
    await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    assert (await grant_of(kernel, trade.agreement.id)).status == "active"


async def test_expiry_pays_what_was_used_and_refunds_the_rest(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, lots=3, lot_units=10, price_minor=100, term_days=5)
    await read(client, kernel, trade, 11)
    body = TokenBody(label="test")
    minted = await tokens.mint(kernel, trade.buyer.actor, trade.grant_id, body)
    await advance(kernel, 5)
    refused = await client.get(
        ROWS,
        params={"limit": 1},
        headers=bearer(
            kernel.keys.sign(
                "delivery+jwt",
                {
                    "jti": show("tok", minted.id),
                    "aud": trade.grant,
                    "sub": trade.buyer.id,
                },
                ttl_s=60,
            )
        ),
    )
    assert (refused.status_code, refused.json()["code"]) == (410, "grant_expired")
    await run_jobs(kernel)
    await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    agreement = await agreement_of(kernel, trade.agreement.id)
    assert (agreement.released_minor, agreement.refunded_minor) == (110, 190)
    assert await posted(kernel, available(trade.buyer.party_id)) == 190
    grant = await grant_of(kernel, trade.agreement.id)
    assert (grant.status, grant.reserved_units, grant.settled_units) == ("expired", 0, 11)
    assert grant.closed_out_at is not None
    await verified(kernel)


async def test_an_expired_token_is_gone(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel)
    token = await mint(kernel, trade, ttl_s=60)
    assert (await client.get(ROWS, params={"limit": 1}, headers=bearer(token))).status_code == 200
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=61))
    refused = await client.get(ROWS, params={"limit": 1}, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (410, "token_expired")
    await meter_of(kernel).flush()
    assert (await grant_of(kernel, trade.agreement.id)).settled_units == 1


async def test_an_operator_terminates(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, lots=1, lot_units=10, price_minor=100)
    token = await mint(kernel, trade)
    assert (await client.get(ROWS, params={"limit": 4}, headers=bearer(token))).status_code == 200
    path = f"/v1/agreements/{trade.id}/terminate"
    body = {"reason": "The source lost its rights."}
    buyer = trade.buyer.with_fresh_token(kernel)
    forbidden = await client.post(path, json=body, headers=buyer.headers())
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "role_required")
    operator = await make_party(kernel, Role.OPERATOR)
    ended = await client.post(path, json=body, headers=operator.headers())
    assert ended.status_code == 200, ended.text
    refused = await client.get(ROWS, params={"limit": 1}, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (410, "grant_revoked")
    twice = await client.post(path, json=body, headers=operator.headers())
    assert twice.status_code == 409
    await run_jobs(kernel)
    agreement = await assert_closed(kernel, trade, AgreementStatus.TERMINATED)
    assert (agreement.released_minor, agreement.refunded_minor) == (40, 60)
    await verified(kernel)


async def test_frozen_money_is_never_released(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, lots=1, lot_units=10, price_minor=100)
    await read(client, kernel, trade, 2)
    await jobs.accrue(kernel)
    dispute_id = new_id()
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, trade.agreement.id)
        frozen = await escrow.freeze(uow, f"f:{dispute_id.hex}", agreement.id, dispute_id, "CNY")
        freeze_rest(agreement, frozen)
        move(uow, agreement, AgreementStatus.OBJECTED, reason="test")
        await grant_service.suspend(uow, kernel, agreement.id)
    assert frozen == 80
    await advance(kernel, 400)
    await run_jobs(kernel)
    agreement = await agreement_of(kernel, trade.agreement.id)
    assert (agreement.status, agreement.released_minor) == ("objected", 20)
    async with kernel.unit_of_work() as uow:
        agreement = await lock_agreement(uow, trade.agreement.id)
        back = await escrow.unfreeze(uow, f"u:{dispute_id.hex}", agreement.id, dispute_id, "CNY")
        thaw_rest(agreement, back)
        move(uow, agreement, AgreementStatus.ACTIVE, reason="withdrawn")
    await run_jobs(kernel)
    agreement = await assert_closed(kernel, trade, AgreementStatus.SETTLED)
    assert (agreement.released_minor, agreement.refunded_minor) == (20, 80)
    await verified(kernel)


async def test_the_database_refuses_to_close_with_money_left_or_to_change_terms(
    kernel: Kernel,
) -> None:
    trade = await make_trade(kernel)

    async def force(statement: str) -> None:
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(statement, trade.agreement.id)

    for change in (
        "status = 'settled', closed_at = now()",
        "released_minor = total_minor + 1",
        "refunded_minor = -1",
        "status = 'nonsense'",
        "price_minor = 1",
        "terms = '{}'",
        "jws = 'x'",
        "seller_id = buyer_id",
        "expires_at = now()",
    ):
        with pytest.raises(Exception, match=r"violates check|permission denied"):
            await force(f"UPDATE contracts.agreement SET {change} WHERE id = $1")
    assert await agreement_of(kernel, trade.agreement.id) == trade.agreement


def test_value_is_a_floor_that_ends_at_the_total() -> None:
    agreement = Agreement.model_construct(total_minor=1_000, price_minor=1_000, lot_units=3)
    assert [accrual.used_value_minor(agreement, units) for units in (0, 1, 2, 3)] == [
        0,
        333,
        666,
        1_000,
    ]
