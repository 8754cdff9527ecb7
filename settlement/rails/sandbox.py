"""The sandbox rail: a deterministic provider with its own tables, for demo, tests, and clients.

Outcomes follow from the token and market time only, so they survive restarts and move with the
sandbox clock. The tokens are listed in ``CARDS`` and ``DESTINATIONS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work
from settlement.errors import RailUnavailable
from settlement.rails.base import (
    Chargeback,
    ChargeRequest,
    PayoutRequest,
    RailAnswer,
    RailStatus,
)

DELAY = timedelta(seconds=30)
CHARGEBACK_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a test token does. ``loses_answer``: the first call is done, but its answer is lost."""

    failure_code: str | None = None
    delayed: bool = False
    charged_back: bool = False
    loses_answer: bool = False


CARDS = {
    "tok_success": Behavior(),
    "tok_declined": Behavior(failure_code="card_declined"),
    "tok_insufficient_funds": Behavior(failure_code="insufficient_funds"),
    "tok_authentication_required": Behavior(failure_code="authentication_required"),
    "tok_delayed": Behavior(delayed=True),
    "tok_delayed_declined": Behavior(failure_code="card_declined", delayed=True),
    "tok_chargeback": Behavior(charged_back=True),
    "tok_timeout": Behavior(loses_answer=True),
}
DESTINATIONS = {
    "dst_success": Behavior(),
    "dst_closed": Behavior(failure_code="account_closed"),
    "dst_delayed": Behavior(delayed=True),
    "dst_delayed_closed": Behavior(failure_code="account_closed", delayed=True),
    "dst_timeout": Behavior(loses_answer=True),
}
_UNKNOWN_CARD = Behavior(failure_code="card_unknown")
_UNKNOWN_DESTINATION = Behavior(failure_code="destination_unknown")

_INSERT_CHARGE = """
INSERT INTO settlement.sandbox_charge
    (key, amount_minor, currency, card, created_at, charged_back_at)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key) DO NOTHING RETURNING key
"""
_INSERT_PAYOUT = """
INSERT INTO settlement.sandbox_payout (key, amount_minor, currency, destination, created_at)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING RETURNING key
"""
_CHARGE = (
    "SELECT amount_minor, currency, card, created_at FROM settlement.sandbox_charge WHERE key = $1"
)
_PAYOUT = (
    "SELECT amount_minor, currency, destination, created_at "
    "FROM settlement.sandbox_payout WHERE key = $1"
)
_CHARGEBACKS = """
SELECT key, charged_back_at FROM settlement.sandbox_charge
WHERE charged_back_at <= $1 AND (charged_back_at, key) > ($2, $3)
ORDER BY charged_back_at, key LIMIT $4
"""


class SandboxRail:
    """Implements :class:`settlement.rails.base.Rail` on the exchange's own database."""

    name = "sandbox"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def charge(self, request: ChargeRequest) -> RailAnswer:
        """See Rail. Raises ValueError when the key was used for another charge."""
        assert_no_unit_of_work()
        behavior = CARDS.get(request.card, _UNKNOWN_CARD)
        async with self._kernel.unit_of_work() as uow:
            connection = await uow.raw()
            back_at = uow.now + CHARGEBACK_AFTER if behavior.charged_back else None
            wanted = (request.amount_minor, request.currency, request.card)
            new = await connection.fetchval(_INSERT_CHARGE, request.key, *wanted, uow.now, back_at)
            row = await connection.fetchrow(_CHARGE, request.key)
            assert row is not None
            answer = _answer(behavior, row["created_at"], uow.now)
        if tuple(row)[:3] != wanted:
            raise ValueError("the key was used for another charge")
        if behavior.loses_answer and new is not None:
            raise RailUnavailable("The payment provider did not answer in time.")
        return answer

    async def find_charge(self, key: UUID) -> RailAnswer | None:
        """See Rail."""
        assert_no_unit_of_work()
        async with self._kernel.unit_of_work() as uow:
            row = await (await uow.raw()).fetchrow(_CHARGE, key)
            if row is None:
                return None
            return _answer(CARDS.get(row["card"], _UNKNOWN_CARD), row["created_at"], uow.now)

    async def pay_out(self, request: PayoutRequest) -> RailAnswer:
        """See Rail. Raises ValueError when the key was used for another payout."""
        assert_no_unit_of_work()
        behavior = DESTINATIONS.get(request.destination, _UNKNOWN_DESTINATION)
        async with self._kernel.unit_of_work() as uow:
            connection = await uow.raw()
            wanted = (request.amount_minor, request.currency, request.destination)
            new = await connection.fetchval(_INSERT_PAYOUT, request.key, *wanted, uow.now)
            row = await connection.fetchrow(_PAYOUT, request.key)
            assert row is not None
            answer = _answer(behavior, row["created_at"], uow.now)
        if tuple(row)[:3] != wanted:
            raise ValueError("the key was used for another payout")
        if behavior.loses_answer and new is not None:
            raise RailUnavailable("The payment provider did not answer in time.")
        return answer

    async def find_payout(self, key: UUID) -> RailAnswer | None:
        """See Rail."""
        assert_no_unit_of_work()
        async with self._kernel.unit_of_work() as uow:
            row = await (await uow.raw()).fetchrow(_PAYOUT, key)
            if row is None:
                return None
            behavior = DESTINATIONS.get(row["destination"], _UNKNOWN_DESTINATION)
            return _answer(behavior, row["created_at"], uow.now)

    async def list_chargebacks(self, after: str, limit: int) -> Sequence[Chargeback]:
        """See Rail."""
        assert_no_unit_of_work()
        moment, _, key = after.partition("/")
        start = datetime.fromisoformat(moment or "1970-01-01T00:00:00+00:00")
        async with self._kernel.unit_of_work() as uow:
            rows = await (await uow.raw()).fetch(
                _CHARGEBACKS, uow.now, start, UUID(key) if key else UUID(int=0), limit
            )
        return [
            Chargeback(row["key"], f"{row['charged_back_at'].isoformat()}/{row['key']}")
            for row in rows
        ]


def _answer(behavior: Behavior, created_at: datetime, now: datetime) -> RailAnswer:
    if behavior.delayed and now < created_at + DELAY:
        return RailAnswer(RailStatus.PENDING)
    if behavior.failure_code is not None:
        return RailAnswer(RailStatus.FAILED, behavior.failure_code)
    return RailAnswer(RailStatus.SUCCEEDED)
