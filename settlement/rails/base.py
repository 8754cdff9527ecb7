"""What the exchange asks of a payment provider. Calls happen outside any unit of work.

Every call carries a key that was committed before it; the rail does the same key once.
RailUnavailable means "unknown": ask again with the same key, never with another. RailRefused is a
definite no where the method has no answer to say it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from market.kernel.db import UnitOfWork
from market.kernel.money import Money


class RailRefused(Exception):
    """The rail's definite no, with its code. It will say so again: somebody has to look."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class RailStatus(StrEnum):
    """``pending``: the rail has it and will decide later."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """Take ``amount_minor`` from a card (a token; card numbers never come here)."""

    key: UUID
    amount_minor: int
    currency: str
    card: str
    party_id: UUID


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """Give ``amount_minor`` of the charge ``charge_key`` back to its card."""

    key: UUID
    charge_key: UUID
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class PayoutRequest:
    """Send ``amount_minor`` to a bank account (a token)."""

    key: UUID
    amount_minor: int
    currency: str
    destination: str


@dataclass(frozen=True, slots=True)
class RailAnswer:
    """The state of a charge, refund or payout; ``failure_code`` exactly when it failed.

    ``redirect_url`` is where the payer has to go while it is pending. ``paid`` is the amount
    and currency that the rail really took, where it says so: the caller compares.
    """

    status: RailStatus
    failure_code: str | None = None
    redirect_url: str | None = None
    paid: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A disputed charge, as it stands now. ``dispute`` is the rail's name of it.

    ``amount_minor`` is what the cardholder's bank holds now: 0 before it took anything and when
    it gave everything back. ``steps`` counts its movements of money and so orders two reports of
    one dispute: the one with fewer is older. ``won`` is None while the bank has not decided.
    """

    dispute: str
    charge_key: UUID
    amount_minor: int
    steps: int
    won: bool | None = None


@dataclass(frozen=True, slots=True)
class ChargebackPage:
    """Chargebacks oldest first, and where to go on reading; None when there was nothing new."""

    items: Sequence[Chargeback]
    next_position: str | None


@dataclass(frozen=True, slots=True)
class AccountState:
    """Where a seller's payout account stands. ``due`` names what the provider still asks for."""

    account: str
    details_submitted: bool
    payouts_enabled: bool
    due: tuple[str, ...] = ()
    disabled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class BalanceTransaction:
    """One movement of the platform's balance at the rail; ``position`` is its list cursor.

    ``amount_minor`` is signed and before ``fee_minor``; ``key`` is ours where the rail knows it.
    """

    position: str
    kind: str
    amount_minor: int
    fee_minor: int
    currency: str
    source: str | None
    key: UUID | None
    created_at: datetime


class Rail(Protocol):
    """One payment provider. All methods raise RailUnavailable when the answer is unknown, and
    RailRefused when the provider says no to something that has no status of its own."""

    @property
    def name(self) -> str:
        """Stored with every top-up and payout."""
        ...

    def card_of(self, card: str | None, money: Money) -> str:
        """The token to charge, None meaning the provider's own page. Raises Invalid (422)."""
        ...

    async def destination_of(
        self, uow: UnitOfWork, party_id: UUID, destination: str | None, money: Money
    ) -> str:
        """Where a payout goes. Raises Invalid (422), PayoutAccountNotReady (409)."""
        ...

    async def charge(self, request: ChargeRequest) -> RailAnswer:
        """Charge once per key; a repeated key answers the current state."""
        ...

    async def find_charge(self, key: UUID) -> RailAnswer | None:
        """The state of an earlier charge; None if the rail never got it."""
        ...

    async def refund(self, request: RefundRequest) -> RailAnswer:
        """Refund once per key; a repeated key answers the current state."""
        ...

    async def pay_out(self, request: PayoutRequest) -> RailAnswer:
        """Pay once per key; a repeated key answers the current state."""
        ...

    async def find_payout(self, key: UUID) -> RailAnswer | None:
        """The state of an earlier payout; None if the rail never got it."""
        ...

    async def open_account(self, party_id: UUID, country: str) -> AccountState:
        """The party's payout account at the rail, made at the first call."""
        ...

    async def onboarding_url(self, account: str) -> str | None:
        """A short-lived page where the party completes its account; None if there is none."""
        ...

    def payable(self, amount_minor: int, currency: str) -> int:
        """The largest amount up to ``amount_minor`` that this rail can pay out (whole units)."""
        ...

    async def list_chargebacks(self, after: str, limit: int) -> ChargebackPage:
        """At most ``limit`` chargebacks after a position; ``""`` is the start."""
        ...

    async def find_chargeback(self, dispute: str) -> Chargeback | None:
        """A chargeback as it stands now; None if its charge is not ours."""
        ...

    async def list_balance_transactions(
        self, after: str, limit: int
    ) -> Sequence[BalanceTransaction]:
        """At most ``limit`` movements after a position, oldest first; ``""`` is the start."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
