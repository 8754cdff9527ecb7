"""Money out: connected accounts, transfers to them, their manual payouts, and the way back.

A payout of ours is two objects there: a Transfer from the platform's balance to the account and
a Payout from the account to its bank. When the second fails the first is reversed, so that the
money is where our ledger says.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import structlog

from market.kernel.ids import show
from settlement.rails.base import AccountState, PayoutRequest, RailAnswer, RailStatus
from settlement.rails.stripe_amounts import to_payout, to_stripe
from settlement.rails.stripe_gateway import (
    Steps,
    StoredCommand,
    StripeGateway,
    StripeRefused,
    derived,
    labels,
)

_log = structlog.get_logger(__name__)


async def open_account(gateway: StripeGateway, party_id: UUID, country: str) -> AccountState:
    """The party's connected account, made at the first call, with payouts set to manual.

    Raises StripeRefused (a country that Stripe does not serve), RailUnavailable.
    """
    key = derived(party_id, "account")
    params: Any = {
        "type": "express",
        "country": country,
        "capabilities": {"transfers": {"requested": True}},
        "metadata": labels(key, party_id),
    }

    async def find(stored: StoredCommand) -> Any | None:
        return await gateway.find_listed(gateway.api.accounts.list_async, key, stored.created_at)

    steps = Steps[Any](
        lambda options: gateway.api.accounts.create_async(params, options),
        gateway.api.accounts.retrieve_async,
        find,
    )
    account = await gateway.once("account", key, steps, subject_id=party_id)
    await _make_manual(gateway, party_id, str(account.id))
    return account_state(account)


async def _make_manual(gateway: StripeGateway, party_id: UUID, account: str) -> None:
    # Setting a value twice is harmless: nothing to look for when the outcome is unknown.
    manual: Any = {"payments": {"payouts": {"schedule": {"interval": "manual"}}}}

    async def create(options: Any) -> Any:
        await gateway.api.balance_settings.update_async(manual, options)
        return _Named(account)

    async def retrieve(_object_id: str) -> Any:
        return _Named(account)

    async def find(_stored: StoredCommand) -> Any | None:
        return None

    steps = Steps[Any](create, retrieve, find)
    key = derived(party_id, "schedule")
    await gateway.once("schedule", key, steps, subject_id=party_id, account=account)


class _Named:
    """Balance settings have no id of their own; the account's stands for them."""

    def __init__(self, name: str) -> None:
        self.id = name


async def onboarding_url(gateway: StripeGateway, account: str) -> str:
    """A fresh AccountLink; each is good for minutes and one visit, so none is remembered."""
    base = gateway.kernel.settings.public_url or "http://localhost"
    params: Any = {
        "account": account,
        "type": "account_onboarding",
        "refresh_url": f"{base}/console/payout-account",
        "return_url": f"{base}/console/payout-account",
    }
    link = await gateway.ask(gateway.api.account_links.create_async(params))
    return str(link.url)


async def fetch_account(gateway: StripeGateway, account: str) -> AccountState:
    """A connected account as it is now."""
    return account_state(await gateway.ask(gateway.api.accounts.retrieve_async(account)))


def account_state(account: Any) -> AccountState:
    """Our view of an Account and its requirements."""
    needs = getattr(account, "requirements", None)
    due = {
        name
        for part in ("currently_due", "past_due")
        for name in (getattr(needs, part, None) or ())
    }
    reason = getattr(needs, "disabled_reason", None)
    return AccountState(
        str(account.id),
        bool(account.details_submitted),
        bool(account.payouts_enabled),
        tuple(sorted(due)),
        None if reason is None else str(reason),
    )


