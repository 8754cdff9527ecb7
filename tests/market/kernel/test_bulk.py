"""Bulk inserts: arrays for a few rows and COPY for many must store the same."""

import asyncpg
import pytest

from market.kernel import events, idempotency
from market.kernel.bulk import COPY_FROM_ROWS, BulkTable
from market.kernel.context import Kernel
from market.kernel.ids import new_id

TABLE = BulkTable("pg_temp.thing", ("id", "name", "amount", "data"), "uuid text numeric jsonb")


@pytest.mark.parametrize("count", [0, 1, COPY_FROM_ROWS - 1, COPY_FROM_ROWS, 3 * COPY_FROM_ROWS])
async def test_rows_are_stored_whole_and_in_order(kernel: Kernel, count: int) -> None:
    rows = [
        (new_id(), None if n % 3 else f"数据 {n}", 10**24 + n, f'{{"n": {n}}}')
        for n in range(count)
    ]
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        await raw.execute(
            "CREATE TEMP TABLE thing (seq int GENERATED ALWAYS AS IDENTITY, id uuid, name text,"
            " amount numeric(30, 0), data jsonb) ON COMMIT DROP"
        )
        await TABLE.insert(raw, rows)
        found = await raw.fetch(
            "SELECT id, name, amount, (data->>'n')::int AS n FROM thing ORDER BY seq"
        )
    assert [(row["id"], row["name"], int(row["amount"]), row["n"]) for row in found] == [
        (identity, name, amount, n) for n, (identity, name, amount, _) in enumerate(rows)
    ]


async def test_a_row_that_breaks_a_rule_breaks_the_batch(kernel: Kernel) -> None:
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        await raw.execute(
            "CREATE TEMP TABLE thing (id uuid, name text, amount numeric, data jsonb)"
        )
        for count in (2, COPY_FROM_ROWS):
            with pytest.raises(asyncpg.PostgresError):
                async with raw.transaction():
                    await TABLE.insert(raw, [(new_id(), "x", 1, "{no json")] * count)
        assert await raw.fetchval("SELECT count(*) FROM thing") == 0
        await raw.execute("DROP TABLE thing")


@pytest.mark.parametrize("count", [2, COPY_FROM_ROWS])
async def test_events_keep_order_parties_and_data(kernel: Kernel, count: int) -> None:
    subject, parties = new_id(), [new_id(), new_id(), new_id()]
    async with kernel.unit_of_work() as uow:
        for n in range(count):
            uow.emit("bulk.test", subject, {"n": n, "text": "价"}, parties=parties[: n % 4])
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT parties, data->>'n' AS n, data->>'text' AS text, txid"
            " FROM kernel.outbox WHERE object_id = $1 ORDER BY seq",
            subject,
        )
    assert [(list(row["parties"]), row["n"], row["text"]) for row in rows] == [
        (parties[: n % 4], str(n), "价") for n in range(count)
    ]
    assert len({row["txid"] for row in rows}) == 1
    assert rows[0]["txid"] > 0


async def test_many_answers_are_stored_once(kernel: Kernel) -> None:
    party = new_id()
    entries = [
        idempotency.Entry(
            party, f"bulk-{n}", b"r" * 32, idempotency.Answer(201, b"%d" % n, {"A": "b"})
        )
        for n in range(COPY_FROM_ROWS)
    ]
    names = [(party, entry.key) for entry in entries]
    async with kernel.unit_of_work() as uow:
        assert await idempotency.store(await uow.raw(), entries) == COPY_FROM_ROWS
        found = await idempotency.lookup(await uow.raw(), names)
    assert found == {
        (party, idempotency.hash_key(entry.key)): (b"r" * 32, entry.answer) for entry in entries
    }
    with pytest.raises(asyncpg.UniqueViolationError):
        async with kernel.unit_of_work() as uow:
            await idempotency.store(await uow.raw(), entries)


def test_an_event_is_made_of_its_data_at_once() -> None:
    data: dict[str, object] = {"n": 1}
    party = new_id()
    event = events.Event.of("bulk.test", new_id(), data, [party, party])
    data["n"] = 2
    assert (event.data, event.parties) == (b'{"n":1}', (party,))
