"""Requests by their buyers: posting, changing, opening, closing; reading by who may see them.

Locks: the request before its quotes, quotes in id order, then the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_
from sqlmodel import col, select

from listings.vocabulary import Category
from market.demand.errors import (
    ExpiryOutOfRange,
    InviteeUnknown,
    RequestEnded,
    RequestNotFound,
    RequestNotOpen,
    TooManyRequests,
)
from market.demand.models import (
    Invitation,
    Quote,
    QuoteStatus,
    Request,
    RequestStatus,
    Visibility,
)
from market.demand.schemas import Constraints, RequestInput, RequestPatch, RequestView
from market.demand.steps import quote_step, request_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.http import require_version
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, get_parties, lock_party, require_verified

REQUEST_TTL = timedelta(days=30)
REQUEST_TTL_MAX = timedelta(days=366)
# Drafts and open requests of one buyer: what a standing match has to look at stays bounded.
LIVE_REQUESTS_MAX = 100
_LIVE = (RequestStatus.DRAFT.value, RequestStatus.OPEN.value)


async def create_request(kernel: Kernel, actor: Actor, body: RequestInput) -> RequestView:
    """Post a request, open at once unless it is a draft.

    Effects: event ``request.created`` or ``request.opened`` (to invited sellers too). Raises
    RoleRequired or PartyNotVerified (403), TooManyRequests (409), InviteeUnknown or
    ExpiryOutOfRange (422).
    """
    actor.require(Role.BUYER)
    async with kernel.unit_of_work() as uow:
        # The lock makes the count of live requests exact.
        await lock_party(uow, actor.party_id)
        await require_verified(uow, actor.party_id)
        await _check_count(uow, actor.party_id)
        request = Request(
            id=new_id(),
            buyer_id=actor.party_id,
            status=RequestStatus.DRAFT if body.draft else RequestStatus.OPEN,
            title=body.title,
            text=body.text,
            category=body.constraints.category,
            constraints=body.constraints.model_dump(mode="json"),
            visibility=Visibility.INVITED if body.invited else Visibility.ALL,
            standing=body.standing,
            revision=1,
            expires_at=_expiry(body.expires_at, uow.now),
            created_at=uow.now,
            updated_at=uow.now,
            opened_at=None if body.draft else uow.now,
            closed_at=None,
        )
        uow.session.add(request)
        await uow.session.flush()
        invited = await _invite(uow, request, body.invited or [])
        action = "created" if body.draft else "opened"
        parties = [] if body.draft else invited
        request_step(uow, request, action, actor=actor, parties=parties)
        view = view_of(request, invited)
        await uow.answer(view, headers={"Location": f"/v1/requests/{show('req', request.id)}"})
    return view


async def change_request(
    kernel: Kernel, actor: Actor, request_id: UUID, body: RequestPatch, *, revision: int
) -> RequestView:
    """Change a draft or an open request; what is left out stays. Event ``request.changed``.

    Quotes made before keep their terms and name the revision they answered. Sellers who are no
    longer invited keep their quotes. Raises RequestNotFound (404), PreconditionFailed (412),
    RequestEnded (409), InviteeUnknown or ExpiryOutOfRange (422).
    """
    async with kernel.unit_of_work() as uow:
        request = await _lock_own(uow, actor, request_id)
        require_version(revision, request.revision)
        _check_live(request, uow.now)
        if body.title is not None:
            request.title = body.title
        if body.text is not None:
            request.text = body.text
        if body.constraints is not None:
            request.constraints = body.constraints.model_dump(mode="json")
            request.category = body.constraints.category
        if body.standing is not None:
            request.standing = body.standing
        if body.expires_at is not None:
            request.expires_at = _expiry(body.expires_at, uow.now)
        if body.invited is not None:
            of_request = col(Invitation.request_id) == request.id
            await uow.session.exec(delete(Invitation).where(of_request))
            request.visibility = Visibility.INVITED if body.invited else Visibility.ALL
            await _invite(uow, request, body.invited)
        request.revision += 1
        request.updated_at = uow.now
        invited = (await invitees(uow, [request.id]))[request.id]
        parties = invited if request.status == RequestStatus.OPEN else []
        request_step(uow, request, "changed", actor=actor, parties=parties)
        return view_of(request, invited)


async def open_request(kernel: Kernel, actor: Actor, request_id: UUID) -> RequestView:
    """Show a draft to the sellers. Event ``request.opened``.

    Raises RequestNotFound (404), RequestEnded (409), also when it is open already, and
    ExpiryOutOfRange (422) when its time has passed meanwhile.
    """
    async with kernel.unit_of_work() as uow:
        request = await _lock_own(uow, actor, request_id)
        await require_verified(uow, actor.party_id)
        if request.status != RequestStatus.DRAFT:
            raise RequestEnded(f"The request is {request.status}.", current=request.status)
        if request.expires_at <= uow.now:
            raise ExpiryOutOfRange("The draft's expires_at has passed; change it first.")
        request.status = RequestStatus.OPEN
        request.opened_at = uow.now
        _touch(request, uow.now)
        invited = (await invitees(uow, [request.id]))[request.id]
        request_step(uow, request, "opened", actor=actor, parties=invited)
        view = view_of(request, invited)
        await uow.answer(view, status=200)
    return view


async def close_request(kernel: Kernel, actor: Actor, request_id: UUID) -> RequestView:
    """End a request without a deal; its buyer or an operator. Event ``request.closed``.

    Effect: its open quotes lapse. Raises RequestNotFound (404), RequestEnded (409).
    """
    async with kernel.unit_of_work() as uow:
        if actor.has(Role.OPERATOR):
            request = await lock_request(uow, request_id)
        else:
            request = await _lock_own(uow, actor, request_id)
        if request.status not in _LIVE:
            raise RequestEnded(f"The request is {request.status}.", current=request.status)
        await end_request(uow, request, RequestStatus.CLOSED, actor=actor)
        invited = (await invitees(uow, [request.id]))[request.id]
        view = view_of(request, invited)
        await uow.answer(view, status=200)
    return view


async def show_request(kernel: Kernel, actor: Actor, request_id: UUID) -> RequestView:
    """One request, to those who may see it. Raises RequestNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        request = await visible_request(uow, actor, request_id)
        return (await _views_for(uow, actor, [request]))[0]