async def pay_out(gateway: StripeGateway, request: PayoutRequest) -> RailAnswer:
    """Transfer, then pay out; a repeated key goes on where the earlier call stopped."""
    account = request.destination
    try:
        transfer = await gateway.once(
            "transfer", request.key, _transfer_steps(gateway, request), subject_id=request.key
        )
    except StripeRefused as refusal:
        return RailAnswer(RailStatus.FAILED, refusal.code)
    try:
        payout = await gateway.once(
            "payout",
            derived(request.key, "payout"),
            _payout_steps(gateway, request),
            subject_id=request.key,
            account=account,
        )
    except StripeRefused as refusal:
        await _take_back(gateway, request, str(transfer.id))
        return RailAnswer(RailStatus.FAILED, refusal.code)
    if payout.status in ("failed", "canceled"):
        await _take_back(gateway, request, str(transfer.id))
        code = getattr(payout, "failure_code", None) or f"payout_{payout.status}"
        return RailAnswer(RailStatus.FAILED, str(code))
    status = RailStatus.SUCCEEDED if payout.status == "paid" else RailStatus.PENDING
    return RailAnswer(status)


async def _take_back(gateway: StripeGateway, request: PayoutRequest, transfer_id: str) -> None:
    """Reverse the whole transfer. Raises StripeRefused when the account cannot give it: the money
    is neither at the bank nor ours, so the payout stays open until somebody has looked."""
    key = derived(request.key, "reversal")
    reversals = gateway.api.transfers.reversals
    params: Any = {
        "amount": to_stripe(request.amount_minor, request.currency),
        "metadata": labels(key, request.key),
    }

    async def find(_stored: StoredCommand) -> Any | None:
        def listed(page: Any) -> Awaitable[Any]:
            return reversals.list_async(transfer_id, page)

        return await gateway.find_listed(listed, key, None)

    steps = Steps[Any](
        lambda options: reversals.create_async(transfer_id, params, options),
        lambda object_id: reversals.retrieve_async(transfer_id, object_id),
        find,
    )
    try:
        await gateway.once("reversal", key, steps, subject_id=request.key)
    except StripeRefused as refusal:
        transfer = await gateway.ask(gateway.api.transfers.retrieve_async(transfer_id))
        # Somebody may have reversed it by hand, at Stripe.
        if transfer.amount_reversed < transfer.amount:
            _log.error("stripe_reversal_refused", payout=str(request.key), code=refusal.code)
            raise


async def find_payout(gateway: StripeGateway, key: UUID) -> RailAnswer | None:
    """The state of a payout that got through both calls and has not failed; else None: then
    :func:`pay_out` goes on with the same keys."""
    transfer = await gateway.command(key)
    payout = await gateway.command(derived(key, "payout"))
    if transfer is None or payout is None or None in (transfer.object_id, payout.object_id):
        return None
    here: Any = {"stripe_account": payout.account}
    assert payout.object_id is not None
    found = await gateway.ask(gateway.api.payouts.retrieve_async(payout.object_id, None, here))
    if found.status in ("failed", "canceled"):
        return None
    return RailAnswer(RailStatus.SUCCEEDED if found.status == "paid" else RailStatus.PENDING)


def _transfer_steps(gateway: StripeGateway, request: PayoutRequest) -> Steps[Any]:
    transfers = gateway.api.transfers
    group = show("pay", request.key)
    params: Any = {
        "amount": to_payout(request.amount_minor, request.currency),
        "currency": request.currency.lower(),
        "destination": request.destination,
        "transfer_group": group,
        "metadata": labels(request.key, request.key),
    }

    async def find(_stored: StoredCommand) -> Any | None:
        def listed(page: Any) -> Awaitable[Any]:
            return transfers.list_async(page | {"transfer_group": group})

        return await gateway.find_listed(listed, request.key, None)

    return Steps[Any](
        lambda options: transfers.create_async(params, options), transfers.retrieve_async, find
    )


def _payout_steps(gateway: StripeGateway, request: PayoutRequest) -> Steps[Any]:
    payouts = gateway.api.payouts
    key = derived(request.key, "payout")
    here: Any = {"stripe_account": request.destination}
    params: Any = {
        "amount": to_payout(request.amount_minor, request.currency),
        "currency": request.currency.lower(),
        "metadata": labels(key, request.key),
    }

    async def find(stored: StoredCommand) -> Any | None:
        def listed(page: Any) -> Awaitable[Any]:
            return payouts.list_async(page, here)

        return await gateway.find_listed(listed, key, stored.created_at)

    return Steps[Any](
        lambda options: payouts.create_async(params, options),
        lambda object_id: payouts.retrieve_async(object_id, None, here),
        find,
    )
