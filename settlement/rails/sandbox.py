"""The sandbox rail: a deterministic provider with its own tables, for demo, tests, and clients.

Outcomes follow from the token and market time only, so they survive restarts and move with the
sandbox clock. The tokens are listed in ``CARDS`` and ``DESTINATIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork, assert_no_unit_of_work
from market.kernel.ids import show
from market.kernel.money import Money
from settlement.errors import CardNotAccepted, DestinationNotAccepted, RailUnavailable
from settlement.rails.base import (
    AccountState,
    BalanceTransaction,
    Chargeback,
    ChargebackPage,
    ChargeRequest,
    PayoutRequest,
    RailAnswer,
    RailStatus,
    RefundRequest,
)

DELAY = timedelta(seconds=30)
CHARGEBACK_AFTER = timedelta(seconds=60)
# From the chargeback to the bank's decision.
DECISION_AFTER = timedelta(seconds=60)
# A payer who does not answer the 3-D Secure challenge in this time has failed it.
AUTHENTICATION_TTL = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a test token does. ``loses_answer``: the first call is done, but its answer is lost.

    ``challenged``: pending until POST /v1/sandbox/top-ups/{id}/authentication (3-D Secure).
    ``won``: the chargeback is decided for us.
    """

    failure_code: str | None = None
    delayed: bool = False
    charged_back: bool = False
    won: bool = False
    loses_answer: bool = False
    challenged: bool = False


CARDS = {
    "tok_success": Behavior(),
    "tok_declined": Behavior(failure_code="card_declined"),
    "tok_insufficient_funds": Behavior(failure_code="insufficient_funds"),
    "tok_authentication_required": Behavior(failure_code="authentication_required"),
    "tok_3ds": Behavior(challenged=True),
    "tok_delayed": Behavior(delayed=True),
    "tok_delayed_declined": Behavior(failure_code="card_declined", delayed=True),
    "tok_chargeback": Behavior(charged_back=True),
    "tok_chargeback_won": Behavior(charged_back=True, won=True),
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

_START = "1970-01-01T00:00:00+00:00"

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
    "SELECT amount_minor, currency, card, created_at, authentication, key "
    "FROM settlement.sandbox_charge WHERE key = $1"
)
_AUTHENTICATE = """
UPDATE settlement.sandbox_charge SET authentication = $2, authenticated_at = $5
WHERE key = $1 AND authentication IS NULL AND card = ANY($3) AND created_at > $4 RETURNING key
"""
_PAYOUT = (
    "SELECT amount_minor, currency, destination, created_at "
    "FROM settlement.sandbox_payout WHERE key = $1"
)
_LOCK_CHARGE = "SELECT key FROM settlement.sandbox_charge WHERE key = $1 FOR UPDATE"
_INSERT_REFUND = """
INSERT INTO settlement.sandbox_refund (key, charge_key, amount_minor, currency, created_at)
SELECT $1, c.key, $3::bigint, c.currency, $5 FROM settlement.sandbox_charge c
WHERE c.key = $2 AND c.currency = $4 AND c.amount_minor >= $3::bigint + (
    SELECT coalesce(sum(r.amount_minor), 0) FROM settlement.sandbox_refund r
    WHERE r.charge_key = c.key)
ON CONFLICT (key) DO NOTHING
"""
_REFUND = "SELECT key FROM settlement.sandbox_refund WHERE key = $1"
# Each movement at the moment at which it became certain, so that a cursor never passes one by.
_MOVEMENTS = """
SELECT kind, key, amount_minor, currency, moved_at FROM (
    SELECT 'charge' AS kind, key, amount_minor, currency,
           coalesce(authenticated_at, created_at)
           + CASE WHEN card = ANY($6) THEN $7::interval ELSE interval '0' END AS moved_at
    FROM settlement.sandbox_charge
    WHERE card = ANY($5) AND authentication IS DISTINCT FROM 'refused'
      AND (card <> ALL($8) OR authentication = 'approved')
    UNION ALL
    SELECT 'dispute', key, -amount_minor, currency, charged_back_at
    FROM settlement.sandbox_charge WHERE charged_back_at IS NOT NULL
    UNION ALL
    SELECT 'dispute_reversal', key, amount_minor, currency, charged_back_at + $10::interval
    FROM settlement.sandbox_charge WHERE charged_back_at IS NOT NULL AND card = ANY($11)
    UNION ALL
    SELECT 'refund', key, -amount_minor, currency, created_at FROM settlement.sandbox_refund
    UNION ALL
    SELECT 'payout', key, -amount_minor, currency,
           created_at + CASE WHEN destination = ANY($6) THEN $7::interval ELSE interval '0' END
    FROM settlement.sandbox_payout WHERE destination = ANY($5)
) movement
WHERE moved_at <= $1 AND (moved_at, key, kind) > ($2, $3, $4)
ORDER BY moved_at, key, kind LIMIT $9
"""
_CHARGEBACK = """
SELECT key, amount_minor, card, charged_back_at FROM settlement.sandbox_charge
WHERE key = $1 AND charged_back_at <= $2
"""
_CHARGEBACKS = """
SELECT key, amount_minor, card, charged_back_at FROM settlement.sandbox_charge
WHERE charged_back_at <= $1 AND (charged_back_at, key) > ($2, $3)
ORDER BY charged_back_at, key LIMIT $4
"""


