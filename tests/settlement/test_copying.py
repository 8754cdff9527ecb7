"""Large batches are copied in; their rows must read exactly as those of small ones."""

import uuid
from datetime import timedelta
from typing import Any

import pytest

from market.kernel.context import Kernel
from settlement import ledger, sql
from settlement.commands import Capture, Command, Refused, Transfer, Void
from settlement.copying import COPY_FROM_ENTRIES
from tests.settlement.factories import available, book, count, fund, hold, now, transfer, verified

_ROWS = """
SELECT c.key, c.ordinal, encode(c.body_hash, 'hex') AS body, c.type, c.code, c.detail,
       c.hold_id, c.resolved_hold_id, t.kind, t.memo_id, t.reverses,
       t.event_at - t.booked_at AS late
FROM settlement.command c LEFT JOIN settlement.transfer t ON t.id = c.transfer_id
WHERE c.batch_id = (SELECT batch_id FROM settlement.command WHERE key = $1) ORDER BY c.ordinal
"""


async def rows(kernel: Kernel, key: str) -> list[tuple[Any, ...]]:
    async with kernel.unit_of_work() as uow:
        return [tuple(row) for row in await (await uow.raw()).fetch(_ROWS, key)]


async def batch(kernel: Kernel, mark: str) -> list[Command]:
    """One command of every kind and fate, then enough plain ones to be copied."""
    source = await fund(kernel, uuid.uuid4(), 10_000)
    target = available(uuid.uuid4())
    moment = await now(kernel)
    first = hold(source, 100, moment + timedelta(days=1), key=f"{mark}:hold")
    second = hold(source, 50, moment + timedelta(days=1), key=f"{mark}:hold2")
    legs = ((source, -5), (target, 5))
    rehold = uuid.uuid4()
    return [
        first,
        second,
        Capture(f"{mark}:cap", first.hold_id, "sale", ((target, 40),), rehold=60, rehold_id=rehold),
        Void(f"{mark}:void", second.hold_id),
        Transfer(f"{mark}:memo", "sale", legs, memo_id=uuid.uuid4()),
        Transfer(f"{mark}:late", "sale", legs, event_at=moment - timedelta(days=3)),
        transfer(source, target, 10**9, key=f"{mark}:poor"),
        *(transfer(source, target, 1, key=f"{mark}:{n}") for n in range(COPY_FROM_ENTRIES)),
    ]


async def test_a_copied_batch_reads_as_it_was_decided(kernel: Kernel) -> None:
    commands = await batch(kernel, "c")
    results = await book(kernel, *commands)
    assert [type(r) is Refused for r in results] == [c.key == "c:poor" for c in commands]
    stored = await rows(kernel, "c:hold")
    assert [row[0] for row in stored] == [command.key for command in commands]
    assert [row[1] for row in stored] == list(range(len(commands)))
    by_key = {row[0]: row for row in stored}
    assert by_key["c:poor"][4] == "insufficient_funds"
    assert by_key["c:memo"][9] == commands[4].memo_id  # type: ignore[union-attr]
    assert timedelta(days=-4) < by_key["c:late"][11] < timedelta(days=-2)
    assert by_key["c:cap"][6] == commands[2].rehold_id  # type: ignore[union-attr]
    assert await book(kernel, *commands) == results
    await verified(kernel)


async def test_copied_and_unnested_rows_are_the_same(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = await batch(kernel, "s")
    first = commands[4:]
    await book(kernel, *commands[:4])
    await book(kernel, *first)
    copied = await rows(kernel, "s:memo")
    monkeypatch.setattr(sql, "COPY_FROM_ENTRIES", 10**6)
    again = await batch(kernel, "t")
    await book(kernel, *again[:4])
    await book(kernel, *again[4:])
    unnested = await rows(kernel, "t:memo")
    same = [1, 3, 4, 5, 6, 7, 8, 10]
    assert [[row[n] for n in same] for row in copied] == [
        [row[n] for n in same] for row in unnested
    ]
    await verified(kernel)


async def cut(kernel: Kernel, commands: list[Transfer]) -> None:
    async with kernel.unit_of_work() as uow:
        await ledger.post(uow, commands)
        raise RuntimeError("cut")


async def test_a_failing_copy_leaves_nothing(kernel: Kernel) -> None:
    source = await fund(kernel, uuid.uuid4(), 1_000)
    before = {t: await count(kernel, t) for t in ("batch", "command", "transfer", "posting")}
    commands = [transfer(source, available(uuid.uuid4()), 1) for _ in range(COPY_FROM_ENTRIES)]
    with pytest.raises(RuntimeError, match="cut"):
        await cut(kernel, commands)
    assert {t: await count(kernel, t) for t in before} == before
