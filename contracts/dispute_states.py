"""The life of a dispute, as a pure machine (operations.md §6).

    open ──► evidence_required ──► under_review ──► ruled ──► appealed
     │            │      └────────────(silent)───────►│          │
     │            │                   │               └──► final ◄┘
     └────────────┴──► withdrawn ◄────┘
    any of the five active states ──► settled (an offer is accepted)

Each active state has a deadline, and each deadline a default, so that no case can hang: see
:func:`expire`. Every act after the deadline is refused, whether or not the job that applies the
default has run yet, so that the outcome does not depend on when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.dispute_errors import (
    DeadlinePassed,
    DisputeStateRefused,
    EvidenceClosed,
    ProposalPending,
    RulingAccepted,
    WrongSide,
)

# An arbiter's calls for more evidence each extend the case; the parties must see an end.
EVIDENCE_REQUESTS_MAX = 3


class DisputeStatus(StrEnum):
    """Where a dispute stands. ``open`` is the negotiation, ``ruled`` a preliminary ruling."""

    OPEN = "open"
    EVIDENCE_REQUIRED = "evidence_required"
    UNDER_REVIEW = "under_review"
    RULED = "ruled"
    APPEALED = "appealed"
    FINAL = "final"
    SETTLED = "settled"
    WITHDRAWN = "withdrawn"


class Side(StrEnum):
    """The two sides: who opened the dispute, and the other."""

    CLAIMANT = "claimant"
    RESPONDENT = "respondent"

    @property
    def other(self) -> Side:
        return Side.RESPONDENT if self is Side.CLAIMANT else Side.CLAIMANT


class Turn(StrEnum):
    """From whom evidence is taken at present."""

    NONE = "none"
    CLAIMANT = "claimant"
    RESPONDENT = "respondent"
    BOTH = "both"

    def includes(self, side: Side) -> bool:
        return self is Turn.BOTH or self.value == side.value

    def without(self, side: Side) -> Turn:
        if self is Turn.BOTH:
            return Turn(side.other.value)
        return Turn.NONE if self.value == side.value else self


class Default(StrEnum):
    """What an expired deadline does."""

    ESCALATE = "escalated"
    LAPSE = "lapsed"
    REBUTTAL = "rebuttal_opened"
    REVIEW = "review_opened"
    RULE_FOR_CLAIMANT = "ruled_by_default"
    REMIND = "review_overdue"
    FINALIZE = "finalized"


_D = DisputeStatus
CLOSED = frozenset({_D.FINAL, _D.SETTLED, _D.WITHDRAWN})
ACTIVE = frozenset(_D) - CLOSED
# Where an arbiter works on a case.
IN_REVIEW = frozenset({_D.UNDER_REVIEW, _D.APPEALED})

# Every step that any act or default can take. The database's guard trigger holds the same table.
TRANSITIONS: dict[DisputeStatus, frozenset[DisputeStatus]] = {
    _D.OPEN: frozenset({_D.EVIDENCE_REQUIRED, _D.SETTLED, _D.WITHDRAWN}),
    _D.EVIDENCE_REQUIRED: frozenset({_D.UNDER_REVIEW, _D.RULED, _D.SETTLED, _D.WITHDRAWN}),
    _D.UNDER_REVIEW: frozenset({_D.RULED, _D.SETTLED, _D.WITHDRAWN}),
    _D.RULED: frozenset({_D.APPEALED, _D.FINAL, _D.SETTLED}),
    _D.APPEALED: frozenset({_D.FINAL, _D.SETTLED}),
    _D.FINAL: frozenset(),
    _D.SETTLED: frozenset(),
    _D.WITHDRAWN: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Periods:
    """How long each stage lasts."""

    negotiation: timedelta
    evidence: timedelta
    rebuttal: timedelta
    review: timedelta
    appeal: timedelta
    appeal_review: timedelta


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that the machine needs to know of a dispute. Changed only by acts below.

    ``round`` is 1 in the first instance and 2 on appeal. ``evidence_until`` bounds a window that
    is shorter than the stage (an arbiter's request, the answer to an appeal).
    """

    status: DisputeStatus
    deadline_at: datetime | None
    round: int = 1
    turn: Turn = Turn.NONE
    evidence_until: datetime | None = None
    evidence_requests: int = 0
    respondent_answered: bool = False
    escalate_on_expiry: bool = False
    proposal_pending: bool = False
    accepted: frozenset[Side] = frozenset()
    escalations: int = 0


def _require(case: Case, now: datetime, *statuses: DisputeStatus) -> None:
    if case.status not in statuses:
        raise DisputeStateRefused(
            f"This is not possible while the dispute is {case.status.value}.",
            current=case.status.value,
        )
    assert case.deadline_at is not None
    if now >= case.deadline_at:
        raise DeadlinePassed(deadline_at=case.deadline_at)


