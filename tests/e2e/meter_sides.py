"""What the meter's kill test sells: a grant of each way of metering in each unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from market.kernel.context import Kernel
from tests.contracts.factories import Trade, make_trade, mint
from tests.e2e.meter_readers import PAGE_MAX, Book
from tests.pricing.factories import MeteredUnit

# The time limit of a query, which a page by the compute second reserves.
LIMIT_S = 3
PRICE_MINOR = 10_000_000
TOKEN_TTL_S = 20_000


class Sold(NamedTuple):
    """A unit of plans: how large a lot never runs out, what a page of at most PAGE_MAX rows can
    cost of what is counted, and how large a sub-lease of that is.
    """

    unit: MeteredUnit
    lot_units: int
    page_max: int
    block_units: int


SOLD = {
    sold.unit: sold
    for sold in (
        Sold("row", 10_000_000, PAGE_MAX, 200),
        Sold("mib", 10_000, 8 << 10, 128 << 10),
        Sold("call", 10_000_000, 1, 20),
        Sold("compute_second", 1_000_000, LIMIT_S * 1_000, 4 * LIMIT_S * 1_000),
    )
}
MODES: dict[str, dict[str, Any]] = {
    "exact": {"meter_side": "buyer_safe"},
    "sub_lease": {"meter_side": "buyer_safe"},
    "seller_safe": {"meter_side": "seller_safe"},
}
# 16 readers of buyer-safe grants, as the stated bar says, and 4 beside them.
READERS: dict[str, dict[MeteredUnit, int]] = {
    "exact": {"row": 2, "mib": 2, "call": 2, "compute_second": 2},
    "sub_lease": {"row": 2, "mib": 2, "call": 2, "compute_second": 2},
    "seller_safe": {"row": 1, "mib": 1, "call": 1, "compute_second": 1},
}


@dataclass
class Side:
    """A grant of one mode in one unit, and its readers' book."""

    mode: str
    sold: Sold
    trade: Trade
    token: str
    book: Book = field(default_factory=Book)

    @property
    def name(self) -> str:
        """Unique, for ids and totals."""
        return f"{self.mode}.{self.sold.unit}"

    @property
    def readers(self) -> int:
        """How many read it at the same time."""
        return READERS[self.mode][self.sold.unit]

    @property
    def names_ids(self) -> bool:
        """Whether its readers choose the Delivery-Ids; what they name takes no sub-lease."""
        return self.mode != "sub_lease"

    @property
    def bound(self) -> int:
        """Units that one kill of the application may leave unbilled (docs/metering.md)."""
        if self.mode == "seller_safe":
            return 0
        block = self.sold.block_units if self.mode == "sub_lease" else 0
        return self.sold.page_max * self.readers + block

    def costs(self, rows: int, size: int, charged: int) -> bool:
        """Whether ``charged`` is right for a page of ``rows`` rows and ``size`` bytes."""
        if self.sold.unit == "compute_second":
            return 1 <= charged <= self.sold.page_max
        right = {"row": rows, "mib": size, "call": 1}[self.sold.unit]
        return charged == right <= self.sold.page_max


async def make_sides(kernel: Kernel) -> list[Side]:
    """All of them; each in a trade of its own."""
    sides = []
    for mode, terms in MODES.items():
        for unit in READERS[mode]:
            sold = SOLD[unit]
            block = sold.block_units if mode == "sub_lease" else 0
            trade = await make_trade(
                kernel,
                unit=unit,
                lot_units=sold.lot_units,
                price_minor=PRICE_MINOR,
                sub_lease_units=block,
                **terms,
            )
            sides.append(Side(mode, sold, trade, await mint(kernel, trade, ttl_s=TOKEN_TTL_S)))
    return sides
