"""When trading looks like abuse: pure decisions over figures that were read. No I/O.

The forms are those of EU Regulation 2016/522, annex II: wash trades (1. c), orders without the
intention to trade (spoofing, 1. e), prices positioned away from the market (1. b), and dominance
of one party. A finding says what was seen, not that it was wrong: an operator decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

PPM = 1_000_000


class Rule(StrEnum):
    """What an alert is about."""

    AFFILIATED_TRADE = "affiliated_trade"
    CIRCULAR_TRADING = "circular_trading"
    CANCELLED_PRESSURE = "cancelled_pressure"
    PRICE_JUMP = "price_jump"
    PRICE_OFF_VALUATION = "price_off_valuation"
    CONCENTRATION = "concentration"
    # Found by market.usage, which sees deliveries.
    USAGE_SPIKE = "usage_spike"
    USAGE_SCRAPING = "usage_scraping"
    USAGE_ADDRESS = "usage_address"
    USAGE_COUNTRY = "usage_country"


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicion with its evidence. ``subject`` and ``at`` decide what is the same one."""

    rule: Rule
    subject: str
    at: datetime
    figures: dict[str, int | str]
    parties: tuple[UUID, ...]
    plan_id: UUID | None = None
    orders: tuple[UUID, ...] = ()
    trades: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """What one party bought from another in one currency, over the window."""

    buyer_id: UUID
    seller_id: UUID
    currency: str
    amount_minor: int
    trades: tuple[UUID, ...]
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Print:
    """A trade with the median price before it, and the plan's valuation; both may be unknown."""

    trade_id: UUID
    plan_id: UUID
    buyer_id: UUID
    seller_id: UUID
    price_minor: int
    at: datetime
    earlier: int
    median_minor: int | None
    low_minor: int | None
    high_minor: int | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """A party's (or its affiliates') orders on one side of a plan while it filled on the other.

    ``orders`` are those that were large, near the price of the fill, and cancelled soon after it.
    """

    party_id: UUID
    plan_id: UUID
    side: str
    entered: int
    orders: tuple[UUID, ...]
    trades: tuple[UUID, ...]
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One party's part of what was traded of a plan or a category, over the window."""

    scope: str
    side: str
    party_id: UUID
    amount_minor: int
    total_minor: int
    trades: int
    parties: int
    currency: str
    last_at: datetime
    plan_id: UUID | None = None
    evidence: tuple[UUID, ...] = field(default=())


def affiliated(trades: Sequence[Print]) -> list[Finding]:
    """Trades whose two parties belong to one group: each is a finding of its own pair."""
    return [
        Finding(
            Rule.AFFILIATED_TRADE,
            f"pair:{min(item.buyer_id, item.seller_id)}:{max(item.buyer_id, item.seller_id)}",
            item.at,
            {"price_minor": item.price_minor},
            (item.buyer_id, item.seller_id),
            item.plan_id,
            trades=(item.trade_id,),
        )
        for item in trades
    ]


def circular(flows: Sequence[Flow], *, trades_min: int, return_ppm: int) -> list[Finding]:
    """Pairs that bought from each other for about the same money, several times each way."""
    by_pair = {(flow.buyer_id, flow.seller_id, flow.currency): flow for flow in flows}
    found = []
    for flow in flows:
        back = by_pair.get((flow.seller_id, flow.buyer_id, flow.currency))
        if back is None or flow.buyer_id > flow.seller_id:
            continue
        less, more = sorted((flow.amount_minor, back.amount_minor))
        if min(len(flow.trades), len(back.trades)) < trades_min:
            continue
        if less * PPM < more * return_ppm:
            continue
        found.append(
            Finding(
                Rule.CIRCULAR_TRADING,
                f"pair:{flow.buyer_id}:{flow.seller_id}:{flow.currency}",
                max(flow.last_at, back.last_at),
                {
                    "there_minor": flow.amount_minor,
                    "back_minor": back.amount_minor,
                    "currency": flow.currency,
                    "trades_there": len(flow.trades),
                    "trades_back": len(back.trades),
                },
                (flow.buyer_id, flow.seller_id),
                trades=flow.trades + back.trades,
            )
        )
    return found


def cancelled_pressure(
    seen: Sequence[Pressure], *, orders_min: int, cancelled_ppm: int
) -> list[Finding]:
    """Parties most of whose orders on a side were pressure, and not once or twice."""
    return [
        Finding(
            Rule.CANCELLED_PRESSURE,
            f"plan:{item.plan_id}:party:{item.party_id}:{item.side}",
            item.last_at,
            {"side": item.side, "entered": item.entered, "cancelled": len(item.orders)},
            (item.party_id,),
            item.plan_id,
            item.orders,
            item.trades,
        )
        for item in seen
        if len(item.orders) >= orders_min and len(item.orders) * PPM >= item.entered * cancelled_ppm
    ]


def price_jumps(prints: Sequence[Print], *, earlier_min: int, jump_ppm: int) -> list[Finding]:
    """Trades further from the median of the trades before them than the band."""
    found = []
    for item in prints:
        if item.median_minor is None or item.earlier < earlier_min:
            continue
        if abs(item.price_minor - item.median_minor) * PPM <= item.median_minor * jump_ppm:
            continue
        figures: dict[str, int | str] = {
            "price_minor": item.price_minor,
            "median_minor": item.median_minor,
            "earlier_trades": item.earlier,
        }
        found.append(_print(Rule.PRICE_JUMP, item, figures))
    return found


def off_valuation(prints: Sequence[Print], *, tolerance_ppm: int) -> list[Finding]:
    """Trades further outside the valuation's range per lot than the tolerance."""
    found = []
    for item in prints:
        if item.low_minor is None or item.high_minor is None:
            continue
        below = item.price_minor * PPM < item.low_minor * (PPM - tolerance_ppm)
        above = item.price_minor * PPM > item.high_minor * (PPM + tolerance_ppm)
        if below or above:
            figures: dict[str, int | str] = {
                "price_minor": item.price_minor,
                "low_minor": item.low_minor,
                "high_minor": item.high_minor,
            }
            found.append(_print(Rule.PRICE_OFF_VALUATION, item, figures))
    return found


def _print(rule: Rule, item: Print, figures: dict[str, int | str]) -> Finding:
    parties = (item.buyer_id, item.seller_id)
    return Finding(
        rule,
        f"plan:{item.plan_id}",
        item.at,
        figures,
        parties,
        item.plan_id,
        trades=(item.trade_id,),
    )


def concentrated(
    parts: Sequence[Part], *, trades_min: int, parties_min: int, share_ppm: int
) -> list[Finding]:
    """Parties with a larger part than allowed, where there are enough trades and parties."""
    return [
        Finding(
            Rule.CONCENTRATION,
            f"{item.scope}:{item.side}:{item.party_id}:{item.currency}",
            item.last_at,
            {
                "scope": item.scope,
                "side": item.side,
                "amount_minor": item.amount_minor,
                "total_minor": item.total_minor,
                "currency": item.currency,
                "trades": item.trades,
                "parties": item.parties,
            },
            (item.party_id,),
            item.plan_id,
            trades=item.evidence,
        )
        for item in parts
        if item.trades >= trades_min
        and item.parties >= parties_min
        and item.amount_minor * PPM >= item.total_minor * share_ppm
    ]
