"""``market ledger verify``: prove the books from their rows, independently of how they were made.

Reads one snapshot (REPEATABLE READ, READ ONLY) in bounded pieces, so memory stays flat at any
size. Two passes: the hash chain batch by batch, recomputing every leaf from the rows it stands
for; then every account, posting by posting. A finding names the first bad row it can.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import asyncpg

from market.kernel.db import plain_url
from settlement.accounts import AccountRef
from settlement.chain import (
    GENESIS_HASH,
    LEAF_FORMATS,
    Entry,
    HoldRow,
    PostingRow,
    ResolutionRow,
    TransferRow,
    leaf_bytes,
    leaf_hash,
    link_hash,
    merkle_root,
)
from settlement.commands import micros
from settlement.verify_checkpoints import check_file, check_stored
from settlement.verify_orphans import check_orphans
from settlement.verify_report import FINDINGS_MAX, Finding, Progress, Report

__all__ = ["FINDINGS_MAX", "Finding", "Progress", "Report", "snapshot", "verify_ledger"]

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[Any]
    Record: TypeAlias = asyncpg.Record

LINKS_PER_READ = 512
COMMANDS_PER_READ = 4_096
POSTINGS_PER_READ = 5_000
_STATEMENT_TIMEOUT_MS = 600_000
# Of the rows under one leaf, how many a finding names.
LEG_NAMES_MAX = 8

_LINKS = """
SELECT l.number, l.batch_id, l.prev_hash, l.hash, b.root, b.command_count, b.booked_at,
       b.format
FROM settlement.chain_link l LEFT JOIN settlement.batch b ON b.id = l.batch_id
WHERE l.number > $1 ORDER BY l.number LIMIT $2
"""
_COMMANDS = """
SELECT c.batch_id, c.ordinal, c.key, c.body_hash, c.leaf_hash, c.type, c.code, c.detail,
       c.transfer_id, t.id AS found_transfer, t.kind, t.memo_id, t.event_at, t.reverses,
       t.booked_at,
       c.hold_id, h.id AS found_hold, h.account_id, h.amount, h.expires_at,
       h.memo_id AS hold_memo_id, h.created_at,
       c.resolved_hold_id, r.hold_id AS found_resolution, r.outcome, r.captured, r.resolved_at
FROM settlement.command c
LEFT JOIN settlement.transfer t ON t.id = c.transfer_id
LEFT JOIN settlement.hold h ON h.id = c.hold_id
LEFT JOIN settlement.hold_resolution r ON r.hold_id = c.resolved_hold_id
WHERE c.batch_id = ANY($1::uuid[]) ORDER BY c.batch_id, c.ordinal
"""
_POSTINGS_OF = """
SELECT account_id, seq, amount, currency, balance, transfer_id FROM settlement.posting
WHERE transfer_id = ANY($1::uuid[])
"""
_ACCOUNTS = """
SELECT id, kind, owner, currency, posted, seq FROM settlement.account ORDER BY id
"""
_POSTINGS = """
SELECT account_id, seq, amount, balance, currency, transfer_id FROM settlement.posting
ORDER BY account_id, seq
"""
_HELD = """
SELECT a.id, a.held, coalesce(o.held, 0)::bigint AS open
FROM settlement.account a LEFT JOIN (
    SELECT h.account_id, sum(h.amount) AS held FROM settlement.hold h
    WHERE NOT EXISTS (SELECT 1 FROM settlement.hold_resolution r WHERE r.hold_id = h.id)
    GROUP BY h.account_id
) o ON o.account_id = a.id
WHERE a.held <> coalesce(o.held, 0) ORDER BY a.id LIMIT $1
"""
_TOTALS = """
SELECT currency, sum(posted)::numeric::text AS total FROM settlement.account
GROUP BY currency HAVING sum(posted) <> 0 ORDER BY currency
"""


async def verify_ledger(
    database_url: str,
    *,
    since: int | datetime | None = None,
    checkpoint: Path | None = None,
    jwks: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the whole ledger, or with ``since`` the chain after that link or from that moment.

    With ``since`` the link before is trusted and the passes over all rows are left out, which
    the report says; balances, holds and totals are always checked. ``checkpoint`` is a file of
    signed checkpoints (one JSON per line, as ``settlement.checkpoints`` writes) whose hashes must
    be in the chain. ``jwks`` judges signatures, there and in the database; without it those in
    the database are not judged. ``progress(phase, done, total)`` is called now and then.
    Raises asyncpg errors when the database cannot be read, OSError for an unreadable file.
    """
    report = Report()
    tell = progress or (lambda phase, done, total: None)
    async with snapshot(database_url) as connection:
        if since is not None:
            report.since = await _start(connection, since)
            if report.since:
                report.skipped += [
                    f"batches 1 to {report.since}: their link is trusted as it stands",
                    "every account posting by posting",
                    "rows outside the chain",
                ]
        await _check_chain(connection, report, tell, since=report.since)
        await _check_totals(connection, report)
        if not report.since:
            await _check_accounts(connection, report, tell)
            await check_orphans(connection, report, tell)
        if jwks is None:
            report.skipped.append("signatures of checkpoints: no keys were given")
        await check_stored(connection, report, tell, jwks)
        if checkpoint is not None:
            await check_file(connection, report, checkpoint, jwks or {})
    return report


