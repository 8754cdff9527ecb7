"""Ledger accounts are named, not looked up: kind, owner and currency give the id."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from uuid import UUID, uuid5

# Fixed for ever: changing it would orphan every account.
_NAMESPACE = UUID("5f0a3c52-8c1e-5b8e-9d0e-6c0d5e7a1f42")


class AccountKind(StrEnum):
    """What a bucket of money is for, and thereby who its owner is.

    Owner is a party (available, receivable), an agreement (escrow), a dispute (frozen) or
    nobody (the platform: fees, losses, clearing, in_transit, fx). ``fx`` is the exchange's open
    position in a currency: what conversions brought in (positive) or paid out.
    """

    AVAILABLE = "available"
    RECEIVABLE = "receivable"
    ESCROW = "escrow"
    FROZEN = "frozen"
    FEES = "fees"
    LOSSES = "losses"
    CLEARING = "clearing"
    IN_TRANSIT = "in_transit"
    FX = "fx"


PARTY_KINDS = frozenset({AccountKind.AVAILABLE, AccountKind.RECEIVABLE})
OWNED_KINDS = PARTY_KINDS | {AccountKind.ESCROW, AccountKind.FROZEN}
# All others are protected: the database itself refuses a balance below zero.
MAY_GO_NEGATIVE = frozenset(
    {AccountKind.CLEARING, AccountKind.RECEIVABLE, AccountKind.LOSSES, AccountKind.FX}
)


@lru_cache(maxsize=65_536)
def account_id(kind: str, owner: UUID | None, currency: str) -> UUID:
    """The UUIDv5 (RFC 9562 §5.5) of an account, equal in every process and database."""
    return uuid5(_NAMESPACE, f"{kind}/{owner.hex if owner else '-'}/{currency}")


@dataclass(frozen=True, slots=True)
class AccountRef:
    """Names one account; ``id`` follows from the name, no look-up needed.

    Raises ValueError for an owner where none belongs, or the reverse.
    """

    kind: AccountKind | str
    owner: UUID | None
    currency: str
    # Kept, not computed at each use: a transfer reads it a dozen times on its way.
    id: UUID = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.kind) is not AccountKind:
            object.__setattr__(self, "kind", AccountKind(self.kind))
        if (self.owner is not None) != (self.kind in OWNED_KINDS):
            raise ValueError(f"account kind {self.kind}: owner {self.owner} does not fit")
        if len(self.currency) != 3:
            raise ValueError(f"not a currency code: {self.currency}")
        object.__setattr__(self, "id", account_id(self.kind, self.owner, self.currency))

    @property
    def allow_negative(self) -> bool:
        """Whether the balance may fall below zero (clearing, receivable, losses, fx)."""
        return self.kind in MAY_GO_NEGATIVE
