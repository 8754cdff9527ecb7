"""Telling followers of a newly certified version; each once per version.

The news are found by the certificates' own times, a margin back: transactions commit in another
order than they began. What is found twice is told once, by the primary key.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlmodel import col, select

from contracts.policy import parse_policy
from contracts.versions.changes import effective_at, schema_change
from contracts.versions.granted import RECENT_MAX
from contracts.versions.models import VersionNews
from contracts.versions.schemas import ColumnChanges
from listings import releases
from listings.releases import Release
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show

# More than can be certified within the margin, so that each run reaches beyond it.
FOUND_MAX = 5_000
TOLD_MAX = 500
# No transaction lives so long.
MARGIN = timedelta(minutes=10)

_MARK = "SELECT coalesce(max(certified_at), '2000-01-01Z'::timestamptz) FROM contracts.version_news"
_KEEP = """
INSERT INTO contracts.version_news (version_id, product_id, number, certified_at, told_at)
SELECT id, product_id, number, certified_at, CASE WHEN number = 1 THEN $5::timestamptz END
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[])
     AS n(id, product_id, number, certified_at)
ON CONFLICT (version_id) DO NOTHING
"""
_FOLLOWERS = """
SELECT g.id, g.agreement_id, g.buyer_id, g.created_at, g.product_version_id,
       a.terms -> 'policy' AS policy
FROM contracts.access_grant g JOIN contracts.agreement a ON a.id = g.agreement_id
WHERE g.product_id = $1 AND g.id > $2 AND g.product_version_id <> $3
  AND g.status IN ('active', 'suspended', 'exhausted')
  AND a.terms -> 'policy' ->> 'versions' = 'follow_latest'
ORDER BY g.id LIMIT $4
"""


async def announce_versions(kernel: Kernel) -> int:
    """One run: notices the newly certified versions, then tells some followers of the oldest.

    Effect: event ``version.published`` for each following buyer.
    """
    found = 0
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        mark = await connection.fetchval(_MARK)
        issued = await releases.issued_after(uow, mark - MARGIN, limit=FOUND_MAX)
        if issued:
            columns = [list(each) for each in zip(*issued, strict=True)]
            status = await connection.execute(_KEEP, *columns, uow.now)
            found = int(status.rpartition(" ")[2])
    return found + await _tell(kernel)


async def _tell(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        query = (
            select(VersionNews)
            .where(col(VersionNews.told_at).is_(None))
            .order_by(col(VersionNews.certified_at), col(VersionNews.number))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        news = (await uow.session.exec(query)).one_or_none()
        if news is None:
            return 0
        history = await releases.page(
            uow, news.product_id, number=1, below=news.number + 1, limit=RECENT_MAX
        )
        followers = []
        if len(history) > 1:
            followers = await (await uow.raw()).fetch(
                _FOLLOWERS,
                *(news.product_id, news.told_through or UUID(int=0), news.version_id, TOLD_MAX),
            )
        for grant in followers:
            _emit(uow, grant, history[0], history[1:])
        if len(followers) < TOLD_MAX:
            news.told_at = uow.now
        else:
            news.told_through = followers[-1]["id"]
        return 1 + len(followers)


def _emit(uow: UnitOfWork, grant: Any, release: Release, older: list[Release]) -> None:
    policy = parse_policy(_json(grant["policy"]))
    notice = timedelta(days=policy.breaking_notice_days)
    places = [i for i, each in enumerate(older) if each.id == grant["product_version_id"]]
    if not places and (len(older) < RECENT_MAX - 1 or grant["created_at"] >= release.certified_at):
        # It bought a version that is newer than this one.
        return
    known = older[: places[0] + 1] if places else older
    change = ColumnChanges.of(schema_change(older[0].columns, release.columns))
    uow.emit(
        "version.published",
        grant["id"],
        {
            "grant_id": show("grt", grant["id"]),
            "agreement_id": show("agr", grant["agreement_id"]),
            "product_id": show("prd", release.product_id),
            "version_id": show("ver", release.id),
            "version": release.number,
            "previous_version": older[0].number,
            "rows": release.row_count,
            "sha256": release.sha256,
            "certified_at": release.certified_at.isoformat(),
            "effective_at": effective_at(known[::-1], release, notice=notice).isoformat(),
            "changes": change.model_dump(mode="json"),
        },
        parties=[grant["buyer_id"]],
    )


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value
