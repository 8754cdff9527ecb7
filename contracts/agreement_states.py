"""The life of an agreement, as a pure table.

    formed ─► active ─► delivered ─► accepted ─► settled
                │           │            │
                └───────────┴────────────┴──► objected ─► disputed ─► ruled ─► settled
                                                                        └────► terminated

``settled`` and ``terminated`` are closed: nothing is left in escrow and nothing moves again.
A withdrawn objection or dispute leads back to where it came from; an appeal leads from ``ruled``
back to ``disputed``; a metered agreement may be accepted or terminated straight from ``active``.
"""

from enum import StrEnum

from contracts.errors import IllegalTransition


class AgreementStatus(StrEnum):
    """Where an agreement stands."""

    FORMED = "formed"
    ACTIVE = "active"
    DELIVERED = "delivered"
    ACCEPTED = "accepted"
    SETTLED = "settled"
    OBJECTED = "objected"
    DISPUTED = "disputed"
    RULED = "ruled"
    TERMINATED = "terminated"


_S = AgreementStatus

TRANSITIONS: dict[AgreementStatus, frozenset[AgreementStatus]] = {
    _S.FORMED: frozenset({_S.ACTIVE, _S.TERMINATED}),
    _S.ACTIVE: frozenset({_S.DELIVERED, _S.ACCEPTED, _S.OBJECTED, _S.DISPUTED, _S.TERMINATED}),
    _S.DELIVERED: frozenset({_S.ACCEPTED, _S.OBJECTED, _S.DISPUTED, _S.TERMINATED}),
    _S.ACCEPTED: frozenset({_S.SETTLED, _S.OBJECTED, _S.DISPUTED}),
    _S.OBJECTED: frozenset({_S.DISPUTED, _S.ACTIVE, _S.DELIVERED, _S.ACCEPTED, _S.TERMINATED}),
    _S.DISPUTED: frozenset(
        {_S.RULED, _S.ACTIVE, _S.DELIVERED, _S.ACCEPTED, _S.SETTLED, _S.TERMINATED}
    ),
    _S.RULED: frozenset({_S.DISPUTED, _S.SETTLED, _S.TERMINATED}),
    _S.SETTLED: frozenset(),
    _S.TERMINATED: frozenset(),
}

CLOSED = frozenset({_S.SETTLED, _S.TERMINATED})
# Money is released by use or acceptance only here; elsewhere it is frozen, ruled on, or gone.
EARNING = frozenset({_S.ACTIVE, _S.DELIVERED, _S.ACCEPTED})
# A party may still object.
OPEN_TO_DISPUTE = frozenset({_S.ACTIVE, _S.DELIVERED, _S.ACCEPTED, _S.OBJECTED})


def can_move(source: AgreementStatus, target: AgreementStatus) -> bool:
    """Whether the table allows ``source`` → ``target``."""
    return target in TRANSITIONS[source]


def check_move(source: AgreementStatus, target: AgreementStatus) -> None:
    """Raises IllegalTransition (409) unless the table allows ``source`` → ``target``."""
    if not can_move(source, target):
        raise IllegalTransition(
            f"An agreement that is {source.value} cannot become {target.value}.",
            current=source.value,
            allowed=sorted(state.value for state in TRANSITIONS[source]),
        )
