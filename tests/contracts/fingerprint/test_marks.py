"""Whose copy a leaked sample is."""

import random
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest

from contracts.fingerprint.marks import Marked, Scheme, detect, mark

KEY = bytes(range(32))
SCHEME = Scheme(("id",), (Marked("delay", Decimal(1)), Marked("fare", Decimal("0.01"))))
AGREEMENTS = [UUID(int=n) for n in range(1, 101)]
ROWS = 40_000


@pytest.fixture(scope="module")
def original() -> pa.Table:
    chance = random.Random(7)
    return pa.table(
        {
            "id": range(ROWS),
            "delay": pa.array([chance.randrange(-60, 600) * 5 for _ in range(ROWS)], pa.int32()),
            "fare": [None if n % 50 == 0 else chance.randrange(10_000) / 100 for n in range(ROWS)],
            "carrier": [chance.choice("ABC") for _ in range(ROWS)],
        }
    )


def _sample(table: pa.Table, seed: int, share: float = 0.01) -> pa.Table:
    chance = random.Random(seed)
    return table.take(chance.sample(range(ROWS), int(ROWS * share)))


@pytest.mark.parametrize("number", [0, 41, 99])
def test_one_percent_names_the_right_one_of_a_hundred(original: pa.Table, number: int) -> None:
    copy = mark(original, SCHEME, KEY, AGREEMENTS[number])
    for seed in range(5):
        named, all_ = detect(_sample(copy, seed), SCHEME, KEY, AGREEMENTS)
        assert named is not None
        assert named.agreement == AGREEMENTS[number]
        assert named.agreeing == named.bits
        assert len(all_) == 100


def test_an_untouched_copy_and_another_key_name_nobody(original: pa.Table) -> None:
    copy = mark(original, SCHEME, KEY, AGREEMENTS[0])
    for table, key in ((original, KEY), (copy, bytes(32)), (copy.slice(0, 0), KEY)):
        assert detect(table, SCHEME, key, AGREEMENTS)[0] is None
        few = _sample(table, 1) if table.num_rows else table
        assert detect(few, SCHEME, key, AGREEMENTS)[0] is None
    assert detect(copy, SCHEME, KEY, AGREEMENTS[1:])[0] is None
    assert detect(copy, SCHEME, KEY, [])[0] is None


def test_changes_stay_within_the_tolerance_and_off_the_keys(original: pa.Table) -> None:
    copy = mark(original, SCHEME, KEY, AGREEMENTS[3])
    assert copy.schema == original.schema
    assert copy.select(["id", "carrier"]) == original.select(["id", "carrier"])
    changed = 0
    for name, step in (("delay", 1), ("fare", 0.01)):
        for before, after in zip(original[name].to_pylist(), copy[name].to_pylist(), strict=True):
            assert (before is None) == (after is None)
            if before != after:
                changed += 1
                assert abs(after - before) == pytest.approx(step)
    # One row in four is chosen, and half of those have the right bit already.
    assert ROWS / 9 < changed < ROWS / 7
    assert mark(original, SCHEME, KEY, AGREEMENTS[3]) == copy
    assert mark(original, SCHEME, KEY, AGREEMENTS[4]) != copy


def test_copies_of_one_row_are_one_observation(original: pa.Table) -> None:
    copy = mark(original, SCHEME, KEY, AGREEMENTS[3])
    repeated = pa.concat_tables([copy.slice(0, 40)] * 50)
    named, all_ = detect(repeated, SCHEME, KEY, AGREEMENTS)
    assert named is None
    assert all_[0].bits < 40


def test_schemes_that_cannot_hold_are_refused(original: pa.Table) -> None:
    with pytest.raises(ValueError, match="key columns"):
        Scheme(("id",), (Marked("id", Decimal(1)),))
    with pytest.raises(ValueError, match="above zero"):
        Marked("delay", Decimal(0))
    for column, reason in (
        (Marked("delay", Decimal("0.5")), "not whole"),
        (Marked("carrier", Decimal(1)), "not numeric"),
    ):
        with pytest.raises(ValueError, match=reason):
            mark(original, Scheme(("id",), (column,)), KEY, AGREEMENTS[0])
