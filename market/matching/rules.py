"""What an instrument lets an order say: tick, lots, price band, sensible combinations (pure)."""

from dataclasses import dataclass
from enum import StrEnum

from market.kernel.money import PPM
from market.matching.terms import UNLIMITED, Side, TimeInForce


class Violation(StrEnum):
    """Why an order may not enter the book."""

    TICK = "price_off_tick"
    PRICE = "price_not_positive"
    LOT_STEP = "lots_off_step"
    LOTS_MIN = "too_few_lots"
    LOTS_MAX = "too_many_lots"
    BAND = "price_outside_band"
    UNLIMITED = "unlimited_is_for_resting_sells"
    POST_ONLY = "post_only_must_rest"
    MINIMUM = "minimum_quantity_impossible"
    MARKET = "market_order_cannot_rest"


class BandAction(StrEnum):
    """What happens instead of a trade outside of the price band."""

    REFUSE = "refuse"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True)
class Terms:
    """An order as far as the rules look at it; ``market``: ``price`` is its protection price."""

    side: Side
    price: int
    lots: int
    tif: TimeInForce = TimeInForce.GTC
    post_only: bool = False
    minimum: int = 0
    market: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one instrument. Prices in minor units per lot; ``band_ppm`` around the reference.

    ``reopen_s``: instead of a trade outside of the band, a call auction of so many seconds.
    """

    tick: int = 1
    lot_step: int = 1
    lots_min: int = 1
    lots_max: int = 10**12
    band_ppm: int | None = None
    reopen_s: int | None = None

    def band(self, reference: int) -> tuple[int, int] | None:
        """Lowest and highest price allowed, both included, on the tick; None without a band.

        Rounded inwards: an order at the edge is never outside of the exact band.
        """
        if self.band_ppm is None:
            return None
        lowest = -(-reference * (PPM - self.band_ppm) // PPM)
        highest = reference * (PPM + self.band_ppm) // PPM
        return -(-max(lowest, 1) // self.tick) * self.tick, highest // self.tick * self.tick

    def violation(self, order: Terms, reference: int | None) -> Violation | None:
        """The first rule that the order breaks, None when it may enter.

        ``reference``: the price that the band is around, None before there is one. A market
        order's protection price has to keep to the band too, so that it cannot sweep the book.
        """
        return self._price(order, reference) or self._lots(order) or _combination(order)

    def _price(self, order: Terms, reference: int | None) -> Violation | None:
        if order.price <= 0:
            return Violation.PRICE
        if order.price % self.tick:
            return Violation.TICK
        band = None if reference is None else self.band(reference)
        if band is not None and not band[0] <= order.price <= band[1]:
            return Violation.BAND
        return None

    def _lots(self, order: Terms) -> Violation | None:
        if order.lots == UNLIMITED:
            rests = order.tif is TimeInForce.GTC and not order.market
            return None if order.side is Side.SELL and rests else Violation.UNLIMITED
        if order.lots < self.lots_min:
            return Violation.LOTS_MIN
        if order.lots > self.lots_max:
            return Violation.LOTS_MAX
        return Violation.LOT_STEP if order.lots % self.lot_step else None


def _combination(order: Terms) -> Violation | None:
    if order.market and order.tif not in (TimeInForce.IOC, TimeInForce.FOK):
        return Violation.MARKET
    if order.post_only and order.tif is not TimeInForce.GTC:
        return Violation.POST_ONLY
    possible = 0 <= order.minimum <= order.lots and not (order.minimum and order.post_only)
    if not possible or (order.minimum and order.tif is TimeInForce.AUCTION):
        return Violation.MINIMUM
    return None
