"""Stripe's webhooks: verified and stored at once, worked on later, in any order.

An event only says where to look: the worker fetches the object as it is now, so duplicates, gaps
and reordering all end in the same state. Ledger keys follow from our own ids, never from events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
import stripe
import structlog
from pydantic import SecretStr
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import after_id
from settlement import audit, cases, chargebacks, payout_accounts, payouts, refunds, top_ups
from settlement.errors import (
    RailUnavailable,
    WebhookEventNotFound,
    WebhookMalformed,
    WebhookSignatureInvalid,
)
from settlement.models import Payout, PayoutStatus
from settlement.rail_models import PayoutAccount, Refund, WebhookEvent, WebhookState
from settlement.rail_schemas import WebhookEventView, WebhookReceipt
from settlement.rails import stripe_checkout, stripe_connect
from settlement.rails.choice import stripe_rail_of
from settlement.rails.stripe import StripeRail
from settlement.rails.stripe_gateway import derived, key_of
from settlement.reconciliation_models import CaseKind

# Stripe's own recommendation for the past; the SDK does not look at the future at all.
TOLERANCE_S = 300
EVENTS_PER_RUN = 50
ATTEMPTS_MAX = 8
RETRY_START = timedelta(seconds=5)
RETRY_MAX = timedelta(minutes=30)

_NAME = re.compile(r"[!-~]{1,255}")
_log = structlog.get_logger(__name__)

_STORE = """
INSERT INTO settlement.webhook_event
    (id, source, event_id, type, object_id, account, livemode, state, attempts, next_attempt_at,
     created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'received', 0, $8, $8)
ON CONFLICT (source, event_id) DO NOTHING
"""
# The lease is the next attempt's time: a worker that dies leaves the event to the next one.
_CLAIM = """
UPDATE settlement.webhook_event
SET attempts = attempts + 1,
    next_attempt_at = $1 + least($2::interval * (1 << least(attempts, 12)), $3::interval)
