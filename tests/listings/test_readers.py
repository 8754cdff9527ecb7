"""Conversion to Parquet and profiling, in this process (the limits are tested over HTTP)."""

import hashlib
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from listings import profiling, readers
from listings.errors import (
    ColumnNameInvalid,
    ColumnTypeUnsupported,
    FileTooExpansive,
    FileUnreadable,
    TooManyColumns,
    TooManyRows,
    UploadEmpty,
)
from listings.parse import parse

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def run(folder: Path, data: bytes, *, format_: str = "csv", charset: str = "utf-8") -> Any:
    source = folder / "source"
    source.write_bytes(data)
    (folder / "converted.parquet").unlink(missing_ok=True)
    return parse(
        {
            "source": str(source),
            "work": str(folder),
            "format": format_,
            "charset": charset,
            "now": NOW.isoformat(),
        }
    )


def stored(folder: Path) -> pa.Table:
    return pq.read_table(folder / "converted.parquet")


def types_of(found: dict[str, Any]) -> dict[str, str]:
    return {column["name"]: column["type"] for column in found["columns"]}


def parquet(table: pa.Table, folder: Path, **options: Any) -> bytes:
    path = folder / "made.parquet"
    pq.write_table(table, path, **options)
    return path.read_bytes()


def test_csv_types_come_from_all_rows(tmp_path: Path) -> None:
    lines = ["n,x,late"] + [f"{i},{i}.5,1" for i in range(30_000)] + ["30000,1.5,only here text"]
    found = run(tmp_path, "\n".join(lines).encode())
    assert types_of(found) == {"n": "BIGINT", "x": "DOUBLE", "late": "VARCHAR"}
    assert found["row_count"] == 30_001
    assert stored(tmp_path)["n"].to_pylist() == list(range(30_001))


def test_csv_values_are_never_changed(tmp_path: Path) -> None:
    text = "zip,card,ratio,count\n01234,62220200123456789012,0.5,NA\n99999,1,1,7\n"
    found = run(tmp_path, text.encode())
    assert types_of(found) == {
        "zip": "VARCHAR",
        "card": "VARCHAR",
        "ratio": "DOUBLE",
        "count": "BIGINT",
    }
    assert stored(tmp_path).to_pylist() == [
        {"zip": "01234", "card": "62220200123456789012", "ratio": 0.5, "count": None},
        {"zip": "99999", "card": "1", "ratio": 1.0, "count": 7},
    ]


def test_null_markers_in_text_columns_stay_text(tmp_path: Path) -> None:
    found = run(tmp_path, b"country,day\nNA,2020-01-01\nCN,NA\n")
    assert types_of(found) == {"country": "VARCHAR", "day": "DATE"}
    assert stored(tmp_path).to_pylist() == [
        {"country": "NA", "day": date(2020, 1, 1)},
        {"country": "CN", "day": None},
    ]


def test_formulas_are_data(tmp_path: Path) -> None:
    run(tmp_path, b'who,what\nx,"=HYPERLINK(""http://x"")"\ny,@SUM(1)\n')
    assert stored(tmp_path)["what"].to_pylist() == ['=HYPERLINK("http://x")', "@SUM(1)"]


def test_gb18030_is_transcoded(tmp_path: Path) -> None:
    run(tmp_path, "城市,值\n上海,1\n𠮷野,2\n".encode("gb18030"), charset="gb18030")
    assert stored(tmp_path).to_pylist() == [{"城市": "上海", "值": 1}, {"城市": "𠮷野", "值": 2}]
    with pytest.raises(FileUnreadable, match="not valid gb18030"):
        run(tmp_path, b"a\n\xff\xff\xff\n", charset="gb18030")


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"a,a\n1,2\n", ColumnNameInvalid),
        (b"a,A\n1,2\n", ColumnNameInvalid),
        (b"a,,c\n1,2,3\n", ColumnNameInvalid),
        (b"=cmd,b\n1,2\n", ColumnNameInvalid),
        (b"file_row_number,b\n1,2\n", ColumnNameInvalid),
        (b"a,b\n1,2\n1,2,3\n4,5\n", FileUnreadable),
        (b"a,b\n\xff\xfe,1\n", FileUnreadable),
        (b"\n\n\n", FileUnreadable),
        (bytes(range(256)) * 20, FileUnreadable),
        (b"a,b\n", UploadEmpty),
        (",".join(f"c{i}" for i in range(600)).encode() + b"\n" + b",".join([b"1"] * 600),
         TooManyColumns),
    ],
)  # fmt: skip
def test_broken_csv(tmp_path: Path, data: bytes, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        run(tmp_path, data)


def test_all_flat_parquet_types_survive(tmp_path: Path) -> None:
    table = pa.table(
        {
            "flag": [True, None],
            "tiny": pa.array([1, -1], pa.int8()),
            "huge": pa.array([2**63, 0], pa.uint64()),
            "real": pa.array([1.5, float("nan")], pa.float32()),
            "price": pa.array([Decimal("12.50"), None], pa.decimal128(10, 2)),
            "text": ["ä", "数据"],
            "day": pa.array([date(2020, 2, 29), None], pa.date32()),
            "at": pa.array([1_577_880_000_000_000, None], pa.timestamp("us")),
            "zoned": pa.array([datetime(2020, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        }
    )
    found = run(tmp_path, parquet(table, tmp_path), format_="parquet")
    assert types_of(found) == {
        "flag": "BOOLEAN",
        "tiny": "TINYINT",
        "huge": "UBIGINT",
        "real": "FLOAT",
        "price": "DECIMAL(10,2)",
        "text": "VARCHAR",
        "day": "DATE",
        "at": "TIMESTAMP",
        "zoned": "TIMESTAMP WITH TIME ZONE",
    }
    assert found["preview"] == [
        [True, 1, str(2**63), 1.5, "12.50", "ä", "2020-02-29", "2020-01-01T12:00:00",
         "2020-01-01T00:00:00.000000Z"],
        [None, -1, 0, None, None, "数据", None, None, None],
    ]  # fmt: skip
    assert found["latest"] == "2020-02-29T00:00:00+00:00"
    assert [column["invalid_count"] for column in found["columns"]][3] == 1
    path = tmp_path / "converted.parquet"
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["byte_count"] == path.stat().st_size
    json.dumps(found)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], [3]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\x80\x04pickle", b""]),
    ],
    ids=["list", "struct", "map", "binary"],
)
def test_nested_and_binary_columns(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"id": [1, 2], "bad": column})
    with pytest.raises(ColumnTypeUnsupported) as caught:
        run(tmp_path, parquet(table, tmp_path), format_="parquet")
    assert caught.value.param == "columns.1"


