"""Quality scores by hand-computed examples."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from listings.quality import ColumnCounts, Scores, score
from listings.vocabulary import UpdateCycle

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def scored(cycle: UpdateCycle = UpdateCycle.STATIC, latest: datetime | None = None) -> Scores:
    return score(
        [ColumnCounts(5, 1, 4, 3), ColumnCounts(0, 0, None, None)],
        rows=10,
        distinct_rows=9,
        cycle=cycle,
        latest=latest,
        now=NOW,
    )


def test_example() -> None:
    assert scored() == Scores(
        completeness="0.7500",
        validity="0.9333",
        consistency="0.7500",
        uniqueness="0.9000",
        timeliness="1.0000",
        overall="0.8667",
    )


@pytest.mark.parametrize(
    ("cycle", "age_days", "timeliness"),
    [
        (UpdateCycle.DAILY, 1, "1.0000"),
        (UpdateCycle.DAILY, 4, "0.2500"),
        (UpdateCycle.WEEKLY, 14, "0.5000"),
        (UpdateCycle.YEARLY, 3_660, "0.1000"),
        (UpdateCycle.IRREGULAR, 4, None),
        (UpdateCycle.STATIC, 4_000, "1.0000"),
    ],
)
def test_timeliness(cycle: UpdateCycle, age_days: int, timeliness: str | None) -> None:
    assert scored(cycle, NOW - timedelta(days=age_days)).timeliness == timeliness


def test_without_dates_timeliness_is_not_assessed() -> None:
    found = scored(UpdateCycle.DAILY)
    assert found.timeliness is None
    assert found.overall == "0.8333"


def test_needs_cells() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        score([], rows=1, distinct_rows=1, cycle=UpdateCycle.STATIC, latest=None, now=NOW)


counts = st.builds(
    lambda nulls, invalid, spellings, same: ColumnCounts(
        nulls, min(invalid, 100 - nulls), spellings, min(same, spellings)
    ),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(1, 100),
    st.integers(1, 100),
)


@given(st.lists(counts, min_size=1, max_size=8), st.integers(1, 100))
def test_scores_stay_between_zero_and_one(columns: list[ColumnCounts], distinct: int) -> None:
    found = score(
        columns,
        rows=100,
        distinct_rows=distinct,
        cycle=UpdateCycle.HOURLY,
        latest=NOW - timedelta(days=9),
        now=NOW,
    )
    for value in (found.completeness, found.validity, found.consistency, found.uniqueness):
        assert "0.0000" <= value <= "1.0000"
        assert len(value) == 6
