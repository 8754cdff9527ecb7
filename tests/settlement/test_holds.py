"""Two-phase holds at their edges: database time decides, and one end wins."""

import asyncio
from datetime import timedelta

from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.schedule import SCHEDULE
from settlement.commands import Applied, Capture, Expire, Result, Void
from settlement.jobs import expire_holds
from settlement.writer import LedgerWriter
from tests.settlement.factories import (
    available,
    book,
    fund,
    hold,
    move_clock,
    now,
    state,
    together,
    verified,
)


def codes(*results: Result | BaseException) -> list[str]:
    assert not [result for result in results if isinstance(result, BaseException)]
    return ["" if isinstance(result, Applied) else result.code for result in results]  # type: ignore[union-attr]


def test_the_sweeper_is_scheduled() -> None:
    assert [job.run for job in SCHEDULE if job.name == "expire_holds"] == [expire_holds]


async def test_time_counts_when_the_lock_is_held_not_when_the_request_came(
    kernel: Kernel,
) -> None:
    """A capture that waits for its account's lock beyond the expiry is too late."""
    source, target = await fund(kernel, new_id(), 1_000), available(new_id())
    kept = hold(source, 400, await now(kernel) + timedelta(seconds=1.5))
    await book(kernel, kept)
    locked, release = asyncio.Event(), asyncio.Event()

    async def blocker() -> list[Result]:
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(
                "SELECT 1 FROM settlement.account WHERE id = $1 FOR UPDATE", source.id
            )
            locked.set()
            await release.wait()
        return []

    async def late() -> list[Result]:
        await locked.wait()
        capture = Capture(f"late:{new_id().hex}", kept.hold_id, "sale", ((target, 400),))
        return await book(kernel, capture)

    async def timer() -> list[Result]:
        await locked.wait()
        await asyncio.sleep(1.7)
        release.set()
        return []

    _, (refused, *_), _ = await together(blocker(), late(), timer())  # type: ignore[misc]
    assert codes(refused) == ["hold_expired"]
    assert await state(kernel, source) == (1_000, 400, 1)
    assert await state(kernel, target) == (0, 0, 0)
    await verified(kernel)


async def test_the_shared_writer_refuses_expired_holds_too(kernel: Kernel) -> None:
    source, target = await fund(kernel, new_id(), 1_000), available(new_id())
    kept = hold(source, 400, await now(kernel) + timedelta(seconds=30))
    async with LedgerWriter(kernel) as writer:
        assert codes(await writer.submit(kept)) == [""]
        await move_clock(kernel, timedelta(seconds=31))
        capture = Capture(f"late:{new_id().hex}", kept.hold_id, "sale", ((target, 1),))
        assert codes(await writer.submit(capture)) == ["hold_expired"]
    assert await state(kernel, source) == (1_000, 400, 1)


async def test_a_partial_capture_frees_the_rest_or_holds_it_on(kernel: Kernel) -> None:
    source, target = await fund(kernel, new_id(), 1_000), available(new_id())
    expires = await now(kernel) + timedelta(days=1)
    freed, kept = hold(source, 400, expires), hold(source, 300, expires)
    await book(kernel, freed, kept)
    rest = new_id()
    results = await book(
        kernel,
        Capture(f"a:{rest.hex}", freed.hold_id, "sale", ((target, 150),)),
        Capture(f"b:{rest.hex}", kept.hold_id, "sale", ((target, 100),), 120, rest),
        Capture(f"c:{rest.hex}", freed.hold_id, "sale", ((target, 1),)),
        Capture(f"d:{rest.hex}", rest, "sale", ((target, 121),)),
        Void(f"e:{rest.hex}", kept.hold_id),
    )
    assert codes(*results) == ["", "", "hold_resolved", "capture_exceeds_hold", "hold_resolved"]
    assert await state(kernel, source) == (750, 120, 3)
    # The new hold has the expiry of the old one.
    await move_clock(kernel, timedelta(days=1))
    (late,) = await book(kernel, Capture(f"f:{rest.hex}", rest, "sale", ((target, 120),)))
    assert codes(late) == ["hold_expired"]
    assert await expire_holds(kernel) >= 1
    assert await state(kernel, source) == (750, 0, 3)
    assert (await state(kernel, target))[0] == 250


async def test_an_expired_hold_can_still_be_voided_once(kernel: Kernel) -> None:
    source = await fund(kernel, new_id(), 100)
    kept = hold(source, 60, await now(kernel) + timedelta(seconds=5))
    await book(kernel, kept)
    await move_clock(kernel, timedelta(seconds=6))
    ends = await together(
        book(kernel, Void(f"v:{kept.key}", kept.hold_id)),
        book(kernel, Expire(f"x:{kept.key}", kept.hold_id)),
        book(kernel, Capture(f"c:{kept.key}", kept.hold_id, "sale", ((available(new_id()), 1),))),
    )
    void, expire, capture = (codes(*end)[0] for end in ends if isinstance(end, list))
    assert sorted([void, expire]) == ["", "hold_resolved"]
    assert capture in ("hold_expired", "hold_resolved")
    assert await state(kernel, source) == (100, 0, 1)
    await verified(kernel)
