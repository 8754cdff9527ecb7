"""Ranges of bytes and the parts that they touch."""

import itertools

import pytest
from hypothesis import given, strategies as st

from contracts.bulk.errors import RangeInvalid, RangeUnsatisfiable
from contracts.bulk.ranges import PART_BYTES, File, parse_range, portions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-", (10, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-500", (0, 100)),
        (" bytes=5-6 ", (5, 7)),
    ],
)
def test_ranges_of_a_hundred_bytes(text: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(text, 100) == expected


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=-0", "bytes=100-200"])
def test_bytes_beyond_the_file_are_refused_with_its_size(text: str) -> None:
    with pytest.raises(RangeUnsatisfiable) as refused:
        parse_range(text, 100)
    assert refused.value.headers == {"Content-Range": "bytes */100"}


@pytest.mark.parametrize(
    "text", ["", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "rows=0-1", "bytes=٣-", "x"]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RangeInvalid):
        parse_range(text, 100)


@given(
    size=st.integers(1, 20 * PART_BYTES),
    rows=st.integers(1, 10**9),
    cut=st.floats(0, 1, exclude_max=True),
)
def test_parts_tile_the_range_and_add_up_to_the_rows(size: int, rows: int, cut: float) -> None:
    file = File(size, rows, "0" * 64)
    parts = list(portions(file, 0, size))
    assert sum(part.rows for part in parts) == rows
    assert len(parts) == file.parts
    assert all((part.start, part.stop) == part.of_part for part in parts)
    start = int(size * cut)
    rest = list(portions(file, start, size))
    assert rest[0].start == start
    assert rest[-1].stop == size
    for before, after in itertools.pairwise(rest):
        assert before.stop == after.start
    # A part costs the same, whichever of its bytes are asked for.
    assert [part.rows for part in rest] == [part.rows for part in parts[rest[0].part :]]
