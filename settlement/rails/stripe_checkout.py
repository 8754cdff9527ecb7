"""Money in: Checkout sessions, saved cards, refunds.

The amount that Stripe took is always read back and handed on (``RailAnswer.paid``): the caller
credits nothing that differs from what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from market.kernel.ids import show
from settlement.errors import RailUnavailable
from settlement.rails.base import ChargeRequest, RailAnswer, RailStatus, RefundRequest
from settlement.rails.stripe_amounts import from_stripe, to_charge, to_stripe
from settlement.rails.stripe_gateway import (
    PAGE,
    Steps,
    StoredCommand,
    StripeGateway,
    StripeRefused,
    derived,
    key_of,
    labels,
)

# What a top-up stores as its card when the payer enters it on Stripe's own page.
CHECKOUT = "checkout"
CHECKOUT_AND_SAVE = "checkout_save"
SAVED_CARD = re.compile(r"pm_[A-Za-z0-9_]{1,60}")
_PENDING_PAYMENTS = frozenset(
    {"requires_confirmation", "requires_action", "processing", "requires_capture"}
)


async def customer_of(gateway: StripeGateway, party_id: UUID) -> str:
    """The party's Stripe customer, made at the first call: saved cards belong to it."""
    key = derived(party_id, "customer")

    async def find(stored: StoredCommand) -> Any | None:
        return await gateway.find_listed(gateway.api.customers.list_async, key, stored.created_at)

    def create(options: Any) -> Awaitable[Any]:
        params: Any = {"metadata": labels(key, party_id)}
        return gateway.api.customers.create_async(params, options)

    steps = Steps[Any](create, gateway.api.customers.retrieve_async, find)
    made = await gateway.once("customer", key, steps, subject_id=party_id)
    return str(made.id)


async def charge(gateway: StripeGateway, request: ChargeRequest) -> RailAnswer:
    """Open a Checkout session (``redirect_url``), or charge a saved card at once."""
    try:
        customer = await customer_of(gateway, request.party_id)
        if request.card in (CHECKOUT, CHECKOUT_AND_SAVE):
            session = await gateway.once(
                "checkout",
                request.key,
                _session_steps(gateway, request.key, _session_params(gateway, request, customer)),
                subject_id=request.key,
            )
            return session_answer(session)
        payment = await gateway.once(
            "payment_intent",
            request.key,
            _payment_steps(gateway, request.key, _payment_params(request, customer)),
            subject_id=request.key,
        )
        return payment_answer(payment)
    except StripeRefused as refusal:
        return RailAnswer(RailStatus.FAILED, refusal.code)


async def find_charge(gateway: StripeGateway, key: UUID) -> RailAnswer | None:
    """What became of a charge; None if Stripe never got it."""
    stored = await gateway.command(key)
    if stored is None:
        return None
    try:
        if stored.kind == "checkout":
            session = await gateway.find(key, _session_steps(gateway, key, {}))
            return None if session is None else session_answer(session)
        payment = await gateway.find(key, _payment_steps(gateway, key, {}))
        return None if payment is None else payment_answer(payment)
    except StripeRefused as refusal:
        return RailAnswer(RailStatus.FAILED, refusal.code)


async def refund(gateway: StripeGateway, request: RefundRequest) -> RailAnswer:
    """Give money of an earlier charge back to its card. Raises RailUnavailable if unknown."""
    params: Any = {
        "payment_intent": await payment_of(gateway, request.charge_key),
        "amount": to_stripe(request.amount_minor, request.currency),
        "metadata": labels(request.key, request.charge_key),
    }

    async def find(_stored: StoredCommand) -> Any | None:
        def listed(page: Any) -> Awaitable[Any]:
            return gateway.api.refunds.list_async(
                page | {"payment_intent": params["payment_intent"]}
            )

        return await gateway.find_listed(listed, request.key, None)

    steps = Steps[Any](
        lambda options: gateway.api.refunds.create_async(params, options),
        gateway.api.refunds.retrieve_async,
        find,
    )
    try:
        made = await gateway.once("refund", request.key, steps, subject_id=request.charge_key)
    except StripeRefused as refusal:
        return RailAnswer(RailStatus.FAILED, refusal.code)
    return refund_answer(made)


async def payment_of(gateway: StripeGateway, charge_key: UUID) -> str:
    """The PaymentIntent behind one of our charges. Raises StripeRefused without one."""
    stored = await gateway.command(charge_key)
    if stored is None or stored.object_id is None:
        raise RailUnavailable("The charge is not known at the payment provider yet.")
    if stored.kind == "payment_intent":
        return stored.object_id
    session = await gateway.ask(gateway.api.checkout.sessions.retrieve_async(stored.object_id))
    if session.payment_intent is None:
        raise RailUnavailable("The payer has not paid yet.")
    return _id(session.payment_intent)


async def list_saved_cards(gateway: StripeGateway, party_id: UUID) -> list[Any]:
    """The party's saved payment methods (at most 100). Raises RailUnavailable."""
    customer = await customer_of(gateway, party_id)
    page = await gateway.ask(
        gateway.api.customers.payment_methods.list_async(customer, {"limit": PAGE, "type": "card"})
    )
    return list(page.data)


