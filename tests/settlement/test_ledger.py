"""The ledger on a real database: races, memory of keys, holds in time, reversals."""

from datetime import timedelta
from uuid import UUID

import pytest

from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from settlement import ledger
from settlement.accounts import AccountRef
from settlement.commands import Applied, Capture, Expire, Hold, Refused, Result, Transfer, Void
from settlement.errors import AlreadyReversed, InsufficientFunds, LedgerKeyReused, ReversalRefused
from settlement.jobs import expire_holds
from settlement.writer import LedgerWriter
from tests.settlement.factories import (
    FAR,
    available,
    book,
    count,
    fund,
    hold,
    move_clock,
    now,
    state,
    together,
    transfer,
    verified,
)

AFFORDABLE = 7
PRICE = 100


async def test_a_hundred_parallel_holds_exactly_the_affordable_ones(kernel: Kernel) -> None:
    account = await fund(kernel, new_id(), AFFORDABLE * PRICE + 99)
    expires = await now(kernel) + FAR
    answers = await together(*(book(kernel, hold(account, PRICE, expires)) for _ in range(100)))
    results = [answer[0] for answer in answers if isinstance(answer, list)]
    assert len(results) == 100
    assert sum(isinstance(result, Applied) for result in results) == AFFORDABLE
    refused = [result for result in results if isinstance(result, Refused)]
    assert {result.code for result in refused} == {"insufficient_funds"}
    assert await state(kernel, account) == (AFFORDABLE * PRICE + 99, AFFORDABLE * PRICE, 1)
    await verified(kernel)


async def test_a_hundred_parallel_holds_through_the_writer(kernel: Kernel) -> None:
    account = await fund(kernel, new_id(), AFFORDABLE * PRICE + 99)
    expires = await now(kernel) + FAR
    batches = await count(kernel, "batch")
    async with LedgerWriter(kernel) as writer:
        results = await together(
            *(writer.submit(hold(account, PRICE, expires)) for _ in range(100))
        )
    assert sum(isinstance(result, Applied) for result in results) == AFFORDABLE
    assert sum(isinstance(result, Refused) for result in results) == 93
    assert await state(kernel, account) == (AFFORDABLE * PRICE + 99, AFFORDABLE * PRICE, 1)
    assert await count(kernel, "batch") - batches <= 3
    await verified(kernel)