class SandboxRail:
    """Implements :class:`settlement.rails.base.Rail` on the exchange's own database."""

    name = "sandbox"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def card_of(self, card: str | None, money: Money) -> str:
        """One of ``CARDS``; an unknown one is declined by the charge itself. See Rail."""
        if card is None or not card.startswith("tok_"):
            raise CardNotAccepted("Name a test card (tok_…).", param="card")
        return card

    async def destination_of(
        self, uow: UnitOfWork, party_id: UUID, destination: str | None, money: Money
    ) -> str:
        """One of ``DESTINATIONS``. See Rail."""
        if destination is None:
            raise DestinationNotAccepted("Name a test destination (dst_…).", param="destination")
        return destination

    async def open_account(self, party_id: UUID, country: str) -> AccountState:
        """Every party has a complete account here. See Rail."""
        return AccountState(f"acct_sandbox_{party_id.hex}", True, True)

    async def onboarding_url(self, account: str) -> str | None:
        """See Rail: nothing is left to ask."""
        return None

    async def close(self) -> None:
        """See Rail: it holds no connections."""

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
            answer = _charge_answer(behavior, row, uow.now)
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
            return _charge_answer(CARDS.get(row["card"], _UNKNOWN_CARD), row, uow.now)

    async def authenticate(self, key: UUID, *, approved: bool) -> bool:
        """The payer's answer to the 3-D Secure challenge; False if none is open."""
        challenged = [name for name, behavior in CARDS.items() if behavior.challenged]
        outcome = "approved" if approved else "refused"
        async with self._kernel.unit_of_work() as uow:
            since = uow.now - AUTHENTICATION_TTL
            row = await (await uow.raw()).fetchval(
                _AUTHENTICATE, key, outcome, challenged, since, uow.now
            )
        return row is not None

    async def refund(self, request: RefundRequest) -> RailAnswer:
        """See Rail. More than the charge, or of one that did not succeed, is refused."""
        charge = await self.find_charge(request.charge_key)
        if charge is None or charge.status is not RailStatus.SUCCEEDED:
            return RailAnswer(RailStatus.FAILED, "charge_not_refundable")
        async with self._kernel.unit_of_work() as uow:
            connection = await uow.raw()
            # The charge's row lock orders refunds of one charge.
            await connection.fetchval(_LOCK_CHARGE, request.charge_key)
            await connection.execute(
                _INSERT_REFUND,
                request.key,
                request.charge_key,
                request.amount_minor,
                request.currency,
                uow.now,
            )
            done = await connection.fetchval(_REFUND, request.key)
        if done is None:
            return RailAnswer(RailStatus.FAILED, "amount_too_large")
        return RailAnswer(RailStatus.SUCCEEDED)

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

    def payable(self, amount_minor: int, currency: str) -> int:
        """See Rail: all of it."""
        return amount_minor

    async def list_chargebacks(self, after: str, limit: int) -> ChargebackPage:
        """See Rail."""
        assert_no_unit_of_work()
        moment, _, key = after.partition("/")
        start = datetime.fromisoformat(moment or _START)
        async with self._kernel.unit_of_work() as uow:
            rows = await (await uow.raw()).fetch(
                _CHARGEBACKS, uow.now, start, UUID(key) if key else UUID(int=0), limit
            )
            found = [_chargeback(row, uow.now) for row in rows]
        last = f"{rows[-1]['charged_back_at'].isoformat()}/{rows[-1]['key']}" if rows else None
        return ChargebackPage(found, last)

    async def find_chargeback(self, dispute: str) -> Chargeback | None:
        """See Rail."""
        assert_no_unit_of_work()
        async with self._kernel.unit_of_work() as uow:
            row = await (await uow.raw()).fetchrow(_CHARGEBACK, UUID(hex=dispute), uow.now)
            return None if row is None else _chargeback(row, uow.now)

    async def list_balance_transactions(
        self, after: str, limit: int
    ) -> Sequence[BalanceTransaction]:
        """Charges, chargebacks, refunds and payouts that moved money. See Rail."""
        assert_no_unit_of_work()
        moment, key, kind = after.split("/") if after else (_START, str(UUID(int=0)), "")
        every = {**CARDS, **DESTINATIONS}
        async with self._kernel.unit_of_work() as uow:
            rows = await (await uow.raw()).fetch(
                _MOVEMENTS,
                uow.now,
                datetime.fromisoformat(moment),
                UUID(key),
                kind,
                [token for token, behavior in every.items() if behavior.failure_code is None],
                [token for token, behavior in every.items() if behavior.delayed],
                DELAY,
                [token for token, behavior in every.items() if behavior.challenged],
                limit,
                DECISION_AFTER,
                [token for token, behavior in CARDS.items() if behavior.won],
            )
        return [_movement(row) for row in rows]


