"""Escrow: releases, refunds, freezing and rulings, exact to the minor unit and keyed."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.money import Money
from settlement import escrow
from settlement.accounts import AccountRef
from settlement.errors import InsufficientFunds, LedgerKeyReused
from settlement.escrow import Release
from settlement.split import SplitTerms, cumulative
from tests.settlement.factories import available, escrowed, state, verified

FEE_PPM = 50_000


async def fees(kernel: Kernel) -> int:
    return (await state(kernel, AccountRef("fees", None, "CNY")))[0]


def a_release(
    agreement: UUID, amount: int, seller: UUID, *, before: int = 0, key: str | None = None,
    shares: tuple[tuple[UUID, int], ...] = (),
) -> Release:  # fmt: skip
    return Release(
        key=key or f"release:{agreement.hex}:{before}",
        agreement_id=agreement,
        currency="CNY",
        amount=amount,
        seller_id=seller,
        fee_ppm=FEE_PPM,
        shares=shares,
        released_before=before,
    )


async def test_a_release_pays_fee_shares_and_seller(kernel: Kernel) -> None:
    agreement, seller, helper = new_id(), new_id(), new_id()
    account = await escrowed(kernel, agreement, 100_000)
    before = await fees(kernel)
    item = a_release(agreement, 100_000, seller, shares=((helper, 200_000),))
    async with kernel.unit_of_work() as uow:
        (done,) = await escrow.release(uow, [item])
    assert (done.parts.fee, done.parts.shares, done.parts.seller) == (5_000, (19_000,), 76_000)
    assert (await state(kernel, account))[0] == 0
    assert await fees(kernel) - before == 5_000
    assert (await state(kernel, available(helper)))[0] == 19_000
    assert (await state(kernel, available(seller)))[0] == 76_000
    async with kernel.unit_of_work() as uow:
        (again,) = await escrow.release(uow, [item])
    assert again == done
    assert (await state(kernel, available(seller)))[0] == 76_000


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.integers(1, 37), min_size=1, max_size=12))
async def test_many_partial_releases_equal_one(kernel: Kernel, steps: list[int]) -> None:
    agreement, seller, helpers = new_id(), new_id(), (new_id(), new_id())
    shares = ((helpers[0], 300_000), (helpers[1], 123_457))
    account = await escrowed(kernel, agreement, sum(steps))
    before, released = await fees(kernel), 0
    for step in steps:
        async with kernel.unit_of_work() as uow:
            await escrow.release(
                uow, [a_release(agreement, step, seller, before=released, shares=shares)]
            )
        released += step
    parts = cumulative(released, SplitTerms(FEE_PPM, shares))
    assert (await state(kernel, account))[0] == 0
    assert await fees(kernel) - before == parts.fee
    paid = [(await state(kernel, available(party)))[0] for party in (*helpers, seller)]
    assert paid == [*parts.shares, parts.seller]


async def test_a_seller_who_is_also_a_contributor_is_paid_in_one_leg(kernel: Kernel) -> None:
    agreement, seller = new_id(), new_id()
    await escrowed(kernel, agreement, 1_000)
    async with kernel.unit_of_work() as uow:
        await escrow.release(
            uow, [a_release(agreement, 1_000, seller, shares=((seller, 500_000),))]
        )
    assert await state(kernel, available(seller)) == (950, 0, 1)


async def test_releasing_more_than_escrow_holds_changes_nothing(kernel: Kernel) -> None:
    agreement, seller = new_id(), new_id()
    account = await escrowed(kernel, agreement, 999)
    with pytest.raises(InsufficientFunds):
        async with kernel.unit_of_work() as uow:
            await escrow.release(
                uow,
                [
                    a_release(agreement, 500, seller),
                    a_release(agreement, 500, seller, before=500),
                ],
            )
    assert (await state(kernel, account))[0] == 999
    assert await state(kernel, available(seller)) == (0, 0, 0)


async def test_refund_goes_back_to_the_buyer_once(kernel: Kernel) -> None:
    agreement, buyer = new_id(), new_id()
    account = await escrowed(kernel, agreement, 1_000)
    money = Money(amount_minor=400, currency="CNY")
    for _ in range(2):
        async with kernel.unit_of_work() as uow:
            await escrow.refund(uow, f"refund:{agreement.hex}", agreement, buyer, money)
    assert (await state(kernel, account))[0] == 600
    assert await state(kernel, available(buyer)) == (400, 0, 1)
    other = Money(amount_minor=1, currency="CNY")
    with pytest.raises(LedgerKeyReused):
        async with kernel.unit_of_work() as uow:
            await escrow.refund(uow, f"refund:{agreement.hex}", agreement, buyer, other)


async def test_freeze_takes_what_is_left_and_unfreeze_brings_it_back(kernel: Kernel) -> None:
    agreement, dispute, seller = new_id(), new_id(), new_id()
    account = await escrowed(kernel, agreement, 1_000)
    async with kernel.unit_of_work() as uow:
        await escrow.release(uow, [a_release(agreement, 300, seller)])
    for _ in range(2):
        async with kernel.unit_of_work() as uow:
            moved = await escrow.freeze(uow, f"f:{dispute.hex}", agreement, dispute, "CNY")
        assert moved == 700
    frozen = escrow.frozen_of(dispute, "CNY")
    async with kernel.unit_of_work() as uow:
        assert await escrow.balance(uow, frozen) == 700
        assert await escrow.balance(uow, account) == 0
    with pytest.raises(InsufficientFunds):
        async with kernel.unit_of_work() as uow:
            await escrow.release(uow, [a_release(agreement, 1, seller, before=300)])
    for _ in range(2):
        async with kernel.unit_of_work() as uow:
            back = await escrow.unfreeze(uow, f"u:{dispute.hex}", agreement, dispute, "CNY")
        assert back == 700
    assert (await state(kernel, account))[0] == 700


async def test_freezing_nothing_moves_nothing(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        assert await escrow.freeze(uow, "f:nothing", new_id(), new_id(), "CNY") == 0
        assert await escrow.unfreeze(uow, "u:nothing", new_id(), new_id(), "CNY") == 0


@pytest.mark.parametrize(
    ("buyer_ppm", "buyer", "fee", "seller"),
    [(1_000_000, 701, 0, 0), (0, 0, 35, 666), (600_000, 421, 14, 266)],
)
async def test_a_ruling_empties_the_frozen_account(
    kernel: Kernel, buyer_ppm: int, buyer: int, fee: int, seller: int
) -> None:
    agreement, dispute, buyer_id, seller_id = new_id(), new_id(), new_id(), new_id()
    await escrowed(kernel, agreement, 701)
    before = await fees(kernel)
    async with kernel.unit_of_work() as uow:
        await escrow.freeze(uow, f"f:{dispute.hex}", agreement, dispute, "CNY")
    for _ in range(2):
        async with kernel.unit_of_work() as uow:
            paid = await escrow.apply_ruling(
                uow,
                f"r:{dispute.hex}",
                dispute,
                "CNY",
                buyer_id=buyer_id,
                buyer_ppm=buyer_ppm,
                seller_id=seller_id,
                fee_ppm=FEE_PPM,
            )
        assert (paid["buyer"], paid["fee"], paid["seller"]) == (buyer, fee, seller)
        assert paid["transfer_id"] is not None
    assert (await state(kernel, escrow.frozen_of(dispute, "CNY")))[0] == 0
    assert (await state(kernel, available(buyer_id)))[0] == buyer
    assert (await state(kernel, available(seller_id)))[0] == seller
    assert await fees(kernel) - before == fee
    await verified(kernel)


async def test_a_ruling_continues_the_rounding_of_earlier_releases(kernel: Kernel) -> None:
    agreement, dispute, buyer, seller, helper = (new_id() for _ in range(5))
    shares = ((helper, 333_333),)
    await escrowed(kernel, agreement, 1_000)
    before = await fees(kernel)
    async with kernel.unit_of_work() as uow:
        await escrow.release(uow, [a_release(agreement, 333, seller, shares=shares)])
        await escrow.freeze(uow, f"f:{dispute.hex}", agreement, dispute, "CNY")
    async with kernel.unit_of_work() as uow:
        paid = await escrow.apply_ruling(
            uow,
            f"r:{dispute.hex}",
            dispute,
            "CNY",
            buyer_id=buyer,
            buyer_ppm=500_000,
            seller_id=seller,
            fee_ppm=FEE_PPM,
            shares=shares,
            released_before=333,
        )
    whole = cumulative(333 + 333, SplitTerms(FEE_PPM, shares))
    assert paid["buyer"] == 334
    assert await fees(kernel) - before == whole.fee
    assert (await state(kernel, available(helper)))[0] == whole.shares[0]
    assert (await state(kernel, available(seller)))[0] == whole.seller
    assert paid["shares"][helper] + paid["fee"] + paid["seller"] == 333


async def test_a_ruling_outside_its_range_is_a_bug(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        with pytest.raises(ValueError, match="buyer_ppm"):
            await escrow.apply_ruling(
                uow, "r:bad", new_id(), "CNY", buyer_id=new_id(), buyer_ppm=1_000_001,
                seller_id=new_id(), fee_ppm=0,
            )  # fmt: skip