async def list_requests(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    mine: bool = False,
    status: RequestStatus | None = None,
    category: Category | None = None,
) -> Page[RequestView]:
    """What the actor may see, newest first; with ``mine`` its own. Raises BadCursor (422)."""
    after = after_id(page)
    statement = select(Request).order_by(col(Request.id).desc()).limit(page.limit + 1)
    statement = statement.where(Request.buyer_id == actor.party_id if mine else _visible(actor))
    if after is not None:
        statement = statement.where(col(Request.id) < after)
    if status is not None:
        statement = statement.where(Request.status == status.value)
    if category is not None:
        statement = statement.where(Request.category == category.value)
    async with kernel.unit_of_work() as uow:
        rows: Sequence[Request] = (await uow.session.exec(statement)).all()
        views = await _views_for(uow, actor, rows)
    return Page.of(views, page.limit, [(row.id,) for row in rows])


async def visible_request(uow: UnitOfWork, actor: Actor, request_id: UUID) -> Request:
    """One request, unlocked. Raises RequestNotFound (404) for who may not see it."""
    statement = select(Request).where(Request.id == request_id, _visible(actor))
    request = (await uow.session.exec(statement)).one_or_none()
    if request is None:
        raise RequestNotFound(param="request_id")
    return request


async def lock_request(uow: UnitOfWork, request_id: UUID) -> Request:
    """The row, locked until the unit of work ends. Raises RequestNotFound (404)."""
    statement = (
        select(Request)
        .where(Request.id == request_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    request = (await uow.session.exec(statement)).one_or_none()
    if request is None:
        raise RequestNotFound(param="request_id")
    return request


def check_open(request: Request, now: datetime) -> None:
    """Raises RequestNotOpen (409) unless quotes may be made and accepted at ``now``."""
    if request.status != RequestStatus.OPEN:
        raise RequestNotOpen(f"The request is {request.status}.", current=request.status)
    if request.expires_at <= now:
        raise RequestNotOpen("The request has expired.", current=RequestStatus.EXPIRED.value)


async def end_request(
    uow: UnitOfWork, request: Request, status: RequestStatus, *, actor: Actor | None
) -> None:
    """Move a locked request to a final status; its open quotes lapse, each with its event."""
    request.status = status
    request.closed_at = uow.now
    _touch(request, uow.now)
    open_quotes = (
        select(Quote)
        .where(Quote.request_id == request.id, Quote.status == QuoteStatus.OPEN)
        .order_by(col(Quote.id))
        .with_for_update()
    )
    for quote in (await uow.session.exec(open_quotes)).all():
        quote.status = QuoteStatus.LAPSED
        quote.closed_at = quote.updated_at = uow.now
        quote_step(uow, quote, "lapsed", actor=actor)
    request_step(uow, request, status.value, actor=actor)


async def invitees(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """The invited parties of each of ``ids``, in id order."""
    found: dict[UUID, list[UUID]] = {request_id: [] for request_id in ids}
    if found:
        rows = await uow.session.exec(
            select(Invitation)
            .where(col(Invitation.request_id).in_(list(found)))
            .order_by(col(Invitation.party_id))
        )
        for row in rows:
            found[row.request_id].append(row.party_id)
    return found


def view_of(request: Request, invited: Sequence[UUID]) -> RequestView:
    """As the API shows it; ``invited`` empty for those who may not know."""
    return RequestView(
        id=request.id,
        buyer_id=request.buyer_id,
        status=RequestStatus(request.status),
        title=request.title,
        text=request.text,
        constraints=Constraints.model_validate(request.constraints),
        visibility=Visibility(request.visibility),
        invited=list(invited),
        standing=request.standing,
        revision=request.revision,
        expires_at=request.expires_at,
        created_at=request.created_at,
        updated_at=request.updated_at,
        opened_at=request.opened_at,
        closed_at=request.closed_at,
    )


async def _views_for(
    uow: UnitOfWork, actor: Actor, requests: Sequence[Request]
) -> list[RequestView]:
    own = [request.id for request in requests if may_oversee(actor, request.buyer_id)]
    invited = await invitees(uow, own)
    return [view_of(request, invited.get(request.id, [])) for request in requests]


def _visible(actor: Actor) -> ColumnElement[bool]:
    """Own requests, open ones for everybody or by invitation, and those one has quoted on."""
    if actor.has(Role.OPERATOR, Role.REGULATOR):
        return col(Request.id).is_not(None)
    invited = exists().where(
        col(Invitation.request_id) == col(Request.id),
        col(Invitation.party_id) == actor.party_id,
    )
    quoted = exists().where(
        col(Quote.request_id) == col(Request.id), col(Quote.seller_id) == actor.party_id
    )
    offered = and_(
        col(Request.status) == RequestStatus.OPEN.value,
        or_(col(Request.visibility) == Visibility.ALL.value, invited),
    )
    return or_(col(Request.buyer_id) == actor.party_id, offered, quoted)


async def _lock_own(uow: UnitOfWork, actor: Actor, request_id: UUID) -> Request:
    # Looked at before it is locked: nobody can make the buyer wait for a stranger.
    seen = await uow.session.get(Request, request_id)
    if seen is None or seen.buyer_id != actor.party_id:
        raise RequestNotFound(param="request_id")
    return await lock_request(uow, request_id)


def _check_live(request: Request, now: datetime) -> None:
    expired = request.status == RequestStatus.OPEN and request.expires_at <= now
    if request.status not in _LIVE or expired:
        status = RequestStatus.EXPIRED.value if expired else request.status
        raise RequestEnded(f"The request is {status}.", current=status)


async def _check_count(uow: UnitOfWork, buyer_id: UUID) -> None:
    statement = select(func.count()).where(
        Request.buyer_id == buyer_id, col(Request.status).in_(_LIVE)
    )
    if (await uow.session.exec(statement)).one() >= LIVE_REQUESTS_MAX:
        raise TooManyRequests(f"At most {LIVE_REQUESTS_MAX}.")


def _expiry(wanted: datetime | None, now: datetime) -> datetime:
    if wanted is None:
        return now + REQUEST_TTL
    if not now < wanted <= now + REQUEST_TTL_MAX:
        raise ExpiryOutOfRange("At most 366 days ahead.", param="expires_at")
    return wanted


async def _invite(uow: UnitOfWork, request: Request, ids: Sequence[UUID]) -> list[UUID]:
    parties = await get_parties(uow, ids)
    for at, party_id in enumerate(ids):
        party = parties.get(party_id)
        if party is None or Role.SELLER.value not in party.roles or party_id == request.buyer_id:
            raise InviteeUnknown(param=f"invited.{at}")
        uow.session.add(Invitation(request_id=request.id, party_id=party_id))
    await uow.session.flush()
    return sorted(parties)


def _touch(request: Request, now: datetime) -> None:
    request.revision += 1
    request.updated_at = now
