"""The part of ``market ledger verify`` that compares the chain with what was signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from market.kernel.security import InvalidToken, verify_with_jwks
from settlement.checkpoints import CHECKPOINT_TYP
from settlement.verify_report import Progress, Report

if TYPE_CHECKING:
    from asyncpg import Connection

_PER_READ = 1_000
_STORED = """
SELECT c.number, c.hash, c.jws, c.created_at, l.hash AS linked
FROM settlement.checkpoint c LEFT JOIN settlement.chain_link l ON l.number = c.number
WHERE c.number > $1 ORDER BY c.number
"""


class _Claims(NamedTuple):
    number: int
    hash: bytes
    at: datetime | None


async def check_stored(
    connection: Connection[Any], report: Report, tell: Progress, jwks: Mapping[str, Any] | None
) -> None:
    """The table's own rows: in the chain, and signed by us as they are (with ``jwks``)."""
    total = await connection.fetchval(
        "SELECT count(*) FROM settlement.checkpoint WHERE number > $1", report.since
    )
    done = 0
    async for row in connection.cursor(_STORED, report.since, prefetch=_PER_READ):
        done += 1
        if done % _PER_READ == 0:
            tell("checkpoints", done, total)
        if row["linked"] != row["hash"]:
            report.add("checkpoint", "checkpoint", row["number"], "the chain has another hash")
        if jwks is None:
            continue
        claims = _claims(row["jws"], jwks)
        if claims != (row["number"], row["hash"], row["created_at"]):
            detail = "its signature says something else, or is not ours"
            report.add("checkpoint", "checkpoint", row["number"], detail)
    tell("checkpoints", done, total)


async def check_file(
    connection: Connection[Any], report: Report, path: Path, jwks: Mapping[str, Any]
) -> None:
    """Checkpoints kept elsewhere, one JSON per line: signed by us, and still true."""
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                claims = _claims(str(orjson.loads(line)["jws"]), jwks)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                claims = None
            if claims is None:
                report.add("checkpoint", "file", line_number, "not a checkpoint signed by us")
                continue
            await _compare(connection, report, claims, line_number)


async def _compare(
    connection: Connection[Any], report: Report, claims: _Claims, line_number: int
) -> None:
    report.checkpoints += 1
    found = await connection.fetchrow(
        "SELECT l.hash, c.number AS stored FROM settlement.chain_link l"
        " LEFT JOIN settlement.checkpoint c ON c.number = l.number WHERE l.number = $1",
        claims.number,
    )
    if found is None or found["hash"] != claims.hash:
        detail = f"line {line_number}: the chain had another hash when this was signed"
        report.add("checkpoint", "chain_link", claims.number, detail)
    elif found["stored"] is None:
        detail = f"line {line_number} was signed, but the row is gone"
        report.add("checkpoint", "checkpoint", claims.number, detail)


def _claims(jws: str, jwks: Mapping[str, Any]) -> _Claims | None:
    try:
        claims = verify_with_jwks(CHECKPOINT_TYP, jws, jwks)
        at = claims.get("at")
        return _Claims(
            int(claims["number"]),
            bytes.fromhex(claims["hash"]),
            None if at is None else datetime.fromisoformat(at),
        )
    except (InvalidToken, KeyError, TypeError, ValueError):
        return None
