"""Quotes: a seller's private offer on a request, and the rounds of its negotiation.

The buyer sees all quotes on its request, a seller only its own. The side whose ``turn`` it is
may counter or accept; the seller may withdraw and the buyer decline at any time. Every change
locks the request first, so changes of one request's quotes never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from listings import offers
from market.demand.errors import (
    ExpiryOutOfRange,
    NotTheSeller,
    NotYourTurn,
    PlanQuoted,
    QuoteEnded,
    QuoteExpired,
    QuoteNotFound,
    QuoteTooLarge,
    RequestNotFound,
    RoundsUsedUp,
    SelfDeal,
    TooManyQuotes,
)
from market.demand.models import (
    ROUNDS_MAX,
    Proposal,
    Quote,
    QuoteStatus,
    Request,
    Side,
    Visibility,
)
from market.demand.requests import check_open, invitees, lock_request, visible_request
from market.demand.schemas import ProposalInput, ProposalView, QuoteInput, RequestQuoteView
from market.demand.steps import quote_step
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import MAX_MINOR
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, get_parties, related, require_verified
from market.parties.trading import require_trading
from pricing.models import Plan
from pricing.plans import get_active_plan
from pricing.units import counted_units

# How long a proposal may bind; what one buyer has to read.
VALIDITY_MAX = timedelta(days=90)
OPEN_QUOTES_MAX = 100
# 2**62: grants count units in bigint.
_UNITS_MAX = 1 << 62


async def make_quote(
    kernel: Kernel, actor: Actor, request_id: UUID, body: QuoteInput
) -> RequestQuoteView:
    """Offer a plan at a price of its own. Event ``quote.made`` to both sides.

    Raises RoleRequired, PartyNotVerified, TradingBlocked, NotTheSeller or SelfDeal (403),
    RequestNotFound,
    PlanNotFound or ListingNotFound (404), RequestNotOpen, PlanRetired, ListingNotLive,
    PlanQuoted or TooManyQuotes (409), ExpiryOutOfRange or QuoteTooLarge (422).
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        await visible_request(uow, actor, request_id)
        request = await lock_request(uow, request_id)
        await _check_invited(uow, actor, request)
        check_open(request, uow.now)
        await require_verified(uow, actor.party_id)
        await require_trading(uow, actor.party_id)
        plan = await get_active_plan(uow, body.plan_id)
        if plan.seller_id != actor.party_id:
            raise NotTheSeller(param="plan_id")
        await offers.get_live_listing(uow, plan.listing_id)
        parties = await get_parties(uow, [request.buyer_id, actor.party_id])
        if related(parties[request.buyer_id], parties[actor.party_id]):
            raise SelfDeal(param="request_id")
        check_terms(body, plan, now=uow.now)
        await _check_count(uow, request_id, plan.id)
        quote = _new_quote(request, plan, body, now=uow.now)
        uow.session.add(quote)
        await uow.session.flush()
        made = _propose(uow, quote, body, side=Side.SELLER)
        quote_step(uow, quote, "made", actor=actor)
        view = view_of(quote, [made])
        await uow.answer(view, headers={"Location": f"/v1/quotes/{show('quo', quote.id)}"})
    return view


async def counter(
    kernel: Kernel, actor: Actor, quote_id: UUID, body: ProposalInput
) -> RequestQuoteView:
    """Answer the latest proposal by another one; the other side is next.

    A counter-offer binds whoever makes it until ``valid_until``: the other side may accept it.
    Event ``quote.countered``. Raises RoleRequired or TradingBlocked (403), QuoteNotFound (404),
    QuoteEnded, QuoteExpired, NotYourTurn, RoundsUsedUp or RequestNotOpen (409), ExpiryOutOfRange or
    QuoteTooLarge (422).
    """
    actor.require(Role.BUYER, Role.SELLER)
    async with kernel.unit_of_work() as uow:
        request, quote, side = await lock_quote(uow, actor, quote_id)
        check_turn(quote, side, now=uow.now)
        check_open(request, uow.now)
        await require_verified(uow, actor.party_id)
        await require_trading(uow, actor.party_id)
        if quote.round >= ROUNDS_MAX:
            raise RoundsUsedUp(f"A quote has {ROUNDS_MAX} rounds.")
        check_terms(body, await get_active_plan(uow, quote.plan_id), now=uow.now)
        quote.round += 1
        quote.turn = side.other
        quote.price_minor = body.price_minor
        quote.lots = body.lots
        quote.valid_until = body.valid_until
        quote.updated_at = uow.now
        _propose(uow, quote, body, side=side)
        quote_step(uow, quote, "countered", actor=actor)
        view = await quote_view(uow, quote)
        await uow.answer(view, status=200)
    return view