async def forget_card(gateway: StripeGateway, party_id: UUID, card: str) -> bool:
    """Detach a saved card; False if it is not the party's own. Raises RailUnavailable."""
    customer = await customer_of(gateway, party_id)
    try:
        await gateway.ask(gateway.api.customers.payment_methods.retrieve_async(customer, card))
        await gateway.ask(gateway.api.payment_methods.detach_async(card))
    except StripeRefused:
        return False
    return True


def session_answer(session: Any) -> RailAnswer:
    """The state of a Checkout session. Unpaid after completion: a slow bank debit, so pending."""
    if session.payment_status in ("paid", "no_payment_required"):
        return RailAnswer(
            RailStatus.SUCCEEDED, paid=_amount(session.amount_total, session.currency)
        )
    if session.status == "expired":
        return RailAnswer(RailStatus.FAILED, "checkout_expired")
    failed = getattr(session.payment_intent, "status", None) in (
        "requires_payment_method",
        "canceled",
    )
    if session.status == "complete" and failed:
        return RailAnswer(RailStatus.FAILED, "payment_failed")
    return RailAnswer(RailStatus.PENDING, redirect_url=session.url)


def payment_answer(payment: Any) -> RailAnswer:
    """The state of a PaymentIntent."""
    if payment.status == "succeeded":
        return RailAnswer(
            RailStatus.SUCCEEDED, paid=_amount(payment.amount_received, payment.currency)
        )
    if payment.status in _PENDING_PAYMENTS:
        return RailAnswer(RailStatus.PENDING)
    error = getattr(payment, "last_payment_error", None)
    code = getattr(error, "decline_code", None) or getattr(error, "code", None)
    return RailAnswer(RailStatus.FAILED, str(code or f"payment_{payment.status}"))


def refund_answer(made: Any) -> RailAnswer:
    """The state of a Refund."""
    if made.status == "succeeded":
        return RailAnswer(RailStatus.SUCCEEDED, paid=_amount(made.amount, made.currency))
    if made.status in ("failed", "canceled"):
        code = getattr(made, "failure_reason", None) or f"refund_{made.status}"
        return RailAnswer(RailStatus.FAILED, str(code))
    return RailAnswer(RailStatus.PENDING)


async def charge_key_of(gateway: StripeGateway, payment_intent: str) -> UUID | None:
    """Our key of a payment, None if it is not ours. Raises RailUnavailable."""
    payment = await gateway.ask(gateway.api.payment_intents.retrieve_async(payment_intent))
    key = key_of(payment)
    stored = None if key is None else await gateway.command(key)
    return key if stored is not None and stored.kind in ("checkout", "payment_intent") else None


def _session_params(gateway: StripeGateway, request: ChargeRequest, customer: str) -> Any:
    # All values follow from the request: a repeated key must come with equal parameters.
    base = gateway.kernel.settings.public_url or "http://localhost"
    shown = show("top", request.key)
    metadata = labels(request.key, request.party_id)
    intent: dict[str, Any] = {"metadata": metadata, "transfer_group": shown}
    if request.card == CHECKOUT_AND_SAVE:
        intent["setup_future_usage"] = "off_session"
    return {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": shown,
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": request.currency.lower(),
                    "unit_amount": to_charge(request.amount_minor, request.currency),
                    "product_data": {"name": "Top-up"},
                },
            }
        ],
        "payment_intent_data": intent,
        "metadata": metadata,
        "expand": ["payment_intent"],
        "success_url": f"{base}/console/top-ups/{shown}",
        "cancel_url": f"{base}/console/top-ups/{shown}",
    }


def _payment_params(request: ChargeRequest, customer: str) -> Any:
    return {
        "amount": to_charge(request.amount_minor, request.currency),
        "currency": request.currency.lower(),
        "customer": customer,
        "payment_method": request.card,
        "off_session": True,
        "confirm": True,
        "transfer_group": show("top", request.key),
        "metadata": labels(request.key, request.party_id),
    }


def _session_steps(gateway: StripeGateway, key: UUID, params: Any) -> Steps[Any]:
    sessions = gateway.api.checkout.sessions

    async def find(stored: StoredCommand) -> Any | None:
        return await gateway.find_listed(sessions.list_async, key, stored.created_at)

    return Steps[Any](
        lambda options: sessions.create_async(params, options),
        lambda object_id: sessions.retrieve_async(object_id, {"expand": ["payment_intent"]}),
        find,
    )


def _payment_steps(gateway: StripeGateway, key: UUID, params: Any) -> Steps[Any]:
    payments = gateway.api.payment_intents

    async def find(stored: StoredCommand) -> Any | None:
        return await gateway.find_listed(payments.list_async, key, stored.created_at)

    return Steps[Any](
        lambda options: payments.create_async(params, options),
        payments.retrieve_async,
        find,
    )


def _amount(amount: int, currency: str) -> tuple[int, str]:
    return from_stripe(amount, currency), currency.upper()


def _id(value: Any) -> str:
    """An expandable field: the id itself, or the object."""
    return value if isinstance(value, str) else str(value.id)