def _move(case: Case, status: DisputeStatus, **changes: object) -> Case:
    assert status in TRANSITIONS[case.status], (case.status, status)
    reset: dict[str, object] = {"turn": Turn.NONE, "evidence_until": None}
    return replace(case, status=status, **(reset | changes))  # type: ignore[arg-type]


def _close(case: Case, status: DisputeStatus) -> Case:
    return _move(case, status, deadline_at=None, proposal_pending=False)


def opened(now: datetime, periods: Periods, *, escalate_on_expiry: bool) -> Case:
    """A new case, in negotiation; both sides may already put evidence on file."""
    return Case(
        status=_D.OPEN,
        deadline_at=now + periods.negotiation,
        turn=Turn.BOTH,
        escalate_on_expiry=escalate_on_expiry,
    )


def escalate(case: Case, side: Side, now: datetime, periods: Periods) -> Case:
    """The claimant ends the negotiation and asks for a ruling."""
    _require(case, now, _D.OPEN)
    if side is not Side.CLAIMANT:
        raise WrongSide("Only the claimant can ask for a ruling.")
    return _to_evidence(case, now, periods)


def _to_evidence(case: Case, now: datetime, periods: Periods) -> Case:
    return _move(case, _D.EVIDENCE_REQUIRED, deadline_at=now + periods.evidence, turn=Turn.BOTH)


def _to_review(case: Case, now: datetime, periods: Periods) -> Case:
    return _move(case, _D.UNDER_REVIEW, deadline_at=now + periods.review)


def window_open(case: Case, now: datetime) -> bool:
    """Whether anybody may still submit evidence: an arbiter rules only after that."""
    if case.turn is Turn.NONE or case.status in CLOSED:
        return False
    return case.evidence_until is None or now < case.evidence_until


def submit(case: Case, side: Side, now: datetime) -> Case:
    """A side puts evidence on file. Raises EvidenceClosed (409) out of turn or too late."""
    _require(case, now, *ACTIVE)
    if not window_open(case, now) or not case.turn.includes(side):
        raise EvidenceClosed(current=case.status.value)
    return replace(case, respondent_answered=case.respondent_answered or side is Side.RESPONDENT)


def rest(case: Case, side: Side, now: datetime, periods: Periods) -> Case:
    """A side has nothing to add, before its time is up.

    The respondent's rest opens the claimant's rebuttal; the claimant's rest opens the review. In
    a window that an arbiter or an appeal opened, it closes the window for that side.
    """
    _require(case, now, _D.EVIDENCE_REQUIRED, *IN_REVIEW)
    if not window_open(case, now) or not case.turn.includes(side):
        raise EvidenceClosed(current=case.status.value)
    if case.status in IN_REVIEW:
        turn = case.turn.without(side)
        until = None if turn is Turn.NONE else case.evidence_until
        return replace(case, turn=turn, evidence_until=until)
    if case.turn is Turn.BOTH:
        if side is Side.CLAIMANT:
            raise WrongSide("The respondent answers first.")
        return _to_rebuttal(replace(case, respondent_answered=True), now, periods)
    return _to_review(case, now, periods)


def _to_rebuttal(case: Case, now: datetime, periods: Periods) -> Case:
    return replace(case, turn=Turn.CLAIMANT, deadline_at=now + periods.rebuttal)


def check_review(case: Case, now: datetime) -> None:
    """Raises unless an arbiter may take the case now."""
    _require(case, now, *IN_REVIEW)
    if case.proposal_pending:
        raise ProposalPending


def request_evidence(case: Case, now: datetime, periods: Periods) -> Case:
    """The arbiter asks both sides for more; their window also extends the arbiter's own time."""
    _require(case, now, *IN_REVIEW)
    if case.proposal_pending:
        raise ProposalPending
    if case.evidence_requests >= EVIDENCE_REQUESTS_MAX:
        raise DisputeStateRefused(
            f"A dispute takes at most {EVIDENCE_REQUESTS_MAX} requests for evidence.",
            current=case.status.value,
        )
    assert case.deadline_at is not None
    return replace(
        case,
        turn=Turn.BOTH,
        evidence_until=now + periods.rebuttal,
        deadline_at=max(case.deadline_at, now) + periods.rebuttal,
        evidence_requests=case.evidence_requests + 1,
    )


def rule(case: Case, now: datetime, periods: Periods, *, two_person: bool) -> Case:
    """The assigned arbiter rules. With ``two_person`` it is a proposal until another approves.

    A first ruling is preliminary; a ruling on appeal is final. Raises DisputeStateRefused (409)
    while evidence can still be submitted.
    """
    _require(case, now, *IN_REVIEW)
    if case.proposal_pending:
        raise ProposalPending
    if window_open(case, now):
        raise DisputeStateRefused("Evidence can still be submitted.", current=case.status.value)
    if two_person:
        return replace(case, proposal_pending=True, deadline_at=now + periods.review)
    return _ruled(case, now, periods)


