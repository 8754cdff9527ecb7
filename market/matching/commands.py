"""What the engine is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from market.kernel.errors import MarketError
from market.kernel.http import PROBLEM_TYPE, problem_body
from market.kernel.idempotency import Answer
from market.kernel.ids import new_id
from market.matching.schemas import OrderRequest

# Refusals that are part of the business answer; 5xx are about the moment and never remembered.
_REMEMBERED_BELOW = 500


@dataclass(frozen=True, slots=True)
class Place:
    """A new order. ``key`` and ``request_hash`` are the request's idempotency claim."""

    party_id: UUID
    key: str
    request_hash: bytes
    body: OrderRequest
    request_id: str
    order_id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel an own order. ``key`` finds the answer again when a COMMIT's fate was unknown."""

    party_id: UUID
    order_id: UUID
    request_id: str
    key: str = field(default_factory=lambda: f"engine-cancel:{new_id().hex}")
    request_hash: bytes = bytes(32)


Command = Place | Cancel


@dataclass(frozen=True, slots=True)
class Reply:
    """The HTTP answer of a command. ``replayed`` tells that an earlier use of its key made it."""

    answer: Answer
    replayed: bool = False

    @classmethod
    def of(cls, order: bytes, *, status: int) -> Reply:
        """A success with the order's JSON."""
        return cls(Answer(status, order))

    @classmethod
    def refusal(cls, error: MarketError, request_id: str) -> Reply:
        """A refusal as the problem document that every replay repeats."""
        headers = {**error.headers, "content-type": PROBLEM_TYPE}
        return cls(Answer(error.status, problem_body(error, request_id), headers))

    @property
    def remembered(self) -> bool:
        """Whether the answer belongs under the command's key."""
        return self.answer.status < _REMEMBERED_BELOW

    def again(self) -> Reply:
        """The same answer to a duplicate."""
        return Reply(self.answer, replayed=True)
