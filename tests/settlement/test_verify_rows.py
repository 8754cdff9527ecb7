"""Every column of every row of the ledger: changed, deleted, added or moved, it is found."""

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from settlement.checkpoints import checkpoint_file, write_checkpoint
from settlement.commands import Applied, Capture, Transfer, Void
from settlement.verify import Finding, Report, verify_ledger
from tests.settlement.conftest import Guarded
from tests.settlement.factories import available, book, fund, hold, now, transfer

Ids = dict[str, str]

KEYS = {
    "account": "id",
    "batch": "id",
    "command": "key",
    "transfer": "id",
    "posting": "account_id",
    "hold": "id",
    "hold_resolution": "hold_id",
    "chain_head": "id",
    "chain_link": "number",
    "checkpoint": "number",
}
# The one column that no other row and no hash knows.
UNPROVED = {("account", "created_at")}
OF_TARGET = "account_id = '{posting}'"
OTHER_UUID = "'0190f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6'"
CHANGES = {
    "uuid": OTHER_UUID,
    "bytea": "sha256({c})",
    "text": "{c} || 'x'",
    "character varying": "'USD'",
    "bigint": "{c} + 1000",
    "integer": "{c} + 1000",
    "smallint": "{c} + 1",
    "timestamp with time zone": "{c} + interval '1 microsecond'",
}
# Where a CHECK allows only few values.
SPECIAL = {
    ("account", "kind"): "'frozen'",
    ("batch", "format"): "1",
    ("command", "type"): "'void'",
    ("command", "detail"): "'other'",
    ("command", "code"): "'other'",
    ("chain_head", "id"): None,
    ("hold_resolution", "outcome"): None,
    ("transfer", "reverses"): OTHER_UUID,
}


@pytest.fixture(scope="module")
async def ids(guarded: Guarded) -> Ids:
    """Every kind of row, and the keys of one each."""
    kernel = guarded.kernel
    source = await fund(kernel, uuid.uuid4(), 10_000)
    target = available(uuid.uuid4())
    later = await now(kernel) + timedelta(days=9)
    kept, done, void = hold(source, 300, later), hold(source, 200, later), hold(source, 100, later)
    rest, memo = uuid.uuid4(), uuid.uuid4()
    legs = ((source, -1_000), (target, 1_000))
    paid = Transfer("r:paid", "sale", legs, memo_id=memo, event_at=later - timedelta(days=99))
    (first, *_) = await book(kernel, paid, kept, done, void)
    assert isinstance(first, Applied)
    back = ((source, 1_000), (target, -1_000))
    await book(
        kernel,
        Capture("r:capture", done.hold_id, "sale", ((target, 50),), rehold=25, rehold_id=rest),
        Void("r:void", void.hold_id),
        Transfer("r:back", "reversal", back, reverses=first.transfer_id),
        transfer(source, target, 999_999, key="r:refused"),
    )
    for _ in range(3):
        await book(kernel, transfer(source, target, 1))
    assert await write_checkpoint(kernel) == 1
    async with kernel.unit_of_work() as uow:
        head = await (await uow.raw()).fetchrow("SELECT number FROM settlement.chain_head")
        batch = await (await uow.raw()).fetchval(
            "SELECT batch_id FROM settlement.chain_link WHERE number = 3"
        )
    assert head is not None
    return {
        "account": str(source.id),
        "batch": str(batch),
        "command": "r:capture",
        "transfer": str(first.transfer_id),
        "posting": str(target.id),
        "hold": str(kept.hold_id),
        "hold_resolution": str(done.hold_id),
        "chain_head": "1",
        "chain_link": "3",
        "checkpoint": str(head["number"]),
        "resolved": str(void.hold_id),
        "open": str(rest),
    }


async def check(guarded: Guarded) -> Report:
    return await verify_ledger(
        guarded.superuser_url,
        checkpoint=checkpoint_file(guarded.kernel),
        jwks=guarded.kernel.keys.jwks(),
    )


async def findings(guarded: Guarded, *statements: str) -> list[Finding]:
    """What is found after ``statements``; then all of it is undone."""
    connection = await asyncpg.connect(guarded.superuser_url)
    tables = list(KEYS)
    try:
        for table in tables:
            await connection.execute(f"CREATE TABLE saved_{table} AS TABLE settlement.{table}")
        await _unguarded(connection, *statements)
        return (await check(guarded)).findings
    finally:
        back = [f"DELETE FROM settlement.{table}" for table in reversed(tables)]
        back += [f"INSERT INTO settlement.{table} TABLE saved_{table}" for table in tables]
        await _unguarded(connection, *back, *(f"DROP TABLE saved_{table}" for table in tables))
        await connection.close()


