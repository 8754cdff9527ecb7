"""What the exchange asks of a payment provider. Calls happen outside any unit of work.

Every call carries a key that was committed before it; the rail does the same key once. An
exception means "unknown": ask again with the same key, never with another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID


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


@dataclass(frozen=True, slots=True)
class PayoutRequest:
    """Send ``amount_minor`` to a bank account (a token)."""

    key: UUID
    amount_minor: int
    currency: str
    destination: str


@dataclass(frozen=True, slots=True)
class RailAnswer:
    """The state of a charge or payout; ``failure_code`` exactly when it failed."""

    status: RailStatus
    failure_code: str | None = None


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A charge whose money the cardholder's bank took back; ``position`` is its list cursor."""

    charge_key: UUID
    position: str


class Rail(Protocol):
    """One payment provider. All methods raise RailUnavailable when the answer is unknown."""

    @property
    def name(self) -> str:
        """Stored with every top-up and payout."""
        ...

    async def charge(self, request: ChargeRequest) -> RailAnswer:
        """Charge once per key; a repeated key answers the current state."""
        ...

    async def find_charge(self, key: UUID) -> RailAnswer | None:
        """The state of an earlier charge; None if the rail never got it."""
        ...

    async def pay_out(self, request: PayoutRequest) -> RailAnswer:
        """Pay once per key; a repeated key answers the current state."""
        ...

    async def find_payout(self, key: UUID) -> RailAnswer | None:
        """The state of an earlier payout; None if the rail never got it."""
        ...

    async def list_chargebacks(self, after: str, limit: int) -> Sequence[Chargeback]:
        """At most ``limit`` chargebacks after a position, oldest first; ``""`` is the start."""
        ...
