"""What a batch carries besides its commands, and how its attempt may end without a COMMIT."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from market.kernel.errors import MarketError
from market.matching.models import CloseReason


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of ownership, checked in every batch's transaction."""

    holder: str
    term: int
    ttl_s: int


@dataclass(slots=True)
class Verdicts:
    """What an earlier attempt of the same batch learned too late; the next one starts with it.

    ``reopen``: instruments that have to collect for a call auction, with the reason.
    """

    refused: dict[UUID, MarketError] = field(default_factory=dict)
    ended: dict[UUID, CloseReason] = field(default_factory=dict)
    void_calls: dict[UUID, None] = field(default_factory=dict)
    reopen: dict[UUID, str] = field(default_factory=dict)


class Reconsider(Exception):
    """The attempt matched an order that must not trade; roll back and start over."""


class StaleLease(Exception):
    """Another writer took over the shard; nothing of this batch may be written."""
