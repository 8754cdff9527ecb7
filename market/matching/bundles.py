"""Bundles: placing through the engine, reading from the database."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor
from market.matching.bundle_models import Bundle
from market.matching.bundle_schemas import BundleRequest, BundleSummary, BundleView
from market.matching.bundle_views import read_bundles, with_legs
from market.matching.commands import PlaceBundle, Reply
from market.matching.engine import MatchingEngine
from market.matching.errors import BundleNotFound
from market.matching.orders import remembered, role_of
from market.parties.access import may_oversee
from market.parties.directory import after_id

_NO_REQUEST = "none"


async def place_bundle(
    engine: MatchingEngine, actor: Actor, body: BundleRequest, *, request_id: str = _NO_REQUEST
) -> Reply:
    """Fill all legs at once; the answer holds a BundleView (201) or the problem that refused it.

    Effects: those of each leg as a filled order, all in one transaction, and the event
    ``bundle.filled``. Refused, it changes nothing; its key keeps the refusal. Raises RoleRequired
    (403) and the engine's 503s. The key as in :func:`market.matching.orders.place_order`.
    """
    for role in sorted({role_of(leg.side, leg.grant_id) for leg in body.legs}):
        actor.require(role)
    claim = idempotency.take()
    reply = await engine.submit(
        PlaceBundle(
            party_id=actor.party_id,
            key=claim.key if claim else f"engine-bundle:{new_id().hex}",
            request_hash=claim.request_hash if claim else bytes(32),
            body=body,
            request_id=request_id,
            order_ids=tuple(new_id() for _ in body.legs),
        )
    )
    return remembered(claim, reply)


async def show_bundle(kernel: Kernel, actor: Actor, bundle_id: UUID) -> BundleView:
    """One bundle, to its party, operators and regulators. Raises BundleNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        found = (await read_bundles(connection, [bundle_id])).get(bundle_id)
        if found is None or not may_oversee(actor, found.party_id):
            raise BundleNotFound(param="bundle_id")
        return await with_legs(connection, found)


async def list_bundles(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    party_id: UUID | None = None,
    client_order_id: str | None = None,
) -> Page[BundleSummary]:
    """The actor's bundles, newest first; of ``party_id`` for operators and regulators.

    Raises BundleNotFound (404) for another party's without oversight, BadCursor (422).
    """
    wanted = party_id or actor.party_id
    if not may_oversee(actor, wanted):
        raise BundleNotFound(param="party_id")
    statement = (
        select(Bundle.id)
        .where(Bundle.party_id == wanted)
        .order_by(col(Bundle.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Bundle.id) < after)
    if client_order_id is not None:
        statement = statement.where(Bundle.client_order_id == client_order_id)
    async with kernel.unit_of_work() as uow:
        ids: Sequence[UUID] = (await uow.session.exec(statement)).all()
        found = await read_bundles(await uow.raw(), ids)
    return Page.of([found[bundle_id] for bundle_id in ids], page.limit, [(i,) for i in ids])