async def test_one_key_twenty_times_at_once_is_one_effect(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    command = transfer(source, target, 300)
    answers = await together(*(book(kernel, command) for _ in range(20)))
    results = [answer[0] for answer in answers if isinstance(answer, list)]
    assert len(results) == 20
    assert len(set(results)) == 1
    assert sum(not result.replayed for result in results) == 1
    assert await state(kernel, source) == (700, 0, 2)
    assert await state(kernel, target) == (300, 0, 1)


async def test_one_key_for_different_bodies_at_once_has_one_winner(kernel: Kernel) -> None:
    """On unrelated accounts nothing but the key's uniqueness stands between the two."""
    key = f"test:{new_id().hex}"
    sources = [await fund(kernel, new_id(), 1_000) for _ in range(8)]
    answers = await together(
        *(book(kernel, transfer(source, available(new_id()), 300, key=key)) for source in sources)
    )
    applied = [a for a in answers if isinstance(a, list) and isinstance(a[0], Applied)]
    assert len(applied) == 1
    for answer in answers:
        if isinstance(answer, list) and isinstance(answer[0], Refused):
            assert answer[0].code == "idempotency_key_reused"
        elif isinstance(answer, BaseException):
            assert isinstance(answer, MarketError)
            assert answer.code == "ledger_key_race"
    left = [(await state(kernel, source))[0] for source in sources]
    assert sorted(left) == [700, *[1_000] * 7]


async def test_a_refusal_is_remembered_and_changes_nothing(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 100)
    target = available(new_id())
    command = transfer(source, target, 101)
    (first,) = await book(kernel, command)
    assert isinstance(first, Refused)
    assert first.code == "insufficient_funds"
    assert (await state(kernel, source), await state(kernel, target)) == ((100, 0, 1), (0, 0, 0))
    transfers = await count(kernel, "transfer")
    async with kernel.unit_of_work() as uow:
        clearing = AccountRef("clearing", None, "CNY")
        await ledger.post(uow, [transfer(clearing, source, 500)])
    (again,) = await book(kernel, command)
    assert again == first
    assert again.replayed
    assert await count(kernel, "transfer") == transfers + 1
    assert await state(kernel, source) == (600, 0, 2)


async def test_a_key_used_for_another_body_is_refused(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 100)
    target = available(new_id())
    (first,) = await book(kernel, transfer(source, target, 10, key="test:reuse"))
    (other,) = await book(kernel, transfer(source, target, 11, key="test:reuse"))
    assert isinstance(first, Applied)
    assert isinstance(other, Refused)
    assert other.code == "idempotency_key_reused"
    (same,) = await book(kernel, transfer(source, target, 10, key="test:reuse"))
    assert same == first
    assert await state(kernel, source) == (90, 0, 2)
    with pytest.raises(LedgerKeyReused):
        async with kernel.unit_of_work() as uow:
            await ledger.post_strict(uow, [transfer(source, target, 12, key="test:reuse")])


async def test_strict_posting_is_all_or_nothing(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 100)
    target = available(new_id())
    good, bad = transfer(source, target, 60), transfer(source, target, 60)
    with pytest.raises(InsufficientFunds):
        async with kernel.unit_of_work() as uow:
            await ledger.post_strict(uow, [good, bad])
    assert await state(kernel, source) == (100, 0, 1)
    assert await state(kernel, target) == (0, 0, 0)
    async with kernel.unit_of_work() as uow:
        assert await ledger.recall(uow, good.key) is None
        assert await ledger.recall(uow, bad.key) is None


async def test_capture_pays_keeps_and_frees(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    one, two = available(new_id()), available(new_id())
    reserve = hold(source, 600, await now(kernel) + FAR)
    kept = new_id()
    results = await book(
        kernel,
        reserve,
        Capture(
            f"c:{kept.hex}",
            reserve.hold_id,
            "sale",
            ((one, 150), (two, 50)),
            rehold=300,
            rehold_id=kept,
            memo_id=new_id(),
        ),
    )
    assert isinstance(results[1], Applied)
    assert results[1].hold_id == kept
    assert await state(kernel, source) == (800, 300, 2)
    assert (await state(kernel, one))[0] == 150
    assert (await state(kernel, two))[0] == 50
    (second,) = await book(kernel, Capture(f"d:{kept.hex}", reserve.hold_id, "sale", ((one, 1),)))
    assert isinstance(second, Refused)
    assert second.code == "hold_resolved"
    (rest,) = await book(kernel, Capture(f"e:{kept.hex}", kept, "sale", ((one, 300),)))
    assert isinstance(rest, Applied)
    assert await state(kernel, source) == (500, 0, 3)
    await verified(kernel)


async def test_capture_and_void_race_has_one_winner(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    reserve = hold(source, 600, await now(kernel) + FAR)
    await book(kernel, reserve)
    answers = await together(
        *(
            book(
                kernel, Capture(f"cap:{n}:{reserve.key}", reserve.hold_id, "sale", ((target, 600),))
            )
            for n in range(10)
        ),
        *(book(kernel, Void(f"void:{n}:{reserve.key}", reserve.hold_id)) for n in range(10)),
    )
    results: list[Result] = [answer[0] for answer in answers if isinstance(answer, list)]
    assert len(results) == 20
    applied = [result for result in results if isinstance(result, Applied)]
    assert len(applied) == 1
    paid = 600 if applied[0].transfer_id is not None else 0
    assert (await state(kernel, source))[:2] == (1_000 - paid, 0)
    assert (await state(kernel, target))[0] == paid


async def test_an_expired_hold_is_uncapturable_before_the_sweeper_runs(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    target = available(new_id())
    started = await now(kernel)
    short = hold(source, 400, started + timedelta(seconds=60))
    long = hold(source, 500, started + timedelta(days=2))
    await book(kernel, short, long)
    early = Expire(f"early:{short.key}", short.hold_id)
    (refused,) = await book(kernel, early)
    assert isinstance(refused, Refused)
    assert refused.code == "hold_not_expired"
    assert await expire_holds(kernel) == 0
    await move_clock(kernel, timedelta(seconds=61))
    (late,) = await book(
        kernel, Capture(f"late:{short.key}", short.hold_id, "sale", ((target, 400),))
    )
    assert isinstance(late, Refused)
    assert late.code == "hold_expired"
    assert await state(kernel, source) == (1_000, 900, 1)
    assert await expire_holds(kernel) == 1
    assert await state(kernel, source) == (1_000, 500, 1)
    assert await expire_holds(kernel) == 0
    # The sweeper remembers how far it came, and still finds what expires later.
    await move_clock(kernel, timedelta(days=3))
    assert await expire_holds(kernel) == 1
    assert await state(kernel, source) == (1_000, 0, 1)
    (past,) = await book(kernel, hold(source, 1, await now(kernel) - timedelta(seconds=1)))
    assert isinstance(past, Refused)
    assert past.code == "hold_expired"
    await verified(kernel)


async def test_sweepers_at_once_free_each_hold_once(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    expires = await now(kernel) + timedelta(seconds=30)
    await book(kernel, *(hold(source, 10, expires) for _ in range(20)))
    await move_clock(kernel, timedelta(seconds=31))
    freed = await together(*(expire_holds(kernel) for _ in range(4)))
    assert sum(n for n in freed if isinstance(n, int)) == 20
    assert await state(kernel, source) == (1_000, 0, 1)


async def test_a_transfer_is_reversed_once_and_completely(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    target, fees = available(new_id()), AccountRef("fees", None, "CNY")
    before = await state(kernel, fees)
    legs = ((source, -1_000), (target, 950), (fees, 50))
    (paid,) = await book(kernel, Transfer(f"sale:{new_id().hex}", "sale", legs))
    assert isinstance(paid, Applied)
    original = paid.transfer_id
    assert original is not None
    answers = await together(*(_reverse(kernel, original) for _ in range(8)))
    done = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(done) == 1
    assert {type(a) for a in answers if isinstance(a, BaseException)} == {AlreadyReversed}
    assert await state(kernel, source) == (1_000, 0, 3)
    assert await state(kernel, target) == (0, 0, 2)
    assert (await state(kernel, fees))[0] == before[0]
    with pytest.raises(ReversalRefused, match="cannot be reversed"):
        await _reverse(kernel, done[0])
    with pytest.raises(ReversalRefused, match="no such transfer"):
        await _reverse(kernel, new_id())


async def test_a_reversal_needs_the_money_to_be_there(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 100)
    target, elsewhere = available(new_id()), available(new_id())
    (paid,) = await book(kernel, transfer(source, target, 100))
    await book(kernel, transfer(target, elsewhere, 1))
    assert isinstance(paid, Applied)
    assert paid.transfer_id is not None
    with pytest.raises(InsufficientFunds):
        await _reverse(kernel, paid.transfer_id)
    assert await state(kernel, source) == (0, 0, 2)


async def test_first_postings_to_an_account_at_once_all_count(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 1_000)
    for _ in range(12):
        target = available(new_id())
        # No common account before it: nothing makes them queue.
        sources = [await fund(kernel, new_id(), 5) for _ in range(4)]
        commands = [transfer(one, target, 5) for one in (*sources, source)]
        answers = await together(*(book(kernel, command) for command in commands))
        assert not [answer for answer in answers if isinstance(answer, BaseException)]
        assert await state(kernel, target) == (25, 0, 5)


async def test_booking_times_follow_the_order_of_an_account(kernel: Kernel) -> None:
    """Transactions begin in one order and lock in another; as-of needs times along seq."""
    source = await fund(kernel, new_id(), 1_000)
    targets = [available(new_id()) for _ in range(5)]
    answers = await together(*(book(kernel, transfer(source, target, 1)) for target in targets * 8))
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT t.booked_at FROM settlement.posting p JOIN settlement.transfer t"
            " ON t.id = p.transfer_id WHERE p.account_id = $1 ORDER BY p.seq",
            source.id,
        )
    times = [row[0] for row in rows]
    assert len(times) == 41
    assert times == sorted(times)


async def test_too_many_commands_are_refused_before_anything_happens(kernel: Kernel) -> None:
    source = available(new_id())
    with pytest.raises(ValueError, match="at most"):
        await book(kernel, *[transfer(source, available(new_id()), 1)] * 4_097)
    assert await book(kernel) == []
    assert await state(kernel, source) == (0, 0, 0)


async def test_holds_of_other_accounts_do_not_share_an_id(kernel: Kernel) -> None:
    one, two = await fund(kernel, new_id(), 100), await fund(kernel, new_id(), 100)
    first = hold(one, 50, await now(kernel) + FAR)
    second = Hold("test:second", first.hold_id, two, 50, first.expires_at)
    assert isinstance((await book(kernel, first))[0], Applied)
    (refused,) = await book(kernel, second)
    assert isinstance(refused, Refused)
    assert refused.code == "hold_exists"
    assert await state(kernel, two) == (100, 0, 1)


async def _reverse(kernel: Kernel, transfer_id: UUID) -> UUID:
    async with kernel.unit_of_work() as uow:
        return await ledger.reverse(uow, f"reversal:{new_id().hex}", transfer_id, memo_id=None)