def _chargeback(row: Mapping[str, Any], now: datetime) -> Chargeback:
    won = CARDS[row["card"]].won
    if not won or now < row["charged_back_at"] + DECISION_AFTER:
        return Chargeback(row["key"].hex, row["key"], row["amount_minor"], 1)
    return Chargeback(row["key"].hex, row["key"], 0, 2, won=True)


def _movement(row: Mapping[str, Any]) -> BalanceTransaction:
    return BalanceTransaction(
        position=f"{row['moved_at'].isoformat()}/{row['key']}/{row['kind']}",
        kind=row["kind"],
        amount_minor=row["amount_minor"],
        fee_minor=0,
        currency=row["currency"],
        source=None,
        key=row["key"],
        created_at=row["moved_at"],
    )


def _charge_answer(behavior: Behavior, row: Mapping[str, Any], now: datetime) -> RailAnswer:
    if behavior.challenged:
        if row["authentication"] == "refused":
            return RailAnswer(RailStatus.FAILED, "authentication_failed")
        if row["authentication"] is None and now >= row["created_at"] + AUTHENTICATION_TTL:
            return RailAnswer(RailStatus.FAILED, "authentication_expired")
        if row["authentication"] is None:
            page = f"/v1/sandbox/top-ups/{show('top', row['key'])}/authentication"
            return RailAnswer(RailStatus.PENDING, redirect_url=page)
    return _answer(behavior, row["created_at"], now)


def _answer(behavior: Behavior, created_at: datetime, now: datetime) -> RailAnswer:
    if behavior.delayed and now < created_at + DELAY:
        return RailAnswer(RailStatus.PENDING)
    if behavior.failure_code is not None:
        return RailAnswer(RailStatus.FAILED, behavior.failure_code)
    return RailAnswer(RailStatus.SUCCEEDED)
