"""Top-ups: a card pays, the rail decides, the ledger credits. Three steps, each survivable.

1. The row is committed as ``pending``: its id is the rail's key, known before the call.
2. The rail is asked, outside any unit of work.
3. Status and credit are committed together. Whoever comes second finds the status changed.

A crash in between leaves a pending row; the client's repetition or ``jobs.run_top_ups`` goes on
with the same key.
"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import timedelta
from uuid import UUID

import structlog
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.idempotency import KeyReused
from market.kernel.ids import new_id, show
from market.kernel.money import Money
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Transfer
from settlement.errors import (
    CardDeclined,
    NotChallenged,
    RailUnavailable,
    TopUpNotFound,
)
from settlement.models import TopUp, TopUpStatus
from settlement.rail_schemas import Authentication
from settlement.rails.base import ChargeRequest, Rail, RailAnswer, RailStatus
from settlement.rails.choice import rail_of
from settlement.rails.sandbox import SandboxRail
from settlement.schemas import TopUpRequest, TopUpView

# How long a request may take before the job asks the rail in its place.
LEASE = timedelta(seconds=30)
SUCCEEDED = RailAnswer(RailStatus.SUCCEEDED)

_log = structlog.get_logger(__name__)


async def create_top_up(kernel: Kernel, actor: Actor, body: TopUpRequest) -> TopUpView:
    """Charge the card and credit the actor's available balance.

    Raises CardDeclined (402; the top-up is kept as failed). When the rail's answer is unknown
    the top-up is returned ``pending`` and settled by the worker.
    """
    actor.require(Role.BUYER, Role.SELLER)
    rail = rail_of(kernel)
    card = rail.card_of(body.card, body.money)
    async with kernel.unit_of_work() as uow:
        top_up = await _open(uow, actor, body, card=card, rail_name=rail.name)
    answer = RailAnswer(RailStatus.PENDING)
    if top_up.status == TopUpStatus.PENDING:
        with contextlib.suppress(RailUnavailable):
            answer = await rail.charge(charge_of(top_up))
    async with kernel.unit_of_work() as uow:
        top_up = await settle(uow, top_up.id, answer)
        view = view_of(top_up)
        if view.status is not TopUpStatus.FAILED:
            await uow.answer(view, headers={"Location": f"/v1/top-ups/{show('top', view.id)}"})
    if view.status is TopUpStatus.FAILED:
        raise CardDeclined(
            failure_code=view.failure_code, top_up_id=show("top", view.id), param="card"
        )
    return view


async def settle(uow: UnitOfWork, top_up_id: UUID, answer: RailAnswer) -> TopUp:
    """Take over the rail's answer: credit or fail a pending top-up, once. Locks its row."""
    top_up = await lock_top_up(uow, top_up_id)
    if top_up.status != TopUpStatus.PENDING:
        return top_up
    if answer.status is RailStatus.PENDING:
        top_up.redirect_url = answer.redirect_url or top_up.redirect_url
        return top_up
    top_up.updated_at = uow.now
    top_up.redirect_url = None
    asked = (top_up.amount_minor, top_up.currency)
    if answer.status is RailStatus.FAILED:
        top_up.status = TopUpStatus.FAILED
        top_up.failure_code = answer.failure_code
    elif answer.paid is not None and answer.paid != asked:
        # Whatever this is, it is not the payment that was asked for: people look at it.
        top_up.status = TopUpStatus.FAILED
        top_up.failure_code = "amount_mismatch"
        _log.error("top_up_mismatch", top_up=str(top_up.id), asked=asked, paid=answer.paid)
        uow.emit(
            "rail.amount_mismatch",
            top_up.id,
            {"asked": list(asked), "paid": list(answer.paid), "rail": top_up.rail},
        )
    else:
        top_up.status = TopUpStatus.SUCCEEDED
        legs = (
            (AccountRef(AccountKind.CLEARING, None, top_up.currency), -top_up.amount_minor),
            (_available(top_up), top_up.amount_minor),
        )
        key = _key(top_up, "credit")
        await ledger.post_strict(uow, [Transfer(key, "top_up", legs, memo_id=top_up.id)])
    emit(uow, top_up)
    return top_up


async def refunded_minor(uow: UnitOfWork, top_up_id: UUID) -> int:
    """Minor units of a top-up that went back to its card, or are on their way."""
    refunded = await (await uow.raw()).fetchval(
        "SELECT coalesce(sum(amount_minor), 0) FROM settlement.refund "
        "WHERE top_up_id = $1 AND status <> 'failed'",
        top_up_id,
    )
    return int(refunded)


async def ask_rail(rail: Rail, top_up: TopUp) -> RailAnswer:
    """For the worker: what became of the charge; charges now if the rail never got it."""
    found = await rail.find_charge(top_up.id)
    return found if found is not None else await rail.charge(charge_of(top_up))


