"""Policies: every clause refuses by name, in order, and nothing else does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from contracts.errors import PolicyRefused
from contracts.policy import Access, Policy, evaluate, parse_policy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FULL = Policy(
    purposes=["academic_research"],
    territory=["CN-SH", "US"],
    not_before=NOW - DAY,
    not_after=NOW + DAY,
    count=3,
)


@pytest.mark.parametrize(
    ("access", "clause"),
    [
        (Access("CN", NOW, 0, "resale"), "purpose"),
        (Access("DE", NOW, 0, "academic_research"), "territory"),
        (Access("CN", NOW - 2 * DAY, 0), "period"),
        (Access("CN", NOW + DAY, 0), "period"),
        (Access("US", NOW, 3), "count"),
        (Access("DE", NOW + DAY, 3, "resale"), "purpose"),
    ],
)
def test_refusal_names_the_first_clause(access: Access, clause: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        evaluate(FULL, access)
    assert refused.value.extra == {"clause": clause}
    assert refused.value.status == 403


def test_access_within_every_clause_and_without_a_declared_purpose() -> None:
    evaluate(FULL, Access("CN", NOW, 2, "academic_research"))
    evaluate(FULL, Access("US", NOW - DAY, 2))


@given(st.sampled_from(["CN", "US", "DE"]), st.integers(0, 10**12))
def test_no_clause_refuses_nobody(country: str, deliveries: int) -> None:
    evaluate(Policy(), Access(country, NOW, deliveries, "anything"))


def test_frozen_takes_the_earliest_end() -> None:
    term = timedelta(days=30)
    assert Policy().frozen(NOW, term).not_after == NOW + term
    assert Policy(period_days=10).frozen(NOW, term).not_after == NOW + 10 * DAY
    fixed = Policy(not_after=NOW + DAY, not_before=NOW - DAY).frozen(NOW, term)
    assert (fixed.not_before, fixed.not_after) == (NOW, NOW + DAY)


@pytest.mark.parametrize(
    "stored", [{"purpose": "x"}, {"territory": ["China"]}, {"count": 0}, {"purposes": ["A B"]}]
)
def test_a_foreign_form_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse_policy(stored)