async def _unguarded(connection: asyncpg.Connection, *statements: str) -> None:
    async with connection.transaction():
        for table in KEYS:
            await connection.execute(f"ALTER TABLE settlement.{table} DISABLE TRIGGER ALL")
        for statement in statements:
            await connection.execute(statement)
        for table in KEYS:
            await connection.execute(f"ALTER TABLE settlement.{table} ENABLE TRIGGER ALL")


def named(found: list[Finding], table: str, key: str) -> bool:
    """Whether a finding points at the row, or names it among those of a leaf."""
    return any(
        (finding.table == table and finding.row.split("/")[0] == key)
        or (finding.check == "leaf" and key in f"{finding.row} {finding.detail}")
        for finding in found
    )


async def test_the_untouched_ledger_verifies(guarded: Guarded, ids: Ids) -> None:
    assert await findings(guarded) == []
    assert (await check(guarded)).findings == []


@pytest.mark.parametrize("table", KEYS)
async def test_every_changed_column_is_found(guarded: Guarded, ids: Ids, table: str) -> None:
    async with guarded.kernel.unit_of_work() as uow:
        columns = await (await uow.raw()).fetch(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'settlement' AND table_name = $1 ORDER BY 1",
            table,
        )
    assert columns
    checked = 0
    for name, data_type in columns:
        if (table, name) in UNPROVED:
            continue
        special = SPECIAL.get((table, name), "")
        if special is None:
            continue  # no other value passes the table's CHECKs
        change = special or CHANGES[data_type].format(c=name)
        key = "r:refused" if (table, name) in {("command", "code"), ("command", "detail")} else ""
        row = key or ids[table]
        where = f"{KEYS[table]} = '{row}'" + (" AND seq = 2" if table == "posting" else "")
        found = await findings(
            guarded, f"UPDATE settlement.{table} SET {name} = {change} WHERE {where}"
        )
        assert found, f"{table}.{name} can be changed unseen"
        if name not in (KEYS[table], "batch_id", "seq") and table != "chain_link":
            assert named(found, table, row), f"{table}.{name}: {found}"
        checked += 1
    assert checked >= len(columns) - 2


@pytest.mark.parametrize("table", KEYS)
async def test_every_deleted_row_is_found(guarded: Guarded, ids: Ids, table: str) -> None:
    key = ids[table]
    where = f"{KEYS[table]} = '{key}'" + (" AND seq = 2" if table == "posting" else "")
    found = await findings(guarded, f"DELETE FROM settlement.{table} WHERE {where}")
    assert found, f"a row of {table} can be deleted unseen"


async def test_the_end_of_the_chain_cannot_be_cut_off(guarded: Guarded, ids: Ids) -> None:
    """Batch, commands, postings, link and head: all of the last batch, balances included."""
    last = "(SELECT batch_id FROM settlement.chain_link WHERE number = 6)"
    transfers = f"(SELECT transfer_id FROM settlement.command WHERE batch_id = {last})"
    found = await findings(
        guarded,
        "UPDATE settlement.account a SET posted = posted - p.amount, seq = a.seq - 1"
        f" FROM settlement.posting p WHERE p.account_id = a.id AND p.transfer_id IN {transfers}",
        f"DELETE FROM settlement.posting WHERE transfer_id IN {transfers}",
        f"DELETE FROM settlement.transfer WHERE id IN {transfers}",
        "DELETE FROM settlement.checkpoint",
        f"DELETE FROM settlement.command WHERE batch_id = {last}",
        f"DELETE FROM settlement.batch WHERE id = {last}",
        "DELETE FROM settlement.chain_link WHERE number = 6",
        "UPDATE settlement.chain_head SET number = 5,"
        " hash = (SELECT hash FROM settlement.chain_link WHERE number = 5)",
    )
    # The books agree with themselves; only the checkpoint outside remembers.
    assert [(f.check, f.table, f.row) for f in found] == [("checkpoint", "chain_link", "6")]


