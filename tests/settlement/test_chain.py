"""Leaves: what exactly is hashed, in both formats, and that batches of the old one still verify."""

import uuid
from datetime import UTC, datetime

import asyncpg
import orjson
import pytest

from settlement.chain import (
    Entry,
    PostingRow,
    TransferRow,
    batch_leaves,
    leaf_bytes,
    leaf_hash,
    link_hash,
    merkle_root,
)
from settlement.verify import verify_ledger
from tests.settlement.conftest import Guarded
from tests.settlement.factories import fund

A, B, T = (uuid.UUID(int=n) for n in (1, 2, 3))
AT = datetime(2026, 1, 2, tzinfo=UTC)
AT_US = 1_767_312_000_000_000
ENTRY = Entry(
    "k",
    bytes(32),
    "transfer",
    TransferRow(
        T,
        "sale",
        None,
        AT,
        None,
        (PostingRow(B, 7, 5, "CNY", 1_005), PostingRow(A, 9, -5, "CNY", 95)),
    ),
)


def test_a_leaf_shows_no_balance() -> None:
    """Golden bytes: whoever keeps a proof must be able to check it for ever."""
    postings = (
        f'[["{A}",9,-5,"CNY"],["{B}",7,5,"CNY"]]'  # by account, whatever the order of the legs
    )
    assert (
        leaf_bytes(ENTRY, AT_US)
        == (
            f'[2,"k","{"00" * 32}","transfer",{AT_US},null,null,'
            f'["{T}","sale",null,{AT_US},null,{postings}],null,null]'
        ).encode()
    )
    assert batch_leaves([ENTRY], AT) == [leaf_hash(leaf_bytes(ENTRY, AT_US))]


def test_the_first_format_had_balances() -> None:
    postings = orjson.loads(leaf_bytes(ENTRY, AT_US, 1))[7][5]
    assert postings == [[str(A), 9, -5, "CNY", 95], [str(B), 7, 5, "CNY", 1_005]]
    assert leaf_bytes(ENTRY, AT_US, 1)[:3] == b"[1,"


def test_a_format_of_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="no leaf format 3"):
        leaf_bytes(ENTRY, AT_US, 3)


async def test_batches_of_the_first_format_verify(guarded: Guarded) -> None:
    """Rewrites the newest batch as it was written before migration 0011."""
    await fund(guarded.kernel, uuid.uuid4(), 100)
    key = f"test:old:{uuid.uuid4().hex}"
    connection = await asyncpg.connect(guarded.superuser_url)
    row = await connection.fetchrow(
        "SELECT c.*, b.booked_at, l.number, l.prev_hash FROM settlement.chain_head h "
        "JOIN settlement.chain_link l USING (number) JOIN settlement.batch b ON b.id = l.batch_id "
        "JOIN settlement.command c ON c.batch_id = b.id"
    )
    assert row is not None
    booked_us = int(row["booked_at"].timestamp()) * 1_000_000 + row["booked_at"].microsecond
    transfer = await connection.fetchrow(
        "SELECT id, kind, memo_id, event_at, reverses FROM settlement.transfer WHERE id = $1",
        row["transfer_id"],
    )
    postings = await connection.fetch(
        "SELECT account_id, seq, amount, currency, balance FROM settlement.posting "
        "WHERE transfer_id = $1",
        row["transfer_id"],
    )
    await connection.close()
    assert transfer is not None
    entry = Entry(
        key,
        row["body_hash"],
        "transfer",
        TransferRow(
            transfer["id"],
            transfer["kind"],
            transfer["memo_id"],
            transfer["event_at"],
            transfer["reverses"],
            tuple(PostingRow(*posting) for posting in postings),
        ),
    )
    leaf = leaf_hash(leaf_bytes(entry, booked_us, 1))
    linked = link_hash(row["prev_hash"], row["number"], merkle_root([leaf])).hex()
    await guarded.tamper(
        "command",
        f"UPDATE settlement.command SET key = '{key}', leaf_hash = '\\x{leaf.hex()}' "
        f"WHERE batch_id = '{row['batch_id']}'",
    )
    await guarded.tamper(
        "batch",
        f"UPDATE settlement.batch SET format = 1, root = '\\x{leaf.hex()}' "
        f"WHERE id = '{row['batch_id']}'",
    )
    await guarded.tamper(
        "chain_link",
        f"UPDATE settlement.chain_link SET hash = '\\x{linked}' WHERE number = {row['number']}",
    )
    await guarded.tamper("chain_head", f"UPDATE settlement.chain_head SET hash = '\\x{linked}'")
    assert (await verify_ledger(guarded.superuser_url)).findings == []
    await fund(guarded.kernel, uuid.uuid4(), 100)
    report = await verify_ledger(guarded.superuser_url)
    assert report.findings == []
    assert report.links == 2
