"""Orders: placing and cancelling through the engine, reading from the database."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.idempotency import Answer, Claim, Replay
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.matching.batch_schemas import CancelAllInput
from market.matching.commands import Amend, Cancel, CancelAll, Place, Reply
from market.matching.engine import MatchingEngine
from market.matching.errors import OrderNotFound, ReasonMissing
from market.matching.models import Order, OrderSide, OrderStatus
from market.matching.schemas import AmendRequest, OrderRequest, OrderView
from market.matching.views import read_views
from market.parties.access import may_oversee
from market.parties.directory import after_id

_NO_REQUEST = "none"


async def place_order(
    engine: MatchingEngine, actor: Actor, body: OrderRequest, *, request_id: str = _NO_REQUEST
) -> Reply:
    """Place an order; the answer holds an OrderView (201) or the problem that refused it.

    Effects of an accepted order: hold on the buyer's balance, trades with agreements, escrow and
    grants, events. A refused one changes nothing, and its key keeps the refusal. Raises
    RoleRequired (403) and the engine's 503s. Called within a request it takes over the request's
    Idempotency-Key; elsewhere each call is a new command.
    """
    actor.require(role_of(body.side, body.grant_id))
    claim = idempotency.take()
    reply = await engine.submit(
        Place(
            party_id=actor.party_id,
            key=claim.key if claim else f"engine-place:{new_id().hex}",
            request_hash=claim.request_hash if claim else bytes(32),
            body=body,
            request_id=request_id,
        )
    )
    return remembered(claim, reply)


async def amend_order(
    engine: MatchingEngine,
    actor: Actor,
    order_id: UUID,
    body: AmendRequest,
    *,
    request_id: str = _NO_REQUEST,
) -> Reply:
    """Amend an own open order; the answer holds its OrderView (200) or a problem.

    Effects: its hold follows its terms; it may trade as a new order does; event
    ``order.amended``. Refused, it stays as it was: 402 without the money, 404 for an unknown
    order or that of somebody else, 409 once it is closed or when a post-only order would trade.
    The key as in :func:`place_order`. Raises RoleRequired (403) and the engine's 503s.
    """
    actor.require(Role.BUYER, Role.SELLER)
    claim = idempotency.take()
    reply = await engine.submit(
        Amend(
            party_id=actor.party_id,
            key=claim.key if claim else f"engine-amend:{new_id().hex}",
            request_hash=claim.request_hash if claim else bytes(32),
            order_id=order_id,
            body=body,
            request_id=request_id,
        )
    )
    return remembered(claim, reply)


def role_of(side: OrderSide, grant_id: UUID | None) -> Role:
    """Who may send such an order: who sells bought units on is a buyer of the plan."""
    return Role.BUYER if side is OrderSide.BUY or grant_id is not None else Role.SELLER


def remembered(claim: Claim | None, reply: Reply) -> Reply:
    """Answer the request's claim with what the engine has stored under its key."""
    if claim is not None:
        if reply.replayed:
            raise Replay(reply.answer)
        claim.answer = reply.answer
    return reply


async def cancel_order(
    engine: MatchingEngine, actor: Actor, order_id: UUID, *, request_id: str = _NO_REQUEST
) -> Answer:
    """Cancel an own open order; the answer holds its OrderView (200) or a problem.

    Effects: the rest of its hold is free, event ``order.cancelled``. 404 for an unknown order or
    that of somebody else, 409 once it is filled or cancelled. Raises RoleRequired (403) and the
    engine's 503s.
    """
    actor.require(Role.BUYER, Role.SELLER)
    command = Cancel(party_id=actor.party_id, order_id=order_id, request_id=request_id)
    return (await engine.submit(command)).answer


async def cancel_all(
    engine: MatchingEngine, actor: Actor, body: CancelAllInput, *, request_id: str = _NO_REQUEST
) -> Reply:
    """Cancel own open orders, or those of a party as an operator; answers a MassCancelView.

    Effects: their holds are free, event ``order.cancelled`` each; an operator's reason goes to the
    audit log. The key as in :func:`place_order`. Raises RoleRequired (403), ReasonMissing (422)
    and the engine's 503s.
    """
    other = body.party_id is not None and body.party_id != actor.party_id
    actor.require(*((Role.OPERATOR,) if other else (Role.BUYER, Role.SELLER)))
    if other and body.reason is None:
        raise ReasonMissing(param="reason")
    claim = idempotency.take()
    reply = await engine.submit(
        CancelAll(
            party_id=actor.party_id,
            key=claim.key if claim else f"engine-cancel-all:{new_id().hex}",
            request_hash=claim.request_hash if claim else bytes(32),
            owner_id=body.party_id or actor.party_id,
            request_id=request_id,
            plan_id=body.plan_id,
            side=body.side,
            reason=body.reason if other else None,
            credential_id=actor.credential_id if other else None,
        )
    )
    return remembered(claim, reply)


async def show_order(kernel: Kernel, actor: Actor, order_id: UUID) -> OrderView:
    """One order, to its party, operators and regulators. Raises OrderNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        view = (await read_views(await uow.raw(), [order_id])).get(order_id)
    if view is None or not may_oversee(actor, view.party_id):
        raise OrderNotFound(param="order_id")
    return view


async def list_orders(
    kernel: Kernel,
    actor: Actor,
    page: PageQuery,
    *,
    plan_id: UUID | None = None,
    status: OrderStatus | None = None,
    party_id: UUID | None = None,
    client_order_id: str | None = None,
) -> Page[OrderView]:
    """The actor's orders, newest first; of ``party_id`` for operators and regulators.

    Raises OrderNotFound (404) for another party's orders without oversight, BadCursor (422).
    """
    wanted = party_id or actor.party_id
    if not may_oversee(actor, wanted):
        raise OrderNotFound(param="party_id")
    statement = (
        select(Order.id)
        .where(Order.party_id == wanted)
        .order_by(col(Order.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Order.id) < after)
    if plan_id is not None:
        statement = statement.where(Order.plan_id == plan_id)
    if status is not None:
        statement = statement.where(Order.status == status.value)
    if client_order_id is not None:
        statement = statement.where(Order.client_order_id == client_order_id)
    async with kernel.unit_of_work() as uow:
        ids: Sequence[UUID] = (await uow.session.exec(statement)).all()
        views = await read_views(await uow.raw(), ids)
    return Page.of([views[order_id] for order_id in ids], page.limit, [(i,) for i in ids])
