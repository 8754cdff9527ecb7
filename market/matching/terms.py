"""The words of the book: sides, lifetimes, outcomes, and the tuples it reports in.

All are ``int``s, so that a command or a result can be stored flat and replayed.
"""

from enum import IntEnum
from typing import Final, NamedTuple

# A posted price over non-rival data never runs out: this quantity is not counted down.
UNLIMITED: Final = 1 << 62


class Side(IntEnum):
    BUY = 0
    SELL = 1


class TimeInForce(IntEnum):
    """How long an order lives. Good-till-date is ``GTC`` with an entry in ``Expiries``.

    ``AUCTION``: only for a call auction; what the uncrossing leaves of it is cancelled.
    """

    GTC = 0
    IOC = 1
    FOK = 2
    AUCTION = 3


class SelfTrade(IntEnum):
    """What happens when an incoming order meets a resting one of its own self-trade group.

    The incoming order's mode decides. ``DECREMENT`` takes the smaller quantity off both.
    """

    CANCEL_NEWEST = 0
    CANCEL_OLDEST = 1
    CANCEL_BOTH = 2
    DECREMENT = 3


class Phase(IntEnum):
    """``CALL`` collects orders without matching; ``HALTED`` takes cancels and reductions only."""

    CONTINUOUS = 0
    CALL = 1
    HALTED = 2


class Outcome(IntEnum):
    """What became of the incoming order; its fills stand in every case.

    ``KILLED``: fill-or-kill could not fill whole; ``BELOW_MINIMUM``: fewer lots than the order's
    minimum could trade at once; ``WOULD_CROSS``: post-only would have traded; ``WRONG_PHASE``:
    the book is halted, or in a call auction that takes no such order; ``UNKNOWN``: the order to
    amend does not rest. After these five nothing has happened. ``SELF_TRADE``: the rest was
    cancelled because of an order of the same group. ``AMENDED``: changed in place, priority kept.
    ``CANCELLED``: the amendment left no lots.
    """

    FILLED = 0
    RESTING = 1
    REMAINDER_CANCELLED = 2
    KILLED = 3
    WOULD_CROSS = 4
    SELF_TRADE = 5
    BELOW_MINIMUM = 6
    WRONG_PHASE = 7
    AMENDED = 8
    CANCELLED = 9
    UNKNOWN = 10


# (incoming ref, maker ref, price, lots, lots the maker keeps), at the resting order's price. A
# plain tuple: a named one costs 0.2 us more per fill.
Fill = tuple[int, int, int, int, int]

# The same shape for lots taken off a resting order without a trade: by self-trade prevention, or
# by a mass cancel (incoming ref 0).
Cut = tuple[int, int, int, int, int]


class Level(NamedTuple):
    """One price of the aggregated book. ``lots`` excludes the ``unlimited`` orders."""

    price: int
    lots: int
    orders: int
    unlimited: int


class Resting(NamedTuple):
    """A resting order, in the order of ``Book.restore``'s arguments.

    ``rank`` is its time priority: the ``ref``, until an amendment loses priority.
    """

    ref: int
    owner: int
    side: Side
    price: int
    lots: int
    rank: int
    party: int
    auction_only: bool


class Execution(NamedTuple):
    """A pair of an uncrossing: lots that changed hands and what both orders keep."""

    buy_ref: int
    sell_ref: int
    lots: int
    buy_left: int
    sell_left: int