def _ruled(case: Case, now: datetime, periods: Periods) -> Case:
    if case.round == 2:
        return _close(case, _D.FINAL)
    return _move(case, _D.RULED, deadline_at=now + periods.appeal, proposal_pending=False)


def _require_proposal(case: Case, now: datetime) -> None:
    _require(case, now, *IN_REVIEW)
    if not case.proposal_pending:
        raise DisputeStateRefused("No ruling awaits approval.", current=case.status.value)


def approve(case: Case, now: datetime, periods: Periods) -> Case:
    """A second arbiter agrees: the proposal is the ruling."""
    _require_proposal(case, now)
    return _ruled(case, now, periods)


def reject(case: Case, now: datetime, periods: Periods) -> Case:
    """A second arbiter disagrees: the first has to think again."""
    _require_proposal(case, now)
    return replace(case, proposal_pending=False, deadline_at=now + periods.review)


def accept(case: Case, side: Side, now: datetime) -> Case:
    """A side accepts the preliminary ruling; when both have, it is final."""
    _require(case, now, _D.RULED)
    if side in case.accepted:
        raise RulingAccepted
    accepted = case.accepted | {side}
    if accepted == frozenset(Side):
        return _close(replace(case, accepted=accepted), _D.FINAL)
    return replace(case, accepted=accepted)


def appeal(case: Case, side: Side, now: datetime, periods: Periods) -> Case:
    """A side that has not accepted appeals; the other may answer with evidence."""
    _require(case, now, _D.RULED)
    if side in case.accepted:
        raise RulingAccepted("Who has accepted a ruling cannot appeal against it.")
    return _move(
        case,
        _D.APPEALED,
        round=2,
        deadline_at=now + periods.appeal_review,
        turn=Turn(side.other.value),
        evidence_until=now + periods.rebuttal,
        accepted=frozenset(),
    )


def withdraw(case: Case, side: Side, now: datetime) -> Case:
    """The claimant gives up, before there is a ruling to escape from."""
    _require(case, now, _D.OPEN, _D.EVIDENCE_REQUIRED, _D.UNDER_REVIEW)
    if side is not Side.CLAIMANT:
        raise WrongSide("Only the claimant can withdraw.")
    if case.proposal_pending:
        raise ProposalPending
    return _close(case, _D.WITHDRAWN)


def negotiable(case: Case, now: datetime) -> None:
    """Raises unless the sides may still make and accept offers (any active state)."""
    _require(case, now, *ACTIVE)


def settle(case: Case, now: datetime) -> Case:
    """The sides agree."""
    negotiable(case, now)
    return _close(case, _D.SETTLED)


def expire(
    case: Case, now: datetime, periods: Periods, *, two_person: bool
) -> tuple[Case, Default] | None:
    """The default of a stage whose deadline has passed, or None before it.

    ==================  ==========================================================
    open                evidence_required if the claimant asked for it, else withdrawn
    evidence_required   respondent silent: ruled for the claimant (above the two-person limit:
                        review, since two people must decide); answered: rebuttal, then review
    under_review        never ruled by default: another arbiter, another review period
    ruled               final
    appealed            the ruling is upheld; a pending proposal gets another review period
    ==================  ==========================================================
    """
    if case.deadline_at is None or now < case.deadline_at:
        return None
    match case.status:
        case _D.OPEN if case.escalate_on_expiry:
            return _to_evidence(case, now, periods), Default.ESCALATE
        case _D.OPEN:
            return _close(case, _D.WITHDRAWN), Default.LAPSE
        case _D.EVIDENCE_REQUIRED:
            return _expire_evidence(case, now, periods, two_person=two_person)
        case _D.RULED:
            return _close(case, _D.FINAL), Default.FINALIZE
        case _D.APPEALED if not case.proposal_pending:
            return _close(case, _D.FINAL), Default.FINALIZE
        case _:
            extended = replace(
                case, deadline_at=now + periods.review, escalations=case.escalations + 1
            )
            return extended, Default.REMIND


def _expire_evidence(
    case: Case, now: datetime, periods: Periods, *, two_person: bool
) -> tuple[Case, Default]:
    if case.turn is not Turn.BOTH or (two_person and not case.respondent_answered):
        return _to_review(case, now, periods), Default.REVIEW
    if case.respondent_answered:
        return _to_rebuttal(case, now, periods), Default.REBUTTAL
    ruled = _move(case, _D.RULED, deadline_at=now + periods.appeal)
    return ruled, Default.RULE_FOR_CLAIMANT
