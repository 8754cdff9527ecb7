"""What the engine is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from market.kernel.errors import MarketError
from market.kernel.http import PROBLEM_TYPE, problem_body
from market.kernel.idempotency import Answer
from market.kernel.ids import new_id
from market.matching.bundle_schemas import BundleRequest
from market.matching.models import OrderSide
from market.matching.schemas import AmendRequest, OrderRequest

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


@dataclass(frozen=True, slots=True)
class Amend:
    """Other terms for an own order. ``key`` and ``request_hash`` as in :class:`Place`."""

    party_id: UUID
    key: str
    request_hash: bytes
    order_id: UUID
    body: AmendRequest
    request_id: str
    command_id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class CancelAll:
    """Cancel the open orders of ``owner_id``, those of an instrument or a side of it if stated.

    With a ``reason`` an operator (``party_id``, by ``credential_id``) does it to somebody else.
    """

    party_id: UUID
    key: str
    request_hash: bytes
    owner_id: UUID
    request_id: str
    plan_id: UUID | None = None
    side: OrderSide | None = None
    reason: str | None = None
    credential_id: UUID | None = None


class ControlAction(StrEnum):
    """What an operator may decide: about a plan, a call auction, a party or the market."""

    SET_RULES = "set_rules"
    HALT = "halt"
    RESUME = "resume"
    HALT_MARKET = "halt_market"
    RESUME_MARKET = "resume_market"
    SCHEDULE_CALL = "schedule_call"
    CANCEL_CALL = "cancel_call"
    BLOCK = "block"
    UNBLOCK = "unblock"
    SET_QUOTA = "set_quota"


OF_A_PARTY = (ControlAction.BLOCK, ControlAction.UNBLOCK, ControlAction.SET_QUOTA)
OF_A_PLAN = (
    ControlAction.SET_RULES,
    ControlAction.HALT,
    ControlAction.RESUME,
    ControlAction.SCHEDULE_CALL,
)
OF_THE_MARKET = (ControlAction.HALT_MARKET, ControlAction.RESUME_MARKET)


@dataclass(frozen=True, slots=True)
class Control:
    """A decision of an operator (``party_id``, by ``credential_id``) about a subject.

    ``terms`` are JSON values, what else the action says. ``control_id`` names what it makes.
    """

    party_id: UUID
    credential_id: UUID
    key: str
    request_hash: bytes
    request_id: str
    action: ControlAction
    subject_id: UUID
    reason: str
    terms: Mapping[str, Any] = field(default_factory=dict)
    control_id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class PlaceBundle:
    """Orders that fill together or not at all. ``key`` and ``request_hash`` as in :class:`Place`.

    ``order_ids`` are those of the legs, one each.
    """

    party_id: UUID
    key: str
    request_hash: bytes
    body: BundleRequest
    request_id: str
    order_ids: tuple[UUID, ...]
    bundle_id: UUID = field(default_factory=new_id)

    @property
    def places(self) -> list[Place]:
        """The legs as orders, in their order."""
        return [
            Place(self.party_id, self.key, self.request_hash, body, self.request_id, order_id)
            for body, order_id in zip(self.body.orders, self.order_ids, strict=True)
        ]


Command = Place | Cancel | Amend | CancelAll | Control | PlaceBundle


def places_of(command: Command) -> Sequence[Place]:
    """The new orders that a command is about."""
    if isinstance(command, Place):
        return (command,)
    return command.places if isinstance(command, PlaceBundle) else ()


def weight(command: Command) -> int:
    """As how many messages a command counts: a bundle is one per leg."""
    return len(command.order_ids) if isinstance(command, PlaceBundle) else 1


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
