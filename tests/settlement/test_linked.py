"""Linked commands: all or none, and every refusal remembered."""

from datetime import timedelta

import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from settlement import ledger
from settlement.accounts import AccountRef
from settlement.commands import (
    Applied,
    Capture,
    Hold,
    Linked,
    Refused,
    Result,
    Transfer,
    Void,
    single,
)
from settlement.errors import InsufficientFunds
from tests.settlement.factories import (
    available,
    book,
    count,
    fund,
    hold,
    now,
    state,
    transfer,
    verified,
)


async def post(
    kernel: Kernel, *commands: Transfer | Hold | Capture | Void | Linked
) -> list[Result]:
    async with kernel.unit_of_work() as uow:
        return await ledger.post(uow, commands)


@pytest.fixture
async def source(kernel: Kernel) -> AccountRef:
    return await fund(kernel, new_id(), 1_000)


async def test_all_of_a_group_is_carried_out_in_order(kernel: Kernel, source: AccountRef) -> None:
    middle, target = available(new_id()), available(new_id())
    group = Linked((transfer(source, middle, 600), transfer(middle, target, 500)))
    results = await post(kernel, group, transfer(source, target, 1))
    assert [type(result) for result in results] == [Applied, Applied, Applied]
    assert await state(kernel, source) == (399, 0, 3)
    assert await state(kernel, middle) == (100, 0, 2)
    assert await state(kernel, target) == (501, 0, 2)
    again = await post(kernel, group)
    assert again == results[:2]
    assert all(result.replayed for result in again)
    assert await state(kernel, source) == (399, 0, 3)
    await verified(kernel)


async def test_a_refused_group_is_as_if_never_there(kernel: Kernel, source: AccountRef) -> None:
    target = available(new_id())
    first, last = transfer(source, target, 700), transfer(source, target, 700)
    middle = transfer(source, target, 700, key=f"culprit:{new_id().hex}")
    before = (await count(kernel, "transfer"), await count(kernel, "posting"))
    small = transfer(source, target, 10)
    results = await post(kernel, small, Linked((first, middle, last)), transfer(source, target, 5))
    short = "The available balance does not cover 700 minor units of CNY."
    with_it = f"Refused together with {middle.key}: insufficient_funds."
    assert results[1:4] == [
        Refused(first.key, "linked_refused", with_it),
        Refused(middle.key, "insufficient_funds", short),
        Refused(last.key, "linked_refused", with_it),
    ]
    assert (type(results[0]), type(results[4])) == (Applied, Applied)
    # What came before and after the group stands, with gapless seq; of the group there is nothing.
    assert await state(kernel, source) == (985, 0, 3)
    assert await state(kernel, target) == (15, 0, 2)
    assert (await count(kernel, "transfer"), await count(kernel, "posting")) == (
        before[0] + 2,
        before[1] + 4,
    )
    # Remembered under every key, alone or together, even when there would be money now.
    await book(kernel, transfer(await fund(kernel, new_id(), 9_000), source, 9_000))
    assert await post(kernel, Linked((first, middle, last))) == results[1:4]
    assert await post(kernel, last) == results[3:4]
    assert (await state(kernel, target))[0] == 15
    await verified(kernel)


async def test_holds_and_resolutions_are_undone_too(kernel: Kernel, source: AccountRef) -> None:
    target = available(new_id())
    later = await now(kernel) + timedelta(days=1)
    kept = hold(source, 400, later)
    await book(kernel, kept)
    fresh = hold(source, 100, later)
    void = Void(f"v:{new_id().hex}", kept.hold_id)
    capture = Capture(f"c:{new_id().hex}", fresh.hold_id, "sale", ((target, 100),))
    impossible = transfer(source, target, 1_001)
    refused = await post(kernel, Linked((void, fresh, capture, impossible)))
    assert all(isinstance(result, Refused) for result in refused)
    assert await state(kernel, source) == (1_000, 400, 1)
    # The same again under new keys, without the impossible one: the hold was still open.
    fresh = hold(source, 100, later)
    capture = Capture(f"c:{new_id().hex}", fresh.hold_id, "sale", ((target, 100),))
    done = await post(kernel, Linked((Void(f"v:{new_id().hex}", kept.hold_id), fresh, capture)))
    assert all(isinstance(result, Applied) for result in done)
    assert await state(kernel, source) == (900, 0, 2)
    await verified(kernel)


async def test_a_refused_reversal_may_be_tried_again(kernel: Kernel, source: AccountRef) -> None:
    target = available(new_id())
    (paid,) = await book(kernel, transfer(source, target, 50))
    assert isinstance(paid, Applied)

    def reversal() -> Transfer:
        legs = ((source, 50), (target, -50))
        return Transfer(f"r:{new_id().hex}", "reversal", legs, reverses=paid.transfer_id)

    refused = await post(kernel, Linked((reversal(), transfer(source, target, 5_000))))
    assert [type(result) for result in refused] == [Refused, Refused]
    (done, twice) = await post(kernel, reversal(), reversal())
    assert isinstance(done, Applied)
    assert isinstance(twice, Refused)
    assert twice.code == "already_reversed"


async def test_a_group_with_a_known_key_is_refused(kernel: Kernel, source: AccountRef) -> None:
    target = available(new_id())
    known, new = transfer(source, target, 10), transfer(source, target, 20)
    (first,) = await book(kernel, known)
    results = await post(kernel, Linked((new, known)))
    assert results == [
        Refused(new.key, "linked_refused", f"Refused together with {known.key}, which is not new."),
        first,
    ]
    assert (await state(kernel, target))[0] == 10


async def test_strict_raises_the_culprits_refusal(kernel: Kernel, source: AccountRef) -> None:
    group = Linked(
        (transfer(source, available(new_id()), 1), transfer(source, available(new_id()), 9_999))
    )
    with pytest.raises(InsufficientFunds, match="9999"):
        async with kernel.unit_of_work() as uow:
            await ledger.post_strict(uow, [group])
    assert await state(kernel, source) == (1_000, 0, 1)


def test_the_form_of_a_group_is_checked() -> None:
    one, two = (transfer(available(new_id()), available(new_id()), 1) for _ in range(2))
    with pytest.raises(ValueError, match="2 to 64"):
        Linked((one,))
    with pytest.raises(ValueError, match="2 to 64"):
        Linked(tuple(transfer(available(new_id()), available(new_id()), 1) for _ in range(65)))
    with pytest.raises(ValueError, match="different keys"):
        Linked((one, one))
    assert single([one, Linked((two, one))]) == [one, two, one]
