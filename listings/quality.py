"""Quality scores of a version, from the counts of its profile. Pure and deterministic.

Five of the dimensions of GB/T 36344-2018 (its accuracy dimension needs a reference data set and
is not assessed here). Each score is between 0 and 1, given as text with four digits:

- completeness = 1 - null cells / all cells
- validity = 1 - invalid cells / non-null cells; invalid are blank, placeholder or damaged texts,
  infinite or not-a-number floats, and dates outside 1800 to 2199
- consistency = mean over text columns of (spellings after trimming, NFC and case folding) /
  (spellings), on an even sample of rows; 1 without text columns
- uniqueness = distinct rows / rows; the distinct rows of files with more than five million are
  estimated (HyperLogLog)
- timeliness = min(1, promised cycle / age of the newest date that is not in the future); 1 for
  static data; not assessed (null) without a promise or without a date column

Overall is the mean of the assessed scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from listings.vocabulary import UpdateCycle

DIGITS = Decimal("0.0001")
_CYCLES: dict[UpdateCycle, timedelta] = {
    UpdateCycle.HOURLY: timedelta(hours=1),
    UpdateCycle.DAILY: timedelta(days=1),
    UpdateCycle.WEEKLY: timedelta(days=7),
    UpdateCycle.MONTHLY: timedelta(days=31),
    UpdateCycle.QUARTERLY: timedelta(days=92),
    UpdateCycle.YEARLY: timedelta(days=366),
}


@dataclass(frozen=True, slots=True)
class ColumnCounts:
    """What the profile counted in one column; spellings are None for other than text."""

    null_count: int
    invalid_count: int
    spellings: int | None
    canonical_spellings: int | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Four-digit texts between ``0.0000`` and ``1.0000``; None is "not assessed"."""

    completeness: str
    validity: str
    consistency: str
    uniqueness: str
    timeliness: str | None
    overall: str


def _text(score: Fraction) -> str:
    bounded = min(max(score, Fraction(0)), Fraction(1))
    value = Decimal(bounded.numerator) / Decimal(bounded.denominator)
    return str(value.quantize(DIGITS, rounding=ROUND_HALF_EVEN))


def _timeliness(cycle: UpdateCycle, latest: datetime | None, now: datetime) -> Fraction | None:
    if cycle is UpdateCycle.STATIC:
        return Fraction(1)
    promised = _CYCLES.get(cycle)
    if promised is None or latest is None:
        return None
    age_s = int((now - latest).total_seconds())
    promised_s = int(promised.total_seconds())
    return Fraction(1) if age_s <= promised_s else Fraction(promised_s, age_s)


def score(
    columns: Sequence[ColumnCounts],
    *,
    rows: int,
    distinct_rows: int,
    cycle: UpdateCycle,
    latest: datetime | None,
    now: datetime,
) -> Scores:
    """Score a profile. Raises ValueError without rows or columns."""
    cells = rows * len(columns)
    if cells == 0:
        raise ValueError("quality needs at least one row and one column")
    nulls = sum(column.null_count for column in columns)
    invalid = sum(column.invalid_count for column in columns)
    texts = [
        Fraction(column.canonical_spellings, column.spellings)
        for column in columns
        if column.spellings and column.canonical_spellings is not None
    ]
    found = {
        "completeness": 1 - Fraction(nulls, cells),
        "validity": 1 - Fraction(invalid, cells - nulls) if cells > nulls else Fraction(1),
        "consistency": sum(texts, Fraction(0)) / len(texts) if texts else Fraction(1),
        "uniqueness": Fraction(distinct_rows, rows),
    }
    timeliness = _timeliness(cycle, latest, now)
    assessed = [*found.values(), *([] if timeliness is None else [timeliness])]
    return Scores(
        **{name: _text(value) for name, value in found.items()},
        timeliness=None if timeliness is None else _text(timeliness),
        overall=_text(sum(assessed, Fraction(0)) / len(assessed)),
    )
