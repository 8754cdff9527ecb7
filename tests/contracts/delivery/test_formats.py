"""Formats: what is negotiated, and that values survive."""

import io
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

import orjson
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from contracts.delivery import formats
from contracts.delivery.formats import Format, PageMarks, encode, negotiate
from contracts.errors import FormatNotOffered

LAST = PageMarks(has_more=False, next_after=None)
TABLE = pa.table(
    {
        "text": pa.array(["=1+1", "-cmd", "-5", "+7.5", "@x", "\tx", 'a"b\n,', None]),
        "money": pa.array([Decimal("0.10")] * 8, pa.decimal128(10, 2)),
        "at": pa.array([datetime(2026, 1, 2, 3, 4, 5, 6, UTC)] * 8, pa.timestamp("us", "UTC")),
        "day": pa.array([date(2026, 1, 2)] * 8),
        "big": pa.array([2**53 + 1] * 8),
        "real": pa.array([float("nan"), 0.1, 1e300, -0.0, 5.0, 6.0, 7.0, None]),
    }
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/*", Format.JSON),
        ("text/csv", Format.CSV),
        ("TEXT/CSV", Format.CSV),
        ("application/vnd.apache.parquet, application/json;q=0.5", Format.PARQUET),
        ("application/json;q=0.4, */*;q=0.6", Format.CSV),
        ("application/vnd.apache.arrow.stream;charset=x", Format.ARROW),
        ("application/x-ndjson", Format.NDJSON),
        ("application/x-ndjson, application/json;q=0.9", Format.NDJSON),
        ("application/*, application/json;q=0", Format.PARQUET),
    ],
)
def test_negotiation(accept: str | None, expected: Format) -> None:
    assert negotiate(accept) is expected


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "text/csv;q=nan", "text/csv;q=x", ";"])
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(FormatNotOffered) as refused:
        negotiate(accept)
    assert refused.value.status == 406


@given(st.text(max_size=200))
def test_any_header_is_answered_or_refused(accept: str) -> None:
    try:
        chosen: Format | None = negotiate(accept)
    except FormatNotOffered:
        chosen = None
    assert chosen is None or chosen in Format


def test_json_keeps_decimals_and_large_integers_exact() -> None:
    first = orjson.loads(encode(TABLE, Format.JSON, LAST))["items"][0]
    assert first == {
        "text": "=1+1",
        "money": "0.10",
        "at": "2026-01-02T03:04:05.000006Z",
        "day": "2026-01-02",
        "big": 2**53 + 1,
        "real": None,
    }


EVERYTHING = pa.table(
    {
        "text": pa.array(["", None, 'a"b\\\n\u2028', "中文 🛫", "\x00\x1f", "x" * 300, "e\u0301"]),
        "words": pa.array(["UA", None, "AA", "UA", "UA", None, "AA"]).dictionary_encode(),
        "money": pa.array([None, *map(Decimal, ("0.10", "-1", "0", "9e7", "1e-2", "7"))]).cast(
            pa.decimal128(38, 10)
        ),
        "big": pa.array([0, None, 2**64 - 1, 2**63, 1, 2, 3], pa.uint64()),
        "small": pa.array([-(2**63), 2**63 - 1, None, 0, 1, 2, 3], pa.int64()),
        "real": pa.array([math.nan, math.inf, -math.inf, -0.0, 1e300, 0.1, None]),
        "single": pa.array([0.1, None, 1.5, math.nan, 2.0, 3.0, 4.0], pa.float32()),
        "yes": pa.array([True, None, False, True, True, True, False]),
        "none": pa.nulls(7),
        "day": pa.array([date(1, 1, 1), None, date(9999, 12, 31), *[date(2026, 1, 2)] * 4]),
        "at": pa.array([10**15 + 6, None, *[-62_135_596_800_000_000] * 5], pa.timestamp("us")),
        "at_utc": pa.array([None, *[10**15] * 6], pa.timestamp("us", "UTC")),
        "exact": pa.array([1, None, 2, 10**18, 10**18 + 1, -1, 0], pa.timestamp("ns")),
        "noon": pa.array([time(12, 0, 0, 1), None, *[time(0)] * 5]),
        "long": pa.array([1, None, 3, 4, 5, 6, 7], pa.duration("us")),
        "raw": pa.array([b"\x00\xff", None, b"", b"a", b"b", b"c", b"d"]),
        "list": pa.array([[1, None], None, [], [2], [3], [4], [5]], pa.list_(pa.int64())),
        "tree": pa.array(
            [{"a": [{"b": "ß"}], "c": None}, None, *[{"a": [], "c": Decimal("1.50")}] * 5],
            pa.struct({"a": pa.list_(pa.struct({"b": pa.string()})), "c": pa.decimal128(10, 2)}),
        ),
        'odd"\n名': pa.array(range(7)),
    }
)