async def authenticate(
    kernel: Kernel, actor: Actor, top_up_id: UUID, body: Authentication
) -> TopUpView:
    """Answer the sandbox's 3-D Secure challenge and settle the top-up.

    Raises TopUpNotFound (404: also another's), NotChallenged (409), RailUnavailable (503: not
    the sandbox rail).
    """
    rail = rail_of(kernel)
    if not isinstance(rail, SandboxRail):
        raise TopUpNotFound
    async with kernel.unit_of_work() as uow:
        top_up = await uow.session.get(TopUp, top_up_id)
    if top_up is None or top_up.party_id != actor.party_id:
        raise TopUpNotFound
    if not await rail.authenticate(top_up_id, approved=body.outcome == "approved"):
        raise NotChallenged
    answer = await ask_rail(rail, top_up)
    async with kernel.unit_of_work() as uow:
        view = view_of(await settle(uow, top_up_id, answer))
        await uow.answer(view)
    return view


async def get_top_up(kernel: Kernel, actor: Actor, top_up_id: UUID) -> TopUpView:
    """One's own top-up; operators and regulators see all. Raises TopUpNotFound."""
    async with kernel.unit_of_work() as uow:
        top_up = await uow.session.get(TopUp, top_up_id)
        if top_up is None or not may_oversee(actor, top_up.party_id):
            raise TopUpNotFound
        return view_of(top_up)


async def list_top_ups(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[TopUpView]:
    """Newest first; a party's own, or all for operators and regulators."""
    after = after_id(page)
    query = select(TopUp).order_by(col(TopUp.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(TopUp.id) < after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(TopUp.party_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        views = [view_of(row) for row in await uow.session.exec(query)]
    return Page[TopUpView].of(views, page.limit, [(view.id,) for view in views])


async def lock_top_up(uow: UnitOfWork, top_up_id: UUID) -> TopUp:
    """The row, locked until the unit of work ends. Raises TopUpNotFound."""
    query = (
        select(TopUp)
        .where(TopUp.id == top_up_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    top_up = (await uow.session.exec(query)).one_or_none()
    if top_up is None:
        raise TopUpNotFound
    return top_up


def charge_of(top_up: TopUp) -> ChargeRequest:
    """The rail request of a top-up; its id is the key."""
    return ChargeRequest(
        top_up.id, top_up.amount_minor, top_up.currency, top_up.card, top_up.party_id
    )


def view_of(top_up: TopUp) -> TopUpView:
    """The API shape; the card token stays inside."""
    return TopUpView(
        id=top_up.id,
        party_id=top_up.party_id,
        money=Money(amount_minor=top_up.amount_minor, currency=top_up.currency),
        rail=top_up.rail,
        status=TopUpStatus(top_up.status),
        failure_code=top_up.failure_code,
        redirect_url=top_up.redirect_url,
        created_at=top_up.created_at,
        updated_at=top_up.updated_at,
    )


async def _open(
    uow: UnitOfWork, actor: Actor, body: TopUpRequest, *, card: str, rail_name: str
) -> TopUp:
    """The row of this request: made now, or by an earlier try that did not get to its answer.

    The Idempotency-Key alone cannot bridge a crash between steps, because no answer is stored
    yet; so the row remembers the key too. Raises KeyReused (422) for another body.
    """
    identity = new_id()
    request_key = uow.claim.key_hash if uow.claim is not None else identity.bytes
    wanted = f"{body.money.amount_minor}/{body.money.currency}/{card}"
    request_hash = hashlib.sha256(wanted.encode()).digest()
    query = select(TopUp).where(TopUp.party_id == actor.party_id, TopUp.request_key == request_key)
    known = (await uow.session.exec(query)).one_or_none()
    if known is not None:
        if known.request_hash != request_hash:
            raise KeyReused(param="Idempotency-Key")
        return known
    top_up = TopUp(
        id=identity,
        party_id=actor.party_id,
        amount_minor=body.money.amount_minor,
        currency=body.money.currency,
        card=card,
        rail=rail_name,
        request_key=request_key,
        request_hash=request_hash,
        status=TopUpStatus.PENDING,
        next_attempt_at=uow.now + LEASE,
        created_at=uow.now,
        updated_at=uow.now,
    )
    uow.session.add(top_up)
    return top_up


def _key(top_up: TopUp, step: str) -> str:
    return f"top_up:{top_up.id.hex}:{step}"


def _available(top_up: TopUp) -> AccountRef:
    return AccountRef(AccountKind.AVAILABLE, top_up.party_id, top_up.currency)


def emit(uow: UnitOfWork, top_up: TopUp) -> None:
    """Tell the party its top-up's new state."""
    uow.emit(
        f"top_up.{top_up.status}",
        top_up.id,
        view_of(top_up).model_dump(mode="json"),
        parties=[top_up.party_id],
    )
