"""Raw statements about controls: read when a lease is taken, written by decisions only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from market.matching import call_sql
from market.matching.control_models import Topic
from market.matching.controls import Controls, Quota
from market.matching.rules import BandAction, Rules

if TYPE_CHECKING:
    from market.matching.sql import Connection, Record

_NEWEST = """
SELECT DISTINCT ON (topic, subject_id) topic, subject_id, action, data::text, reason, at
FROM matching.control WHERE topic <> 'call'
ORDER BY topic, subject_id, seq DESC
"""
# LATERAL on the index, because a subject may have a long history.
_NEWEST_OF = """
SELECT c.*
FROM unnest($1::text[], $2::uuid[]) AS k(topic, subject_id)
CROSS JOIN LATERAL (
    SELECT topic, subject_id, action, data::text, reason, at FROM matching.control c
    WHERE c.topic = k.topic AND c.subject_id = k.subject_id ORDER BY seq DESC LIMIT 1) c
"""
_LAST_TRADES = """
SELECT p.id AS plan_id, t.price_minor, t.traded_at
FROM unnest($1::uuid[]) AS p(id)
CROSS JOIN LATERAL (
    SELECT price_minor, traded_at FROM matching.trade t
    WHERE t.plan_id = p.id ORDER BY seq DESC LIMIT 1) t
"""
_POSTED = "SELECT id, price_minor FROM pricing.plan WHERE id = ANY($1::uuid[])"
_INSERT = """
INSERT INTO matching.control
    (seq, topic, subject_id, action, data, reason, actor_id, credential_id, at)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9)
"""


class Decision(NamedTuple):
    """A row of ``matching.control``; the last two are null for the engine's own."""

    seq: int
    topic: Topic
    subject_id: UUID
    action: str
    data: Mapping[str, Any]
    reason: str
    actor_id: UUID | None
    credential_id: UUID | None


class InForce(NamedTuple):
    """The newest decision of a topic about a subject."""

    topic: Topic
    subject_id: UUID
    action: str
    data: dict[str, Any]
    reason: str
    at: datetime


class LastTrade(NamedTuple):
    """Minor units per lot, and when."""

    price_minor: int
    traded_at: datetime


async def load(connection: Connection) -> Controls:
    """Everything in force, for a writer that has just taken the lease."""
    controls = Controls()
    anchors: dict[UUID, InForce] = {}
    for row in await connection.fetch(_NEWEST):
        found = _in_force(row)
        _apply(controls, found)
        if found.topic is Topic.RULES:
            anchors[found.subject_id] = found
    controls.calls = await call_sql.read_open(connection)
    watched = sorted({*controls.rules, *controls.calls})
    trades = await last_trades(connection, watched)
    for plan_id, posted in await connection.fetch(_POSTED, watched):
        known = reference_of(anchors.get(plan_id), trades.get(plan_id))
        controls.references[plan_id] = known or posted
    return controls


def _apply(controls: Controls, found: InForce) -> None:
    subject_id, data = found.subject_id, found.data
    if found.topic is Topic.RULES:
        controls.rules[subject_id] = rules_of(data)
    elif found.topic is Topic.HALT and data["on"]:
        controls.halts[subject_id] = found.reason
    elif found.topic is Topic.BLOCK and data["on"]:
        controls.blocked.add(subject_id)
    elif found.topic is Topic.QUOTA:
        controls.quotas[subject_id] = Quota(**data)


def rules_of(data: Mapping[str, Any]) -> Rules:
    """The rules in a decision of the topic ``rules``."""
    return Rules(
        tick=data["tick_minor"],
        lot_step=data["lot_step"],
        lots_min=data["lots_min"],
        lots_max=data["lots_max"],
        band_ppm=data["band_ppm"],
        # Absent from decisions of before there was a choice.
        reopen_s=data["reopen_s"] if data.get("band_action") == BandAction.REOPEN else None,
    )


def reference_of(rules: InForce | None, trade: LastTrade | None) -> int | None:
    """The last trade's price, or that which an operator has set after it; minor units per lot.

    Decisions are the first steps of their batch, so a trade at the same moment came later.
    """
    anchored_at = None if rules is None else rules.data["reference_at"]
    if rules is None or anchored_at is None:
        return None if trade is None else trade.price_minor
    if trade is not None and trade.traded_at >= datetime.fromisoformat(anchored_at):
        return trade.price_minor
    return int(rules.data["reference_minor"])


async def in_force(
    connection: Connection, subjects: Sequence[tuple[Topic, UUID]]
) -> dict[tuple[Topic, UUID], InForce]:
    """The newest decision about each of ``subjects`` that has one."""
    rows = await connection.fetch(
        _NEWEST_OF, [topic.value for topic, _ in subjects], [subject for _, subject in subjects]
    )
    found = map(_in_force, rows)
    return {(each.topic, each.subject_id): each for each in found}


def _in_force(row: Record) -> InForce:
    topic, subject_id, action, data, reason, at = row
    return InForce(Topic(topic), subject_id, action, orjson.loads(data), reason, at)


async def last_trades(connection: Connection, plan_ids: Iterable[UUID]) -> dict[UUID, LastTrade]:
    """The newest trade of each plan that has one."""
    wanted = list(plan_ids)
    if not wanted:
        return {}
    rows = await connection.fetch(_LAST_TRADES, wanted)
    return {row[0]: LastTrade(row[1], row[2]) for row in rows}


async def write(
    connection: Connection,
    decisions: Sequence[Decision],
    *,
    now: datetime,
) -> None:
    """Append decisions."""
    for made in decisions:
        data = orjson.dumps(dict(made.data)).decode()
        await connection.execute(_INSERT, *made[:4], data, *made[5:], now)