def at_once(table: pa.Table, marks: PageMarks, *, lines: bool) -> bytes:
    """All rows as objects in memory at the same time, in one call of orjson or one for each."""
    rows, option = table.to_pylist(), orjson.OPT_UTC_Z

    def plain(value: object) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    if lines:
        option |= orjson.OPT_APPEND_NEWLINE
        return b"".join(orjson.dumps(row, default=plain, option=option) for row in rows)
    page = {"items": rows, "has_more": marks.has_more, "next_after": marks.next_after}
    return orjson.dumps(page, default=plain, option=option)


@pytest.mark.parametrize("cells", [1, 19 * 3, 19 * 6, 19 * 7, 100_000])
@pytest.mark.parametrize("marks", [LAST, PageMarks(has_more=True, next_after='x"y')])
def test_slices_are_the_same_bytes_as_all_at_once(
    monkeypatch: pytest.MonkeyPatch, cells: int, marks: PageMarks
) -> None:
    monkeypatch.setattr(formats, "CELLS_AT_ONCE", cells)
    halves = pa.concat_tables([EVERYTHING.slice(at, size) for at, size in ((0, 4), (4, 0), (4, 3))])
    for table in (EVERYTHING, halves, EVERYTHING.slice(2, 3), EVERYTHING.slice(0, 0)):
        assert table.num_columns == 19
        assert encode(table, Format.JSON, marks) == at_once(table, marks, lines=False)
        assert encode(table, Format.NDJSON, marks) == at_once(table, marks, lines=True)


def test_ndjson_is_a_line_for_each_item_of_the_json() -> None:
    lines = encode(TABLE, Format.NDJSON, LAST).split(b"\n")
    assert lines.pop() == b""
    assert [orjson.loads(line) for line in lines] == orjson.loads(
        encode(TABLE, Format.JSON, PageMarks(has_more=True, next_after="x"))
    )["items"]
    # A line break of a value must not end its line.
    assert len(lines) == TABLE.num_rows
    assert orjson.loads(lines[6])["text"] == 'a"b\n,'


def test_csv_disarms_formulas_and_only_them() -> None:
    lines = encode(TABLE.select(["text"]), Format.CSV, LAST).decode().split("\n")
    assert lines[1:7] == ['"\'=1+1"', '"\'-cmd"', '"-5"', '"+7.5"', '"\'@x"', '"\'\tx"']
    assert encode(TABLE, Format.CSV, LAST).decode().splitlines()[1].startswith('"\'=1+1",0.10,')


def test_binary_formats_carry_everything_unchanged() -> None:
    arrow = pyarrow.ipc.open_stream(encode(TABLE, Format.ARROW, LAST)).read_all()
    parquet = pq.read_table(io.BytesIO(encode(TABLE, Format.PARQUET, LAST)))
    for read in (arrow, parquet):
        assert read.schema.names == TABLE.schema.names
        assert read.drop_columns(["real"]).equals(TABLE.drop_columns(["real"]))
        assert str(read["real"]) == str(TABLE["real"])


def test_an_empty_page_is_a_page_in_every_format() -> None:
    empty = TABLE.slice(0, 0)
    assert orjson.loads(encode(empty, Format.JSON, LAST))["items"] == []
    assert encode(empty, Format.NDJSON, LAST) == b""
    assert encode(empty, Format.CSV, LAST).count(b"\n") == 1
    assert pq.read_table(io.BytesIO(encode(empty, Format.PARQUET, LAST))).num_rows == 0
