"""What a batch knows of the orders it changes, and of the trades they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from listings.models import Listing
from market.matching.admission import Admitted
from market.matching.marks import order_mark
from market.matching.models import CloseReason, OrderStatus
from market.matching.shard import LiveOrder
from market.matching.terms import Side
from pricing.models import Plan


class Offer(NamedTuple):
    """What is traded, where no new order was admitted for it: by an amendment, for example."""

    plan: Plan
    listing: Listing


class Match(NamedTuple):
    """A trade to be: it forms ``agreement_id`` under the ``terms`` found now."""

    trade_id: UUID
    agreement_id: UUID
    taker: Touched
    maker: Touched
    lots: int
    price: int
    terms: Admitted | Offer

    @property
    def buy(self) -> Touched:
        return self.taker if self.taker.order.side is Side.BUY else self.maker

    @property
    def sell(self) -> Touched:
        return self.maker if self.taker.order.side is Side.BUY else self.taker

    @property
    def amount(self) -> int:
        """Minor units."""
        return self.lots * self.price

    @property
    def currency(self) -> str:
        return self.terms.plan.currency


@dataclass(slots=True, eq=False)
class Revision:
    """Terms of an order that this batch changes. ``cut`` lots went by self-trade prevention.

    ``amended_by`` is the latest amendment's command, ``amendments`` their number.
    """

    currency: str
    price: int
    lots: int | None
    rank: int
    post_only: bool
    expires_at: datetime | None
    cut: int = 0
    amendments: int = 0
    amended_by: UUID | None = None


@dataclass(slots=True, eq=False)
class Touched:
    """An order that this batch changes, with its state after it. ``admitted`` for a new one."""

    order: LiveOrder
    admitted: Admitted | None
    filled: int
    amount: int
    status: OrderStatus
    hold_id: UUID | None
    reason: CloseReason | None = None
    closed_seq: int | None = None
    revision: Revision | None = None
    matches: list[Match] = field(default_factory=list)

    @property
    def lots(self) -> int | None:
        """The quantity now; None never runs out."""
        return self.order.lots if self.revision is None else self.revision.lots

    @property
    def price(self) -> int:
        """The limit now, minor units per lot."""
        return self.order.price if self.revision is None else self.revision.price

    @property
    def expires_at(self) -> datetime | None:
        return self.order.expires_at if self.revision is None else self.revision.expires_at

    @property
    def left(self) -> int:
        """Lots that still rest; only asked of limited orders."""
        lots = self.lots
        assert lots is not None
        return lots - self.filled

    @property
    def kept(self) -> int:
        """What an open buy reserves after the batch, in minor units; 0 once it is closed."""
        return self.left * self.price if self.status.is_open else 0

    def mark(self, lots: int) -> int:
        """The order's part of its book's checksum while ``lots`` rest."""
        order, revision = self.order, self.revision
        if revision is None:
            price, rank = order.price, order.rank
        else:
            price, rank = revision.price, revision.rank
        return order_mark(order.seq, order.side, price, lots, rank, order.auction_only)

    def revise(self, currency: str) -> Revision:
        """The terms to change in this batch; ``currency`` is that of the plan."""
        if self.revision is None:
            order = self.order
            self.revision = Revision(
                currency, order.price, order.lots, order.rank, order.post_only, order.expires_at
            )
        return self.revision

    def close(self, status: OrderStatus, reason: CloseReason | None, *, seq: int) -> None:
        """End the order at input sequence ``seq``."""
        self.status, self.reason, self.closed_seq = status, reason, seq