async def end_quote(
    kernel: Kernel, actor: Actor, quote_id: UUID, status: QuoteStatus
) -> RequestQuoteView:
    """Decline (the buyer) or withdraw (the seller) an open quote, whoever's turn it is.

    Event ``quote.declined`` or ``quote.withdrawn``. Raises RoleRequired (403), QuoteNotFound
    (404), also for the wrong side, and QuoteEnded (409).
    """
    wanted = Side.BUYER if status is QuoteStatus.DECLINED else Side.SELLER
    actor.require(Role.BUYER if wanted is Side.BUYER else Role.SELLER)
    async with kernel.unit_of_work() as uow:
        _, quote, side = await lock_quote(uow, actor, quote_id)
        if side is not wanted:
            raise QuoteNotFound(param="request_quote_id")
        check_not_ended(quote)
        quote.status = status
        quote.closed_at = quote.updated_at = uow.now
        quote_step(uow, quote, status.value, actor=actor)
        view = await quote_view(uow, quote)
        await uow.answer(view, status=200)
    return view


async def show_quote(kernel: Kernel, actor: Actor, quote_id: UUID) -> RequestQuoteView:
    """One quote, to its two sides and overseers. Raises QuoteNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        quote = await uow.session.get(Quote, quote_id)
        if quote is None or not _may_see(actor, quote):
            raise QuoteNotFound(param="request_quote_id")
        return await quote_view(uow, quote)


async def list_quotes(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    request_id: UUID | None = None,
    status: QuoteStatus | None = None,
) -> Page[RequestQuoteView]:
    """Newest first: all on an own request, else the actor's own; overseers see all.

    Without ``request_id`` what the actor is a side of. Raises RequestNotFound (404), BadCursor.
    """
    after = after_id(page)
    statement = select(Quote).order_by(col(Quote.id).desc()).limit(page.limit + 1)
    if after is not None:
        statement = statement.where(col(Quote.id) < after)
    if status is not None:
        statement = statement.where(Quote.status == status.value)
    async with kernel.unit_of_work() as uow:
        if request_id is not None:
            await visible_request(uow, actor, request_id)
            statement = statement.where(Quote.request_id == request_id)
        if not actor.has(Role.OPERATOR, Role.REGULATOR):
            statement = statement.where(
                (col(Quote.buyer_id) == actor.party_id) | (col(Quote.seller_id) == actor.party_id)
            )
        rows = (await uow.session.exec(statement)).all()
        proposals = await _proposals(uow, [row.id for row in rows])
    views = [view_of(row, proposals[row.id]) for row in rows]
    return Page.of(views, page.limit, [(row.id,) for row in rows])


async def lock_quote(uow: UnitOfWork, actor: Actor, quote_id: UUID) -> tuple[Request, Quote, Side]:
    """The request and the quote, locked in this order, and the actor's side.

    Raises QuoteNotFound (404) for anybody who is not one of its two sides.
    """
    # Looked at before it is locked: nobody can make the two wait for a stranger.
    seen = await uow.session.get(Quote, quote_id)
    if seen is None or actor.party_id not in (seen.buyer_id, seen.seller_id):
        raise QuoteNotFound(param="request_quote_id")
    request = await lock_request(uow, seen.request_id)
    statement = (
        select(Quote)
        .where(Quote.id == quote_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    quote = (await uow.session.exec(statement)).one()
    return request, quote, Side.BUYER if actor.party_id == quote.buyer_id else Side.SELLER


def check_not_ended(quote: Quote) -> None:
    """Raises QuoteEnded (409) for a quote in a final status."""
    if quote.status != QuoteStatus.OPEN:
        raise QuoteEnded(f"The quote is {quote.status}.", current=quote.status)


def check_turn(quote: Quote, side: Side, *, now: datetime) -> None:
    """Raises QuoteEnded, QuoteExpired or NotYourTurn (409)."""
    check_not_ended(quote)
    if quote.valid_until <= now:
        raise QuoteExpired(f"It was valid until {quote.valid_until.isoformat()}.")
    if quote.turn != side:
        raise NotYourTurn(f"It is the {quote.turn}'s turn.")


def check_terms(body: ProposalInput, plan: Plan, *, now: datetime) -> None:
    """Raises ExpiryOutOfRange or QuoteTooLarge (422)."""
    if not now < body.valid_until <= now + VALIDITY_MAX:
        raise ExpiryOutOfRange(f"At most {VALIDITY_MAX.days} days ahead.", param="valid_until")
    if body.price_minor * body.lots > MAX_MINOR:
        raise QuoteTooLarge("Price times lots exceeds the largest amount.", param="lots")
    if body.lots * counted_units(plan.unit, plan.lot_units) > _UNITS_MAX:
        raise QuoteTooLarge("The lots have more units than a grant can count.", param="lots")


def view_of(quote: Quote, proposals: Sequence[Proposal]) -> RequestQuoteView:
    """As the API shows it."""
    return RequestQuoteView(
        id=quote.id,
        request_id=quote.request_id,
        request_revision=quote.request_revision,
        buyer_id=quote.buyer_id,
        seller_id=quote.seller_id,
        listing_id=quote.listing_id,
        plan_id=quote.plan_id,
        status=QuoteStatus(quote.status),
        turn=Side(quote.turn),
        round=quote.round,
        rounds_left=ROUNDS_MAX - quote.round,
        price_minor=quote.price_minor,
        lots=quote.lots,
        total_minor=quote.price_minor * quote.lots,
        currency=quote.currency,
        valid_until=quote.valid_until,
        agreement_id=quote.agreement_id,
        proposals=[ProposalView.model_validate(each) for each in proposals],
        created_at=quote.created_at,
        updated_at=quote.updated_at,
        closed_at=quote.closed_at,
    )


def _may_see(actor: Actor, quote: Quote) -> bool:
    return may_oversee(actor, quote.buyer_id) or actor.party_id == quote.seller_id


async def _check_invited(uow: UnitOfWork, actor: Actor, request: Request) -> None:
    """Raises RequestNotFound (404): a former quote lets a seller see, not answer again."""
    if request.visibility == Visibility.ALL:
        return
    if actor.party_id not in (await invitees(uow, [request.id]))[request.id]:
        raise RequestNotFound(param="request_id")


async def _check_count(uow: UnitOfWork, request_id: UUID, plan_id: UUID) -> None:
    open_quotes = (Quote.request_id == request_id, Quote.status == QuoteStatus.OPEN.value)
    count = (await uow.session.exec(select(func.count()).where(*open_quotes))).one()
    if count >= OPEN_QUOTES_MAX:
        raise TooManyQuotes(f"At most {OPEN_QUOTES_MAX}.")
    same = select(Quote.id).where(*open_quotes, Quote.plan_id == plan_id)
    if (await uow.session.exec(same)).first() is not None:
        raise PlanQuoted(param="plan_id")


def _new_quote(request: Request, plan: Plan, body: QuoteInput, *, now: datetime) -> Quote:
    return Quote(
        id=new_id(),
        request_id=request.id,
        request_revision=request.revision,
        buyer_id=request.buyer_id,
        seller_id=plan.seller_id,
        listing_id=plan.listing_id,
        plan_id=plan.id,
        currency=plan.currency,
        status=QuoteStatus.OPEN,
        turn=Side.BUYER,
        round=1,
        price_minor=body.price_minor,
        lots=body.lots,
        valid_until=body.valid_until,
        created_at=now,
        updated_at=now,
    )


def _propose(uow: UnitOfWork, quote: Quote, body: ProposalInput, *, side: Side) -> Proposal:
    proposal = Proposal(
        quote_id=quote.id,
        round=quote.round,
        side=side,
        price_minor=body.price_minor,
        lots=body.lots,
        valid_until=body.valid_until,
        note=body.note,
        at=uow.now,
    )
    uow.session.add(proposal)
    return proposal


async def quote_view(uow: UnitOfWork, quote: Quote) -> RequestQuoteView:
    """A quote with all its rounds. Effect: flushes."""
    await uow.session.flush()
    return view_of(quote, (await _proposals(uow, [quote.id]))[quote.id])


async def _proposals(uow: UnitOfWork, ids: Sequence[UUID]) -> dict[UUID, list[Proposal]]:
    found: dict[UUID, list[Proposal]] = {quote_id: [] for quote_id in ids}
    if found:
        rows = await uow.session.exec(
            select(Proposal)
            .where(col(Proposal.quote_id).in_(list(found)))
            .order_by(col(Proposal.quote_id), col(Proposal.round))
        )
        for row in rows:
            found[row.quote_id].append(row)
    return found