WHERE id IN (
    SELECT id FROM settlement.webhook_event
    WHERE state = 'received' AND next_attempt_at <= $1
    ORDER BY next_attempt_at LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING id, source, type, object_id, account, livemode, attempts
"""
# An outage of Stripe is not the event's fault, so it costs no attempt.
_POSTPONE = """
UPDATE settlement.webhook_event SET attempts = attempts - 1, detail = $2
WHERE id = $1 AND state = 'received' AND attempts > 0
"""
_FINISH = """
UPDATE settlement.webhook_event SET state = $2, detail = $3, processed_at = $4
WHERE id = $1 AND state = 'received'
"""
_REPLAY = """
UPDATE settlement.webhook_event
SET state = 'received', detail = NULL, attempts = 0, next_attempt_at = $2, processed_at = NULL
WHERE id = $1
"""


class Source(StrEnum):
    """The two endpoints, each with secrets of its own."""

    PLATFORM = "platform"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True)
class _Event:
    id: UUID
    source: str
    type: str
    object_id: str
    account: str | None
    livemode: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    state: WebhookState
    detail: str | None = None


DONE = _Outcome(WebhookState.DONE)


def verify_signature(
    body: bytes, header: str | None, secrets: Sequence[SecretStr], *, now_s: float
) -> None:
    """Check a ``Stripe-Signature`` over the raw body with any of the secrets.

    Raises WebhookSignatureInvalid, also for a time more than 300 s before or after ``now_s``.
    """
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(body, header, secret.get_secret_value())
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            continue
        assert header is not None
        # The first t=, which is the one that the SDK has just verified.
        stamps = [part[2:] for part in header.split(",") if part.startswith("t=")]
        if abs(now_s - int(stamps[0])) <= TOLERANCE_S:
            return
        break
    raise WebhookSignatureInvalid(param="Stripe-Signature")


async def receive(
    kernel: Kernel, source: Source, body: bytes, signature: str | None
) -> WebhookReceipt:
    """Verify and store one event, once. Raises WebhookSignatureInvalid, WebhookMalformed (400)."""
    settings = kernel.settings
    secrets = (
        settings.stripe_webhook_secrets
        if source is Source.PLATFORM
        else settings.stripe_connect_webhook_secrets
    )
    # Stripe signs with real time, which the sandbox's clock may have left behind.
    now = kernel.clock.now() - kernel.clock.offset
    verify_signature(body, signature, secrets, now_s=now.timestamp())
    names = _names(body)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(_STORE, new_id(), source.value, *names, uow.now)
    return WebhookReceipt()


def _names(body: bytes) -> tuple[str, str, str, str | None, bool]:
    try:
        event = orjson.loads(body)
        made = event["data"]["object"]
        # Balance settings and the like have no id; nothing of ours depends on them.
        object_id = made.get("id", "-")
        account = event.get("account")
        names = (event["id"], event["type"], object_id)
        livemode = event["livemode"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WebhookMalformed from error
    texts = [*names] if account is None else [*names, account]
    if not all(isinstance(text, str) and _NAME.fullmatch(text) for text in texts):
        raise WebhookMalformed
    if not isinstance(livemode, bool):
        raise WebhookMalformed
    return event["id"], event["type"], object_id, account, livemode


async def process_webhooks(kernel: Kernel) -> int:
    """Work on due events. Returns how many reached an end (done, ignored, quarantined, dead)."""
    if kernel.settings.rail != "stripe":
        return 0
    rail = stripe_rail_of(kernel)
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            _CLAIM, uow.now, RETRY_START, RETRY_MAX, EVENTS_PER_RUN
        )
    ended = 0
    for row in rows:
        ended += await _process(kernel, rail, _Event(**dict(row)))
    return ended


async def _process(kernel: Kernel, rail: StripeRail, event: _Event) -> bool:
    try:
        outcome = await _handle(kernel, rail, event)
    except RailUnavailable as error:
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(_POSTPONE, event.id, str(error)[:500])
        return False
    except Exception as error:  # noqa: BLE001 - one event must not stop the others
        _log.exception("webhook_failed", webhook_event=str(event.id), type=event.type)
        if event.attempts < ATTEMPTS_MAX:
            return False
        outcome = _Outcome(WebhookState.DEAD, f"{type(error).__name__}: {error}"[:500])
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            _FINISH, event.id, outcome.state.value, outcome.detail, uow.now
        )
        if outcome.state in (WebhookState.DEAD, WebhookState.QUARANTINED):
            uow.emit(
                f"webhook.{outcome.state.value}",
                event.id,
                {"type": event.type, "object_id": event.object_id, "detail": outcome.detail},
            )
    return True


async def _handle(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    if event.livemode is not rail.gateway.livemode:
        return _Outcome(WebhookState.QUARANTINED, "livemode differs from our key")
    if event.source == Source.PLATFORM:
        if event.account is not None:
            return _Outcome(WebhookState.QUARANTINED, "a connected account on our own endpoint")
        if event.type.startswith(("checkout.session.", "payment_intent.")):
            return await _charge(kernel, rail, event)
        if event.type.startswith("charge.dispute."):
            return await _dispute(kernel, rail, event)
        if event.type.startswith("refund."):
            return await _refund(kernel, rail, event)
        if event.type == "transfer.reversed":
            return await _transfer(kernel, rail, event)
        return _Outcome(WebhookState.IGNORED, "nothing of ours follows from it")
    return await _connected(kernel, rail, event)


async def _charge(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    api = rail.gateway.api
    fetch = (
        api.checkout.sessions.retrieve_async
        if event.type.startswith("checkout.")
        else api.payment_intents.retrieve_async
    )
    made = await rail.gateway.ask(fetch(event.object_id))
    key = key_of(made)
    stored = None if key is None else await rail.gateway.command(key)
    if key is None or stored is None or stored.kind not in ("checkout", "payment_intent"):
        return _Outcome(WebhookState.IGNORED, "not a charge of ours")
    if event.object_id.startswith("cs_") or stored.kind == "payment_intent":
        # The answer to the creating call may have been lost; this is what it made.
        await rail.gateway.close_command(key, event.object_id)
    answer = await rail.find_charge(key)
    if answer is None:
        raise RailUnavailable("The charge is not to be found yet.")
    async with kernel.unit_of_work() as uow:
        await top_ups.settle(uow, key, answer)
    return DONE


async def _dispute(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    dispute = await rail.gateway.ask(rail.gateway.api.disputes.retrieve_async(event.object_id))
    chargeback = await rail.chargeback_of(dispute)
    if chargeback is None:
        return _Outcome(WebhookState.IGNORED, "not a charge of ours")
    await chargebacks.take(kernel, rail.name, chargeback)
    return DONE


async def _refund(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    made = await rail.gateway.ask(rail.gateway.api.refunds.retrieve_async(event.object_id))
    key = key_of(made)
    async with kernel.unit_of_work() as uow:
        known = None if key is None else await uow.session.get(Refund, key)
    if known is None:
        return _Outcome(WebhookState.IGNORED, "not a refund of ours")
    await rail.gateway.close_command(known.id, event.object_id)
    async with kernel.unit_of_work() as uow:
        await refunds.settle(uow, known.id, stripe_checkout.refund_answer(made))
    return DONE


async def _transfer(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    """A transfer was reversed. By us when a payout failed; by anybody else it is a case."""
    made = await rail.gateway.ask(rail.gateway.api.transfers.retrieve_async(event.object_id))
    key = key_of(made)
    stored = None if key is None else await rail.gateway.command(key)
    if stored is None or stored.kind != "transfer" or made.amount_reversed == 0:
        return _Outcome(WebhookState.IGNORED, "not a transfer of ours")
    if await rail.gateway.command(derived(stored.key, "reversal")) is not None:
        return DONE
    async with kernel.unit_of_work() as uow:
        payout = await uow.session.get_one(Payout, stored.subject_id)
        await cases.open_case(
            uow,
            rail.name,
            CaseKind.TRANSFER_REVERSED,
            payout.id,
            detail=f"transfer {event.object_id} was reversed by {made.amount_reversed}",
            currency=payout.currency,
            party_id=payout.party_id,
        )
    return DONE


async def _connected(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    query = select(PayoutAccount).where(
        PayoutAccount.rail == rail.name, PayoutAccount.account == event.account
    )
    async with kernel.unit_of_work() as uow:
        account = (await uow.session.exec(query)).one_or_none()
    if account is None:
        return _Outcome(WebhookState.QUARANTINED, "an account that is not ours")
    if event.type == "account.updated":
        state = await stripe_connect.fetch_account(rail.gateway, account.account)
        async with kernel.unit_of_work() as uow:
            await payout_accounts.store_state(uow, account.party_id, rail.name, state)
        return DONE
    if event.type.startswith("payout."):
        return await _payout(kernel, rail, event)
    return _Outcome(WebhookState.IGNORED, "nothing of ours follows from it")


async def _payout(kernel: Kernel, rail: StripeRail, event: _Event) -> _Outcome:
    options: Any = {"stripe_account": event.account}
    made = await rail.gateway.ask(
        rail.gateway.api.payouts.retrieve_async(event.object_id, None, options)
    )
    key = key_of(made)
    stored = None if key is None else await rail.gateway.command(key)
    if stored is None or stored.kind != "payout" or stored.account != event.account:
        return _Outcome(WebhookState.IGNORED, "not a payout of ours")
    await rail.gateway.close_command(stored.key, event.object_id)
    async with kernel.unit_of_work() as uow:
        payout = await uow.session.get_one(Payout, stored.subject_id)
    if payout.status not in (PayoutStatus.SUBMITTED, PayoutStatus.PAID):
        return DONE
    # All keys exist already: this fetches, and takes the transfer back if the bank refused.
    answer = await rail.pay_out(payouts.rail_request_of(payout))
    async with kernel.unit_of_work() as uow:
        await payouts.settle(uow, payout.id, answer)
    return DONE


async def list_events(
    kernel: Kernel, actor: Actor, page: PageQuery, *, state: WebhookState | None
) -> Page[WebhookEventView]:
    """Received events, newest first. Raises RoleRequired (403)."""
    actor.require(Role.OPERATOR)
    after = after_id(page)
    query = select(WebhookEvent).order_by(col(WebhookEvent.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(WebhookEvent.id) < after)
    if state is not None:
        query = query.where(WebhookEvent.state == state)
    async with kernel.unit_of_work() as uow:
        rows = await uow.session.exec(query)
        views = [WebhookEventView.model_validate(row) for row in rows]
    return Page[WebhookEventView].of(views, page.limit, [(view.id,) for view in views])


async def replay(kernel: Kernel, actor: Actor, webhook_event_id: UUID) -> WebhookEventView:
    """Give an event to the worker again. Harmless for done ones: nothing is booked twice.

    Raises RoleRequired (403), WebhookEventNotFound (404). Into the audit log.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        view = await _give_back(uow, actor, webhook_event_id, reason=None)
        await uow.answer(view)
    return view


async def replay_by_hand(kernel: Kernel, webhook_event_id: UUID, reason: str) -> WebhookEventView:
    """:func:`replay` for the exchange's own command line. Raises WebhookEventNotFound."""
    async with kernel.unit_of_work() as uow:
        return await _give_back(uow, None, webhook_event_id, reason=reason)


async def _give_back(
    uow: UnitOfWork, actor: Actor | None, webhook_event_id: UUID, *, reason: str | None
) -> WebhookEventView:
    event = await uow.session.get(
        WebhookEvent, webhook_event_id, with_for_update=True, populate_existing=True
    )
    if event is None:
        raise WebhookEventNotFound
    facts = {"event_id": event.event_id, "type": event.type, "state": event.state}
    audit.record(uow, actor, "webhook.replay", event.id, reason=reason, data=facts)
    await (await uow.raw()).execute(_REPLAY, webhook_event_id, uow.now)
    await uow.session.refresh(event)
    return WebhookEventView.model_validate(event)