ADDED = {
    "account": "INSERT INTO settlement.account (id, kind, owner, currency, posted, created_at)"
    f" VALUES ({OTHER_UUID}, 'available', {OTHER_UUID}, 'CNY', 5, now())",
    "batch": "INSERT INTO settlement.batch SELECT {other}, root, command_count, booked_at, format"
    " FROM settlement.batch WHERE id = '{batch}'",
    "command": "INSERT INTO settlement.command SELECT 'r:forged', body_hash, leaf_hash, batch_id,"
    " 99, 'void', NULL, NULL, NULL, 'code', 'detail' FROM settlement.command"
    " WHERE key = 'r:refused'",
    "transfer": "INSERT INTO settlement.transfer SELECT {other}, kind, memo_id, NULL, event_at,"
    " booked_at FROM settlement.transfer WHERE id = '{transfer}'",
    "posting": "INSERT INTO settlement.posting SELECT account_id, 99, transfer_id, currency,"
    " amount, balance FROM settlement.posting WHERE account_id = '{posting}' AND seq = 2",
    "hold": "INSERT INTO settlement.hold SELECT {other}, account_id, amount, expires_at, memo_id,"
    " created_at FROM settlement.hold WHERE id = '{hold}'",
    "hold_resolution": "INSERT INTO settlement.hold_resolution VALUES"
    " ('{open}', 'voided', 0, now())",
    "chain_link": "INSERT INTO settlement.chain_link SELECT 7, {other}, sha256('a'), hash"
    " FROM settlement.chain_link WHERE number = 6",
    "checkpoint": "INSERT INTO settlement.checkpoint SELECT l.number, l.hash, c.jws, now()"
    " FROM settlement.chain_link l, settlement.checkpoint c WHERE l.number = 2",
}


@pytest.mark.parametrize("table", ADDED)
async def test_every_added_row_is_found(guarded: Guarded, ids: Ids, table: str) -> None:
    statement = ADDED[table].format(**ids, other=OTHER_UUID)
    found = await findings(guarded, statement)
    assert found, f"a row can be added to {table} unseen"


@pytest.mark.parametrize(
    ("table", "column", "one", "two"),
    [
        ("command", "ordinal", "key = 'r:void'", "key = 'r:refused'"),
        (
            "posting",
            "seq",
            "account_id = '{posting}' AND seq = 4",
            "account_id = '{posting}' AND seq = 5",
        ),
        ("chain_link", "number", "number = 4", "number = 5"),
        ("chain_link", "batch_id", "number = 4", "number = 5"),
    ],
)
async def test_reordered_rows_are_found(
    guarded: Guarded, ids: Ids, table: str, column: str, one: str, two: str
) -> None:
    first, second = one.format(**ids), two.format(**ids)
    found = await findings(
        guarded,
        f"CREATE TEMP TABLE swapped AS SELECT"
        f" (SELECT {column} FROM settlement.{table} WHERE {first}) AS a,"
        f" (SELECT {column} FROM settlement.{table} WHERE {second}) AS b",
        f"CREATE TEMP TABLE pair AS SELECT ctid AS place, {column} AS value"
        f" FROM settlement.{table} WHERE ({first}) OR ({second})",
        f"CREATE TEMP TABLE moved AS SELECT t.* FROM settlement.{table} t, pair"
        f" WHERE t.ctid = pair.place",
        f"DELETE FROM settlement.{table} WHERE ({first}) OR ({second})",
        f"UPDATE moved SET {column} = CASE WHEN {column} = swapped.a THEN swapped.b"
        f" ELSE swapped.a END FROM swapped",
        f"INSERT INTO settlement.{table} SELECT * FROM moved",
        "DROP TABLE swapped, pair, moved",
    )
    assert found


async def test_since_a_moment_reads_from_its_batch_and_says_what_it_left_out(
    guarded: Guarded, ids: Ids
) -> None:
    async with guarded.kernel.unit_of_work() as uow:
        booked = await (await uow.raw()).fetchval(
            "SELECT booked_at FROM settlement.batch b JOIN settlement.chain_link l"
            " ON l.batch_id = b.id WHERE l.number = 5"
        )
    report = await verify_ledger(guarded.superuser_url, since=booked)
    assert (report.since, report.links, report.head_number) == (4, 2, 6)
    assert report.skipped == [
        "batches 1 to 4: their link is trusted as it stands",
        "every account posting by posting",
        "rows outside the chain",
        "signatures of checkpoints: no keys were given",
    ]
    whole = await verify_ledger(
        guarded.superuser_url,
        since=datetime(2000, 1, 1, tzinfo=UTC),
        jwks=guarded.kernel.keys.jwks(),
    )
    assert (whole.since, whole.links, whole.skipped) == (0, 6, [])
    none = await verify_ledger(guarded.superuser_url, since=datetime(2999, 1, 1, tzinfo=UTC))
    assert (none.since, none.links, none.ok) == (6, 0, True)
