"""The Stripe rail: separate charges and transfers (Connect). Escrow lives in our ledger only.

Money in and cards: :mod:`stripe_checkout`. Money out and sellers' accounts:
:mod:`stripe_connect`. How a call happens once: :mod:`stripe_gateway`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.money import Money
from settlement.errors import (
    CardNotAccepted,
    DestinationNotAccepted,
    PayoutAccountNotReady,
    RailUnavailable,
)
from settlement.rail_models import PayoutAccount
from settlement.rails import stripe_checkout, stripe_connect
from settlement.rails.base import (
    AccountState,
    BalanceTransaction,
    Chargeback,
    ChargebackPage,
    ChargeRequest,
    PayoutRequest,
    RailAnswer,
    RefundRequest,
)
from settlement.rails.stripe_amounts import from_stripe, payable, to_charge, to_payout
from settlement.rails.stripe_gateway import StripeGateway, StripeRefused, key_of

# An inquiry that was closed without a chargeback is as good as won.
_DECIDED = {"won": True, "warning_closed": True, "lost": False}
_log = structlog.get_logger(__name__)


class StripeRail:
    """Implements :class:`settlement.rails.base.Rail` with the stripe SDK."""

    name = "stripe"

    def __init__(self, kernel: Kernel) -> None:
        self.gateway = StripeGateway(kernel)

    def card_of(self, card: str | None, money: Money) -> str:
        """A saved card (``pm_…``), or None for Stripe's page. See Rail."""
        to_charge(money.amount_minor, money.currency)
        if card is None:
            return stripe_checkout.CHECKOUT
        if card != stripe_checkout.CHECKOUT_AND_SAVE and not stripe_checkout.SAVED_CARD.fullmatch(
            card
        ):
            raise CardNotAccepted(
                "Leave the card out to pay on the provider's page, or name a saved one (pm_…).",
                param="card",
            )
        return card

    async def destination_of(
        self, uow: UnitOfWork, party_id: UUID, destination: str | None, money: Money
    ) -> str:
        """The party's own connected account, once Stripe pays out from it. See Rail."""
        to_payout(money.amount_minor, money.currency)
        if destination is not None:
            raise DestinationNotAccepted(
                "Leave the destination out: payouts go to your payout account.",
                param="destination",
            )
        account = await uow.session.get(PayoutAccount, (party_id, self.name))
        if account is None or not account.payouts_enabled:
            raise PayoutAccountNotReady(due=[] if account is None else account.due)
        return account.account

    async def charge(self, request: ChargeRequest) -> RailAnswer:
        """See Rail."""
        return await stripe_checkout.charge(self.gateway, request)

    async def find_charge(self, key: UUID) -> RailAnswer | None:
        """See Rail."""
        return await stripe_checkout.find_charge(self.gateway, key)

    async def refund(self, request: RefundRequest) -> RailAnswer:
        """See Rail."""
        return await stripe_checkout.refund(self.gateway, request)

    async def pay_out(self, request: PayoutRequest) -> RailAnswer:
        """See Rail."""
        return await stripe_connect.pay_out(self.gateway, request)

    async def find_payout(self, key: UUID) -> RailAnswer | None:
        """See Rail."""
        return await stripe_connect.find_payout(self.gateway, key)

    async def open_account(self, party_id: UUID, country: str) -> AccountState:
        """See Rail. Raises DestinationNotAccepted for a country that Stripe does not serve."""
        try:
            return await stripe_connect.open_account(self.gateway, party_id, country)
        except StripeRefused as refusal:
            raise DestinationNotAccepted(
                "The payment provider opens no account for this party.", reason=refusal.code
            ) from refusal

    async def onboarding_url(self, account: str) -> str | None:
        """See Rail."""
        try:
            return await stripe_connect.onboarding_url(self.gateway, account)
        except StripeRefused as refusal:
            raise RailUnavailable("The payment provider gave no onboarding page.") from refusal

    def payable(self, amount_minor: int, currency: str) -> int:
        """See Rail."""
        return payable(amount_minor, currency)

    async def list_chargebacks(self, after: str, limit: int) -> ChargebackPage:
        """Disputes of our own charges; others on the same Stripe account are passed over."""

        def listed(page: Any) -> Awaitable[Any]:
            return self.gateway.api.disputes.list_async(page)

        disputes = await self.gateway.list_after(listed, after, limit)
        found = []
        for dispute in disputes:
            try:
                chargeback = await self.chargeback_of(dispute)
            except StripeRefused as refusal:
                # A payment that cannot be read any more: one of them must not stop the others.
                _log.error("stripe_dispute_refused", dispute=dispute.id, code=refusal.code)
                continue
            if chargeback is not None:
                found.append(chargeback)
        return ChargebackPage(found, str(disputes[-1].id) if disputes else None)

    async def find_chargeback(self, dispute: str) -> Chargeback | None:
        """See Rail."""
        return await self.chargeback_of(
            await self.gateway.ask(self.gateway.api.disputes.retrieve_async(dispute))
        )

    async def chargeback_of(self, dispute: Any) -> Chargeback | None:
        """What a Dispute means now; None if its charge is not ours. Raises RailUnavailable.

        Its balance transactions say what the bank holds: none for an inquiry, their sum after a
        partial return, zero when it was won.
        """
        if dispute.payment_intent is None:
            return None
        intent = dispute.payment_intent
        intent_id = intent if isinstance(intent, str) else str(intent.id)
        key = await stripe_checkout.charge_key_of(self.gateway, intent_id)
        if key is None:
            return None
        moved = list(dispute.balance_transactions or ())
        held = max(0, -sum(entry.amount for entry in moved))
        currency = moved[0].currency if moved else dispute.currency
        return Chargeback(
            dispute=str(dispute.id),
            charge_key=key,
            amount_minor=from_stripe(held, currency),
            steps=len(moved),
            won=_DECIDED.get(str(dispute.status)),
        )

    async def list_balance_transactions(
        self, after: str, limit: int
    ) -> Sequence[BalanceTransaction]:
        """See Rail. ``source`` is expanded, because our key is in its metadata."""

        def listed(page: Any) -> Awaitable[Any]:
            return self.gateway.api.balance_transactions.list_async(
                page | {"expand": ["data.source"]}
            )

        entries = await self.gateway.list_after(listed, after, limit)
        # Stripe's clock never runs ahead as the sandbox's does: on the books, market time counts.
        ahead = self.gateway.kernel.clock.offset
        return [_movement(entry, ahead) for entry in entries]

    async def close(self) -> None:
        """See Rail."""
        await self.gateway.close()


def _movement(entry: Any, ahead: timedelta) -> BalanceTransaction:
    source = entry.source
    named = source is None or isinstance(source, str)
    return BalanceTransaction(
        position=str(entry.id),
        kind=str(entry.reporting_category or entry.type),
        amount_minor=from_stripe(entry.amount, entry.currency),
        fee_minor=from_stripe(entry.fee, entry.currency),
        currency=str(entry.currency).upper(),
        source=source if named else str(source.id),
        key=None if named else key_of(source),
        created_at=datetime.fromtimestamp(entry.created, UTC) + ahead,
    )