def test_duplicate_and_many_parquet_columns(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ColumnNameInvalid):
        run(tmp_path, parquet(twice, tmp_path), format_="parquet")
    wide = pa.table({f"c{i}": [1] for i in range(513)})
    with pytest.raises(TooManyColumns):
        run(tmp_path, parquet(wide, tmp_path), format_="parquet")


def test_broken_parquet(tmp_path: Path) -> None:
    good = parquet(pa.table({"a": list(range(1_000))}), tmp_path)
    for data in (good[:-1], good[: len(good) // 2], b"PAR1" + good[8:], b"PAR1PAR1", b"a,b\n1,2"):
        with pytest.raises(FileUnreadable) as caught:
            run(tmp_path, data, format_="parquet")
        assert str(tmp_path) not in caught.value.detail
    torn = bytearray(good)
    torn[4:400] = b"\xff" * 396
    with pytest.raises(FileUnreadable):
        run(tmp_path, bytes(torn), format_="parquet")
    assert run(tmp_path, good, format_="parquet")["row_count"] == 1_000


def test_decoded_size_is_measured_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"x": pa.array(["a" * 100_000] * 400).dictionary_encode()})
    data = parquet(table, tmp_path, compression="zstd")
    assert len(data) < 10_000
    monkeypatch.setattr(readers, "DECODED_BYTES_MAX", 30_000_000)
    with pytest.raises(FileTooExpansive, match="decodes to more than"):
        run(tmp_path, data, format_="parquet")
    monkeypatch.setattr(readers, "DECODED_BYTES_MAX", 50_000_000)
    monkeypatch.setattr(readers, "VALUE_BYTES_MAX", 99_999)
    with pytest.raises(FileTooExpansive, match="A value has 100000 bytes"):
        run(tmp_path, data, format_="parquet")
    monkeypatch.setattr(readers, "ROWS_MAX", 399)
    with pytest.raises(TooManyRows):
        run(tmp_path, data, format_="parquet")


def test_sensitive_columns_keep_no_bounds_and_are_masked(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": list(range(20)),
            "phone": [13_800_000_000 + i for i in range(20)],
            "email": [f"user{i}@example.com" for i in range(20)],
            "note": ["call 13812345678"] + ["nothing"] * 19,
        }
    )
    found = run(tmp_path, parquet(table, tmp_path), format_="parquet")
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["phone"]["sensitive"] == "mobile"
    assert columns["email"]["sensitive"] == "email"
    assert columns["note"]["sensitive"] is None
    assert (columns["phone"]["min"], columns["email"]["max"]) == (None, None)
    assert (columns["id"]["min"], columns["id"]["max"]) == ("0", "19")
    assert found["preview"][0] == [0, "***", "***", "call ***"]
    assert not re.search(r"1380000|user\d", json.dumps(found))


def test_identifiers_late_in_the_file_are_found(tmp_path: Path) -> None:
    rows = 200_000
    numbers = [None] * (rows // 2) + [13_800_000_000 + i for i in range(rows // 2)]
    table = pa.table({"id": list(range(rows)), "phone": numbers})
    found = run(tmp_path, parquet(table, tmp_path), format_="parquet")
    assert found["columns"][1]["sensitive"] == "mobile"


def test_counts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "city": ["Shanghai", "shanghai ", "Beijing", "N/A", None, "Beijing"],
            "n": [1, 2, 3, 4, None, 3],
        }
    )
    found = run(tmp_path, parquet(table, tmp_path), format_="parquet")
    city, n = found["columns"]
    assert (city["null_count"], city["invalid_count"]) == (1, 1)
    assert (city["spellings"], city["canonical_spellings"]) == (4, 3)
    assert (n["null_count"], n["min"], n["max"], n["spellings"]) == (1, "1", "4", None)
    assert (found["row_count"], found["distinct_rows"], found["latest"]) == (6, 5, None)


def test_a_profile_is_deterministic(tmp_path: Path) -> None:
    table = pa.table({"k": [i % 997 for i in range(50_000)], "t": ["x"] * 50_000})
    data = parquet(table, tmp_path)
    first = run(tmp_path, data, format_="parquet")
    second = run(tmp_path, data, format_="parquet")
    assert first["columns"] == second["columns"]
    assert first["preview"] == second["preview"]


def test_preview_values_are_json() -> None:
    assert profiling._json_value(2**53) == str(2**53)
    assert profiling._json_value(float("inf")) is None
    assert profiling._json_value("a\x00b" + "c" * 500) == "a\ufffdb" + "c" * 197
