"""The dispute machine: every deadline has a default, no state is skipped, closed is closed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contracts import dispute_states as machine
from contracts.dispute_errors import (
    DeadlinePassed,
    DisputeStateRefused,
    EvidenceClosed,
    ProposalPending,
    RulingAccepted,
    WrongSide,
)
from contracts.dispute_states import (
    ACTIVE,
    CLOSED,
    TRANSITIONS,
    Case,
    Default,
    DisputeStatus,
    Periods,
    Side,
    Turn,
)
from market.kernel.errors import Conflict, Forbidden, MarketError

DAY = timedelta(days=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
PERIODS = Periods(
    negotiation=5 * DAY,
    evidence=7 * DAY,
    rebuttal=3 * DAY,
    review=5 * DAY,
    appeal=10 * DAY,
    appeal_review=7 * DAY,
)
CLAIMANT, RESPONDENT = Side.CLAIMANT, Side.RESPONDENT


def fresh(*, escalate: bool = False) -> Case:
    return machine.opened(START, PERIODS, escalate_on_expiry=escalate)


def in_review() -> Case:
    case = machine.escalate(fresh(), CLAIMANT, START, PERIODS)
    case = machine.rest(case, RESPONDENT, START, PERIODS)
    return machine.rest(case, CLAIMANT, START, PERIODS)


def ruled() -> Case:
    return machine.rule(in_review(), START, PERIODS, two_person=False)


def expired(case: Case, *, two_person: bool = False) -> tuple[Case, Default]:
    assert case.deadline_at is not None
    early = machine.expire(
        case, case.deadline_at - timedelta(microseconds=1), PERIODS, two_person=two_person
    )
    assert early is None
    done = machine.expire(case, case.deadline_at, PERIODS, two_person=two_person)
    assert done is not None
    return done


def test_the_straight_way_with_its_deadlines() -> None:
    case = fresh()
    assert (case.status, case.deadline_at, case.turn) == ("open", START + 5 * DAY, "both")
    case = machine.escalate(case, CLAIMANT, START + DAY, PERIODS)
    assert (case.status, case.deadline_at) == ("evidence_required", START + 8 * DAY)
    case = machine.rest(case, RESPONDENT, START + 2 * DAY, PERIODS)
    assert (case.turn, case.deadline_at) == (Turn.CLAIMANT, START + 5 * DAY)
    case = machine.rest(case, CLAIMANT, START + 3 * DAY, PERIODS)
    assert (case.status, case.deadline_at) == ("under_review", START + 8 * DAY)
    case = machine.rule(case, START + 4 * DAY, PERIODS, two_person=False)
    assert (case.status, case.deadline_at) == ("ruled", START + 14 * DAY)
    case = machine.accept(case, CLAIMANT, START + 5 * DAY)
    assert case.status is DisputeStatus.RULED
    case = machine.accept(case, RESPONDENT, START + 5 * DAY)
    assert (case.status, case.deadline_at) == ("final", None)


def test_defaults_of_every_stage() -> None:
    assert expired(fresh())[1] is Default.LAPSE
    required, default = expired(fresh(escalate=True))
    assert (required.status, default) == ("evidence_required", Default.ESCALATE)
    lost, default = expired(required)
    assert (lost.status, default) == ("ruled", Default.RULE_FOR_CLAIMANT)
    large, default = expired(required, two_person=True)
    assert (large.status, default) == ("under_review", Default.REVIEW)
    answered = machine.submit(required, RESPONDENT, START + 5 * DAY)
    rebuttal, default = expired(answered)
    assert (rebuttal.status, rebuttal.turn, default) == (
        "evidence_required",
        Turn.CLAIMANT,
        Default.REBUTTAL,
    )
    review, default = expired(rebuttal)
    assert (review.status, default) == ("under_review", Default.REVIEW)
    late, default = expired(review)
    assert (late.status, late.escalations, default) == ("under_review", 1, Default.REMIND)
    assert expired(ruled())[0].status is DisputeStatus.FINAL
    appealed = machine.appeal(ruled(), CLAIMANT, START, PERIODS)
    assert expired(appealed) == (
        Case(
            status=DisputeStatus.FINAL,
            deadline_at=None,
            round=2,
            respondent_answered=True,
        ),
        Default.FINALIZE,
    )
    window_closed = machine.rest(appealed, RESPONDENT, START, PERIODS)
    proposed = machine.rule(window_closed, START, PERIODS, two_person=True)
    assert expired(proposed)[1] is Default.REMIND


def test_evidence_only_in_turn() -> None:
    case = machine.submit(fresh(), RESPONDENT, START)
    assert case.respondent_answered
    case = machine.escalate(case, CLAIMANT, START, PERIODS)
    rebuttal = machine.rest(case, RESPONDENT, START, PERIODS)
    with pytest.raises(EvidenceClosed):
        machine.submit(rebuttal, RESPONDENT, START)
    assert machine.submit(rebuttal, CLAIMANT, START) == rebuttal
    review = machine.rest(rebuttal, CLAIMANT, START, PERIODS)
    for side in Side:
        with pytest.raises(EvidenceClosed):
            machine.submit(review, side, START)
    asked = machine.request_evidence(review, START, PERIODS)
    assert asked.deadline_at == START + 8 * DAY
    assert machine.submit(asked, RESPONDENT, START + DAY) == asked
    with pytest.raises(EvidenceClosed):
        machine.submit(asked, RESPONDENT, START + 3 * DAY)
    with pytest.raises(DisputeStateRefused):
        machine.rule(asked, START + DAY, PERIODS, two_person=False)
    half = machine.rest(asked, RESPONDENT, START, PERIODS)
    with pytest.raises(EvidenceClosed):
        machine.submit(half, RESPONDENT, START)
    both = machine.rest(half, CLAIMANT, START, PERIODS)
    assert machine.rule(both, START, PERIODS, two_person=False).status is DisputeStatus.RULED


def test_requests_for_evidence_are_bounded() -> None:
    case = in_review()
    for _ in range(machine.EVIDENCE_REQUESTS_MAX):
        case = machine.request_evidence(case, START, PERIODS)
    with pytest.raises(DisputeStateRefused):
        machine.request_evidence(case, START, PERIODS)


def test_only_the_right_side_acts() -> None:
    with pytest.raises(WrongSide):
        machine.escalate(fresh(), RESPONDENT, START, PERIODS)
    with pytest.raises(WrongSide):
        machine.withdraw(fresh(), RESPONDENT, START)
    required = machine.escalate(fresh(), CLAIMANT, START, PERIODS)
    with pytest.raises(WrongSide):
        machine.rest(required, CLAIMANT, START, PERIODS)
    accepted = machine.accept(ruled(), CLAIMANT, START)
    with pytest.raises(RulingAccepted):
        machine.accept(accepted, CLAIMANT, START)
    with pytest.raises(RulingAccepted):
        machine.appeal(accepted, CLAIMANT, START, PERIODS)
    appealed = machine.appeal(accepted, RESPONDENT, START, PERIODS)
    assert (appealed.turn, appealed.round, appealed.accepted) == (Turn.CLAIMANT, 2, frozenset())


def test_two_person_rule_waits_for_the_second() -> None:
    proposed = machine.rule(in_review(), START, PERIODS, two_person=True)
    assert (proposed.status, proposed.proposal_pending) == ("under_review", True)
    with pytest.raises(ProposalPending):
        machine.rule(proposed, START, PERIODS, two_person=True)
    with pytest.raises(ProposalPending):
        machine.request_evidence(proposed, START, PERIODS)
    with pytest.raises(ProposalPending):
        machine.withdraw(proposed, CLAIMANT, START)
    rejected = machine.reject(proposed, START, PERIODS)
    assert (rejected.status, rejected.proposal_pending) == ("under_review", False)
    with pytest.raises(DisputeStateRefused):
        machine.approve(rejected, START, PERIODS)
    assert machine.approve(proposed, START, PERIODS).status is DisputeStatus.RULED


def acts(now: datetime, side: Side, *, two_person: bool) -> dict[str, Callable[[Case], Case]]:
    return {
        "escalate": lambda c: machine.escalate(c, side, now, PERIODS),
        "submit": lambda c: machine.submit(c, side, now),
        "rest": lambda c: machine.rest(c, side, now, PERIODS),
        "request": lambda c: machine.request_evidence(c, now, PERIODS),
        "rule": lambda c: machine.rule(c, now, PERIODS, two_person=two_person),
        "approve": lambda c: machine.approve(c, now, PERIODS),
        "reject": lambda c: machine.reject(c, now, PERIODS),
        "accept": lambda c: machine.accept(c, side, now),
        "appeal": lambda c: machine.appeal(c, side, now, PERIODS),
        "withdraw": lambda c: machine.withdraw(c, side, now),
        "settle": lambda c: machine.settle(c, now),
    }


ACTS = sorted(acts(START, CLAIMANT, two_person=False))


@pytest.mark.parametrize("name", ACTS)
def test_after_the_deadline_every_act_is_refused(name: str) -> None:
    appealed = machine.appeal(ruled(), CLAIMANT, START, PERIODS)
    proposed = machine.rule(in_review(), START, PERIODS, two_person=True)
    required = machine.escalate(fresh(), CLAIMANT, START, PERIODS)
    for case in (fresh(), required, in_review(), proposed, ruled(), appealed):
        assert case.deadline_at is not None
        for side in Side:
            with pytest.raises((DeadlinePassed, DisputeStateRefused)):
                acts(case.deadline_at, side, two_person=False)[name](case)


class DisputeMachine(RuleBasedStateMachine):
    """Random acts at random times by random sides, against the table and the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.case = fresh()
        self.now = START
        self.seen = [DisputeStatus.OPEN]
        self.two_person = False

    @initialize(escalate=st.booleans(), two_person=st.booleans())
    def begin(self, *, escalate: bool, two_person: bool) -> None:
        self.case = fresh(escalate=escalate)
        self.two_person = two_person

    @rule(name=st.sampled_from(ACTS), side=st.sampled_from(Side))
    def act(self, name: str, side: Side) -> None:
        before = self.case
        try:
            self.case = acts(self.now, side, two_person=self.two_person)[name](before)
        except (Forbidden, Conflict):
            return
        assert before.status not in CLOSED
        assert before.deadline_at is not None
        assert self.now < before.deadline_at
        self._note(before)

    @rule(hours=st.integers(min_value=1, max_value=300))
    def wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule()
    def job(self) -> None:
        before = self.case
        done = machine.expire(before, self.now, PERIODS, two_person=self.two_person)
        if done is None:
            assert before.deadline_at is None or self.now < before.deadline_at
            return
        self.case, default = done
        if before.status is DisputeStatus.UNDER_REVIEW:
            assert self.case.status is DisputeStatus.UNDER_REVIEW
        if default is Default.RULE_FOR_CLAIMANT:
            assert not self.two_person
            assert not before.respondent_answered
        self._note(before)

    def _note(self, before: Case) -> None:
        if self.case.status is not before.status:
            assert self.case.status in TRANSITIONS[before.status]
            self.seen.append(self.case.status)

    @invariant()
    def deadline_exactly_while_active(self) -> None:
        assert (self.case.deadline_at is None) == (self.case.status in CLOSED)

    @invariant()
    def nothing_is_skipped(self) -> None:
        if self.case.status in (DisputeStatus.RULED, DisputeStatus.FINAL):
            assert DisputeStatus.EVIDENCE_REQUIRED in self.seen
            assert DisputeStatus.RULED in self.seen
        assert (self.case.round == 2) == (DisputeStatus.APPEALED in self.seen)
        assert self.seen.count(DisputeStatus.RULED) <= 1
        if self.case.proposal_pending:
            assert self.two_person
            assert self.case.status in machine.IN_REVIEW


DisputeMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestDisputeMachine = DisputeMachine.TestCase


@given(st.lists(st.sampled_from(ACTS), max_size=12), st.booleans())
def test_left_alone_a_case_ends_or_waits_for_an_arbiter(names: list[str], escalate: bool) -> None:
    case, now = fresh(escalate=escalate), START
    for name in names:
        for side in Side:
            try:
                case = acts(now, side, two_person=False)[name](case)
            except MarketError:
                continue
    for _ in range(6):
        if case.status in CLOSED or case.status is DisputeStatus.UNDER_REVIEW:
            break
        assert case.deadline_at is not None
        now = case.deadline_at
        done = machine.expire(case, now, PERIODS, two_person=False)
        assert done is not None
        case = done[0]
    assert case.status in CLOSED | {DisputeStatus.UNDER_REVIEW}


def test_the_table_covers_every_state() -> None:
    assert set(TRANSITIONS) == set(DisputeStatus)
    assert {state for state, targets in TRANSITIONS.items() if not targets} == set(CLOSED)
    assert all(DisputeStatus.SETTLED in TRANSITIONS[state] for state in ACTIVE)
