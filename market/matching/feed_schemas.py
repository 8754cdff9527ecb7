"""API shapes of the market data feed. Prices are minor units per lot, quantities are lots."""

from datetime import datetime, timedelta
from enum import StrEnum

from market.kernel.ids import PlanId
from market.kernel.schemas import Schema
from market.matching.models import OrderSide
from market.matching.schemas import BookLevel


class Channel(StrEnum):
    """What a stream tells: changed price levels, trades, or the ticker."""

    BOOK = "book"
    TRADES = "trades"
    TICKER = "ticker"


class CandleInterval(StrEnum):
    """Buckets of UTC time, half-open: a trade at its end belongs to the next one."""

    MINUTE = "1m"
    FIVE_MINUTES = "5m"
    QUARTER = "15m"
    HOUR = "1h"
    DAY = "1d"

    @property
    def span(self) -> timedelta:
        """Its length."""
        return _SPANS[self]


_SPANS = {
    CandleInterval.MINUTE: timedelta(minutes=1),
    CandleInterval.FIVE_MINUTES: timedelta(minutes=5),
    CandleInterval.QUARTER: timedelta(minutes=15),
    CandleInterval.HOUR: timedelta(hours=1),
    CandleInterval.DAY: timedelta(days=1),
}


class LevelUpdate(BookLevel):
    """A level as it is after the update; without orders it is gone."""

    side: OrderSide


class BookUpdateView(Schema):
    """What one batch changed. Apply it to a book at ``sequence - 1``, else fetch the book again."""

    sequence: int
    at: datetime
    levels: list[LevelUpdate]


class BookUpdates(Schema):
    """Updates after a sequence, in order. ``sequence`` is the book's own now.

    ``gap``: the first of them is not the next one, so the book must be fetched again.
    """

    plan_id: PlanId
    sequence: int
    gap: bool
    has_more: bool
    items: list[BookUpdateView]


class Ticker(Schema):
    """The last 24 hours to ``at``: prices are null without a trade, the best ones without orders.

    ``turnover_minor`` is the sum of price times lots.
    """

    plan_id: PlanId
    currency: str
    at: datetime
    sequence: int
    last_minor: int | None
    open_minor: int | None
    high_minor: int | None
    low_minor: int | None
    trades: int
    volume_lots: int
    turnover_minor: int
    bid_minor: int | None
    ask_minor: int | None


class Candle(Schema):
    """The trades of one bucket, which ends before ``start`` plus the interval."""

    start: datetime
    open_minor: int
    high_minor: int
    low_minor: int
    close_minor: int
    volume_lots: int
    turnover_minor: int
    trades: int