async def _start(connection: Connection, since: int | datetime) -> int:
    """The link to trust: the one named, or the last before everything booked from a moment on."""
    if isinstance(since, int):
        return since
    # Batches commit in another order than they were booked, by moments: the first of the chain
    # counts, so that nothing from ``since`` on is left out.
    number: int | None = await connection.fetchval(
        "SELECT min(l.number) - 1 FROM settlement.batch b"
        " JOIN settlement.chain_link l ON l.batch_id = b.id WHERE b.booked_at >= $1",
        since,
    )
    if number is None:
        number = await connection.fetchval("SELECT number FROM settlement.chain_head")
    return number or 0


@asynccontextmanager
async def snapshot(database_url: str) -> AsyncIterator[Connection]:
    """One read-only snapshot of the database, on a connection of its own."""
    connection = await asyncpg.connect(
        plain_url(database_url),
        timeout=10,
        server_settings={
            "application_name": "market-verify",
            "timezone": "UTC",
            "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
        },
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        await connection.close()


async def _check_chain(
    connection: Connection, report: Report, tell: Progress, *, since: int
) -> None:
    head = await connection.fetchrow("SELECT number, hash FROM settlement.chain_head")
    if head is None:
        report.add("chain", "chain_head", 1, "the head of the chain is missing")
        return
    number, previous = since, GENESIS_HASH
    if since:
        previous = await connection.fetchval(
            "SELECT hash FROM settlement.chain_link WHERE number = $1", since
        )
        if previous is None:
            report.add("chain", "chain_link", since, "the starting link does not exist")
            return
    while links := await connection.fetch(_LINKS, number, LINKS_PER_READ):
        for piece in _pieces(links):
            await _check_links(connection, report, piece, previous=previous, number=number)
            number, previous = piece[-1]["number"], piece[-1]["hash"]
            report.links += len(piece)
            tell("hash chain", number - since, head["number"] - since)
    report.head_number, report.head_hash = number, previous.hex()
    if (number, previous) != (head["number"], head["hash"]):
        report.add("chain", "chain_head", 1, f"the head says {head['number']}, links say {number}")


def _pieces(links: Sequence[Record]) -> list[list[Record]]:
    """Cut so that a piece has at most COMMANDS_PER_READ commands, but at least one link."""
    pieces: list[list[Record]] = []
    size = 0
    for link in links:
        count = link["command_count"] or 0
        if not pieces or size + count > COMMANDS_PER_READ:
            pieces.append([])
            size = 0
        pieces[-1].append(link)
        size += count
    return pieces


async def _check_links(
    connection: Connection,
    report: Report,
    links: Sequence[Record],
    *,
    previous: bytes,
    number: int,
) -> None:
    commands: dict[UUID, list[Record]] = {}
    for row in await connection.fetch(_COMMANDS, [link["batch_id"] for link in links]):
        commands.setdefault(row["batch_id"], []).append(row)
    transfer_ids = [
        row["transfer_id"] for rows in commands.values() for row in rows if row["transfer_id"]
    ]
    postings: dict[UUID, list[PostingRow]] = {}
    for account_id, seq, amount, currency, balance, transfer in await connection.fetch(
        _POSTINGS_OF, transfer_ids
    ):
        postings.setdefault(transfer, []).append(
            PostingRow(account_id, seq, amount, currency, balance)
        )
    for link in links:
        if link["number"] != number + 1:
            report.add("chain", "chain_link", link["number"], f"link {number + 1} is missing")
        number = link["number"]
        _check_batch(report, link, commands.get(link["batch_id"], []), postings)
        if link["root"] is not None:
            expected = link_hash(previous, number, link["root"])
            if (link["prev_hash"], link["hash"]) != (previous, expected):
                report.add("chain", "chain_link", number, "the hash does not follow from its input")
        previous = link["hash"]


def _check_batch(
    report: Report,
    link: Record,
    rows: Sequence[Record],
    postings: Mapping[UUID, Sequence[PostingRow]],
) -> None:
    if link["root"] is None:
        report.add("chain", "batch", link["batch_id"], f"link {link['number']} has no batch")
        return
    if link["format"] not in LEAF_FORMATS:
        detail = f"link {link['number']}: no leaf format {link['format']}"
        report.add("chain", "batch", link["batch_id"], detail)
        return
    moved = [row for place, row in enumerate(rows) if row["ordinal"] != place]
    if moved:
        # One that was moved past the end shifts those behind it: it is the one to name.
        row = moved[-1] if moved[-1]["ordinal"] >= link["command_count"] else moved[0]
        detail = f"link {link['number']}: {row['ordinal']} is not its place"
        report.add("chain", "command", row["key"], detail)
    if len(rows) != link["command_count"]:
        detail = f"link {link['number']}: {len(rows)} of {link['command_count']} commands"
        report.add("chain", "batch", link["batch_id"], detail)
    leaves = []
    booked_us = micros(link["booked_at"])
    assert booked_us is not None
    for row in rows:
        entry = _entry(row, postings.get(row["transfer_id"], ()))
        leaf = leaf_hash(leaf_bytes(entry, booked_us, link["format"]))
        leaves.append(leaf)
        where = f"link {link['number']}, command {row['key']}"
        times = {row["booked_at"], row["created_at"], row["resolved_at"]} - {None}
        if leaf != row["leaf_hash"] or times - {link["booked_at"]}:
            _blame(report, row, entry, where, link["booked_at"])
        _check_zero_sum(report, entry, where)
    report.commands += len(rows)
    if rows and merkle_root(leaves) != link["root"]:
        detail = f"link {link['number']}: the root does not follow from the commands"
        report.add("root", "batch", link["batch_id"], detail)


def _blame(report: Report, row: Record, entry: Entry, where: str, booked_at: datetime) -> None:
    """A leaf covers several rows: name the one that is gone or off, else the main one."""
    for table, wanted, found in (
        ("transfer", row["transfer_id"], row["found_transfer"]),
        ("hold", row["hold_id"], row["found_hold"]),
        ("hold_resolution", row["resolved_hold_id"], row["found_resolution"]),
    ):
        if wanted != found:
            report.add("leaf", table, wanted, f"{where}: the row is missing")
            return
    for table, column, booked in (
        ("transfer", "booked_at", row["booked_at"]),
        ("hold", "created_at", row["created_at"]),
        ("hold_resolution", "resolved_at", row["resolved_at"]),
    ):
        if booked not in (None, booked_at):
            identity = row[f"{table}_id" if table != "hold_resolution" else "resolved_hold_id"]
            report.add("leaf", table, identity, f"{where}: {column} is not the batch's")
            return
    table, identity = "command", row["key"]
    if entry.transfer is not None:
        table, identity = "transfer", str(entry.transfer.id)
    elif entry.hold is not None:
        table, identity = "hold", str(entry.hold.id)
    elif entry.resolution is not None:
        table, identity = "hold_resolution", str(entry.resolution.hold_id)
    rows = [f"command {row['key']}"]
    if entry.transfer is not None:
        rows += [f"posting {posting[0]}/{posting[1]}" for posting in entry.transfer.postings]
    rows += [f"hold {entry.hold.id}"] if entry.hold is not None else []
    rows += [f"hold_resolution {entry.resolution.hold_id}"] if entry.resolution is not None else []
    detail = f"{where}: not what was booked; it may also be in {', '.join(rows[:LEG_NAMES_MAX])}"
    report.add("leaf", table, identity, detail)


def _check_zero_sum(report: Report, entry: Entry, where: str) -> None:
    if entry.transfer is None:
        return
    report.transfers += 1
    sums: dict[str, int] = {}
    for posting in entry.transfer.postings:
        sums[posting.currency] = sums.get(posting.currency, 0) + posting.amount
    if any(sums.values()) or not sums:
        report.add("zero_sum", "transfer", entry.transfer.id, f"{where}: sums to {sums}")


def _entry(row: Record, postings: Sequence[PostingRow]) -> Entry:
    transfer = hold = resolution = None
    if row["found_transfer"] is not None:
        transfer = TransferRow(
            row["found_transfer"],
            row["kind"],
            row["memo_id"],
            row["event_at"],
            row["reverses"],
            tuple(postings),
        )
    if row["found_hold"] is not None:
        hold = HoldRow(
            row["found_hold"],
            row["account_id"],
            row["amount"],
            row["expires_at"],
            row["hold_memo_id"],
        )
    if row["found_resolution"] is not None:
        resolution = ResolutionRow(row["found_resolution"], row["outcome"], row["captured"])
    return Entry(
        row["key"],
        row["body_hash"],
        row["type"],
        transfer,
        hold,
        resolution,
        row["code"],
        row["detail"],
    )


async def _check_totals(connection: Connection, report: Report) -> None:
    for row in await connection.fetch(_TOTALS):
        report.add(
            "total", "account", row["currency"], f"all balances sum to {row['total']}, not 0"
        )
    for row in await connection.fetch(_HELD, FINDINGS_MAX):
        detail = f"held is {row['held']}, open holds sum to {row['open']}"
        report.add("held", "account", row["id"], detail)


async def _check_accounts(connection: Connection, report: Report, tell: Progress) -> None:
    """Accounts and postings side by side, both in id order, like the merge of a merge sort."""
    total = await connection.fetchval(
        "SELECT coalesce(sum(seq), 0)::bigint FROM settlement.account"
    )
    accounts = connection.cursor(_ACCOUNTS, prefetch=POSTINGS_PER_READ).__aiter__()
    account = await anext(accounts, None)
    tally = _Tally(report, account)
    async for posting in connection.cursor(_POSTINGS, prefetch=POSTINGS_PER_READ):
        while account is not None and account["id"] < posting["account_id"]:
            tally.close()
            account = await anext(accounts, None)
            tally = _Tally(report, account)
        if account is None or account["id"] != posting["account_id"]:
            row = f"{posting['account_id']}/{posting['seq']}"
            report.add("account", "posting", row, "the account does not exist")
        else:
            tally.add(posting)
        report.postings += 1
        if report.postings % POSTINGS_PER_READ == 0:
            tell("accounts", report.postings, total)
    while account is not None:
        tally.close()
        account = await anext(accounts, None)
        tally = _Tally(report, account)
    tell("accounts", report.postings, total)


class _Tally:
    """Replays one account."""

    def __init__(self, report: Report, account: Record | None) -> None:
        self._report = report
        self._account = account
        self._seq = 0
        self._balance = 0
        self._broken = False

    def add(self, posting: Record) -> None:
        assert self._account is not None
        self._seq += 1
        self._balance += posting["amount"]
        if self._broken:
            return  # everything after the first bad row is off too; it is the first that counts
        row = f"{posting['account_id']}/{posting['seq']}"
        if posting["seq"] != self._seq:
            self._fail("seq", row, f"expected seq {self._seq}")
        elif posting["balance"] != self._balance:
            self._fail("balance", row, f"balance is {posting['balance']}, not {self._balance}")
        elif posting["currency"] != self._account["currency"]:
            self._fail("currency", row, f"posted in {posting['currency']}")

    def close(self) -> None:
        account = self._account
        assert account is not None
        self._report.accounts += 1
        ref = AccountRef(account["kind"], account["owner"], account["currency"])
        if ref.id != account["id"]:
            self._report.add("name", "account", account["id"], "id does not follow from its name")
        if self._broken:
            return
        if (account["posted"], account["seq"]) != (self._balance, self._seq):
            detail = f"says {account['posted']} after {account['seq']} postings, "
            detail += f"but they are {self._seq} and sum to {self._balance}"
            self._report.add("account", "account", account["id"], detail)

    def _fail(self, check: str, row: str, detail: str) -> None:
        self._broken = True
        self._report.add(check, "posting", row, detail)
