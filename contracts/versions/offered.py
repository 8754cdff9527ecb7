"""The versions that a grant may read, newest first."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from contracts import grants
from contracts.errors import GrantNotFound
from contracts.models import Agreement
from contracts.policy import parse_policy
from contracts.versions.changes import effective_at, schema_change
from contracts.versions.granted import NUMBER_MAX, RECENT_MAX, version_of
from contracts.versions.schemas import ColumnChanges, GrantVersionView
from listings import offers, releases
from listings.releases import Release
from market.kernel.context import Kernel
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor


async def list_versions(
    kernel: Kernel, actor: Actor, grant_id: UUID, *, page: PageQuery
) -> Page[GrantVersionView]:
    """What the grant may read, for both parties and overseers.

    Raises GrantNotFound (404), BadCursor (422).
    """
    below = _below(page)
    async with kernel.unit_of_work() as uow:
        grant = await grants.find(uow, grant_id, actor)
        agreement = await uow.session.get(Agreement, grant.agreement_id)
        if agreement is None:
            raise GrantNotFound(param="grant_id")
        policy = parse_policy(agreement.terms["policy"])
        bought = await offers.get_version(uow, grant.product_version_id)
        read = await version_of(uow, grant, policy)
        last = bought.number + 1 if policy.versions == "pinned" else NUMBER_MAX
        # Those before the page say when its own ones take effect.
        found = await releases.page(
            uow,
            grant.product_id,
            number=bought.number,
            below=min(below, last),
            limit=page.limit + RECENT_MAX,
        )
        notice = timedelta(days=policy.breaking_notice_days)
        views = [
            _view(release, found[place + 1 :], notice=notice, read_id=read.id)
            for place, release in enumerate(found[: page.limit + 1])
        ]
    return Page[GrantVersionView].of(views, page.limit, [(view.number,) for view in views])


def _view(
    release: Release, older: list[Release], *, notice: timedelta, read_id: UUID
) -> GrantVersionView:
    change = schema_change(older[0].columns, release.columns) if older else None
    return GrantVersionView(
        version_id=release.id,
        number=release.number,
        rows=release.row_count,
        bytes=release.byte_count,
        sha256=release.sha256,
        certified_at=release.certified_at,
        in_effect=release.id == read_id,
        effective_at=effective_at(older[:RECENT_MAX][::-1], release, notice=notice),
        changes=None if change is None else ColumnChanges.of(change),
    )


def _below(page: PageQuery) -> int:
    key = page.key(1)
    if key is None:
        return NUMBER_MAX
    if not key[0].isascii() or not key[0].isdecimal() or len(key[0]) > 10:
        raise BadCursor(param="after")
    return min(int(key[0]), NUMBER_MAX)
