"""Hostile files: each is refused with a clear code, and reading it takes at most 1 GiB of memory.

The parsing process runs apart, as in `listings.intake`; at its end it tells its peak of resident
memory (``VmHWM``; ``ru_maxrss`` would count what the tests' own process had when it forked).
"""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from listings.parse import ANSWER_NAME
from tests.listings.endless import billion_rows

MEMORY_MAX_KIB = 1 << 20
PROGRAM = """
import sys
sys.path.insert(0, "")
from listings.parse import main
main()
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(line.split()[1])
"""
ROOT = Path(__file__).resolve().parents[2]


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False, **options)
    return sink.getvalue()


def repeated(value: object, rows: int, kind: pa.DataType) -> pa.Array:
    """One value many times, which Parquet keeps in some bytes."""
    indices = pa.repeat(pa.scalar(0, pa.int32()), rows)
    return pa.DictionaryArray.from_arrays(indices, pa.array([value], kind))


def too_many_rows() -> bytes:
    # One row group, as a writer that wants to hurt makes it.
    table = pa.table({"x": repeated(7, 25_000_000, pa.int64())})
    return parquet(table, row_group_size=25_000_000)


def long_values() -> bytes:
    return parquet(pa.table({"x": repeated("a" * 1_000_000, 50_000, pa.string())}))


def wide_and_long() -> bytes:
    column = repeated("b" * 1_000, 1_000_000, pa.string())
    return parquet(pa.table({f"c{at}": column for at in range(40)}), row_group_size=1_000_000)


def many_columns() -> bytes:
    return parquet(pa.table({f"c{at}": [1] for at in range(8_000)}))


def deep_nesting() -> bytes:
    kind = pa.int64()
    value: object = 1
    for _ in range(60):
        kind, value = pa.list_(kind), [value]
    return parquet(pa.table({"x": pa.array([value], kind)}))


def lists_of_millions() -> bytes:
    offsets = pa.array([0, 20_000_000], pa.int32())
    return parquet(pa.table({"x": pa.ListArray.from_arrays(offsets, pa.repeat(1, 20_000_000))}))


def path_in_a_name() -> bytes:
    return parquet(pa.table({"../../etc/passwd\x00": [1]}))


def forged_row_count() -> bytes:
    # The footer's copy of the row count (zigzag varint of 1,000,003) becomes far larger.
    data = parquet(pa.table({"x": repeated(7, 1_000_003, pa.int64())}))
    true, false = b"\x86\x89\x7a", b"\xfe\xff\x7f"
    assert data.count(true) >= 2
    return data.replace(true, false)


def endless_line() -> bytes:
    return b"a,b\n" + b"x" * 25_000_000


def endless_header() -> bytes:
    return b",".join(b"c%d" % at for at in range(300_000)) + b"\n1\n"


def unclosed_quote() -> bytes:
    return b'a,b\n"' + b"1,2\n" * 4_000_000


def gzip_bomb() -> bytes:
    return gzip.compress(b"a,b\n" + b"1,2\n" * 4_000_000, 1)


def zip_bomb() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../data.csv", b"0" * 60_000_000)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("make", "format_", "code"),
    [
        (too_many_rows, "parquet", "too_many_rows"),
        (billion_rows, "parquet", "too_many_rows"),
        (long_values, "parquet", "file_too_expansive"),
        (wide_and_long, "parquet", "file_too_expansive"),
        (many_columns, "parquet", "too_many_columns"),
        (deep_nesting, "parquet", "column_type_unsupported"),
        (lists_of_millions, "parquet", "column_type_unsupported"),
        (path_in_a_name, "parquet", "column_name_invalid"),
        (forged_row_count, "parquet", "file_unreadable"),
        (endless_line, "csv", "file_unreadable"),
        (endless_header, "csv", "file_unreadable"),
        (unclosed_quote, "csv", "file_unreadable"),
        (gzip_bomb, "csv", "file_unreadable"),
        (zip_bomb, "csv", "file_unreadable"),
    ],
)
def test_a_hostile_file_is_refused_within_a_gibibyte(
    tmp_path: Path, make: Callable[[], bytes], format_: str, code: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(make())
    request = {
        "source": str(source),
        "work": str(tmp_path),
        "format": format_,
        "charset": "utf-8",
        "now": "2026-11-22T00:00:00+00:00",
    }
    command = [sys.executable, "-E", "-s", "-c", PROGRAM, json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": os.defpath}, capture_output=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert 0 < int(done.stdout) <= MEMORY_MAX_KIB
    refusal = json.loads((tmp_path / ANSWER_NAME).read_bytes())["refusal"]
    assert refusal["code"] == code, refusal
