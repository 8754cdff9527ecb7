"""Hostile queries: four at once leave the process within 1 GiB, answered or refused.

The engine runs apart, with the settings' defaults; at its end it tells its peak of resident memory
(``VmHWM``; ``ru_maxrss`` would count what the tests' own process had when it forked).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.listings.endless import billion_rows

MEMORY_MAX_KIB = 1 << 20
AT_ONCE = 4
PROGRAM = """
import asyncio, json, sys
sys.path.insert(0, "")
from contracts.delivery import sql
from listings.typed_columns import Column, Family
from contracts.delivery.engine import engine_of
from listings.row_filter import compile_filter
from contracts.errors import PageTooLarge, QueryTimeout
from market.kernel.settings import Settings

def default(name):
    return Settings.model_fields[name].default

path, families, order, filter_, limit_s = json.loads(sys.argv[1])
columns = {name: Column(name, Family(family)) for name, family in families.items()}
engine = engine_of(default("delivery_memory_mb"), default("delivery_timeout_s"))
query = sql.page_query(
    path,
    select=list(columns.values()),
    condition=compile_filter(filter_, columns),
    order=sql.parse_order(order, columns),
    after=None,
    limit=default("delivery_page_max_rows"),
)

async def ask():
    rows = default("delivery_page_max_rows")
    try:
        return (await engine.timed_table(query, rows=rows, limit_s=limit_s))[0].num_rows
    except (PageTooLarge, QueryTimeout) as refusal:
        return refusal.code

async def main():
    return await asyncio.gather(*(ask() for _ in range(int(sys.argv[2]))))

answers = asyncio.run(main())
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([answers, int(line.split()[1])]))
"""
ROOT = Path(__file__).resolve().parents[3]


def repeated(value: str | int, rows: int) -> pa.Array:
    """One value many times, which Parquet keeps in some bytes."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), [value])


def long_values() -> pa.Table:
    return pa.table({"x": repeated("a" * 60_000, 20_000)})


def wide_and_long() -> pa.Table:
    return pa.table({f"x{at}": repeated("b" * 1_000, 200_000) for at in range(40)})


def many_rows() -> pa.Table:
    return pa.table({"x": repeated(7, 25_000_000)})


@pytest.mark.parametrize(
    ("make", "family", "order", "filter_", "answer"),
    [
        (long_values, "text", None, None, "page_too_large"),
        (wide_and_long, "text", None, None, "page_too_large"),
        (wide_and_long, "text", "x1,-x2,x3", None, "page_too_large"),
        (wide_and_long, "text", "-x1", "x2 like '%b%b%c' or x3 = 'c'", 0),
        (many_rows, "integer", "-x", "x = 7", 10_001),
    ],
)
def test_queries_at_once_take_at_most_a_gibibyte(
    tmp_path: Path,
    make: Callable[[], pa.Table],
    family: str,
    order: str | None,
    filter_: str | None,
    answer: str | int,
) -> None:
    table, file = make(), tmp_path / "hostile.parquet"
    pq.write_table(table, file)
    families = dict.fromkeys(table.column_names, family)
    assert ask(file, families, order, filter_) == [answer] * AT_ONCE


@pytest.mark.parametrize(
    ("order", "filter_", "limit_s", "answer"),
    [
        (None, None, None, 10_001),
        (None, "x = 8", None, 0),
        # Sorting takes its whole time limit, whatever that is, and no more memory for it.
        ("-x", "x = 7", 1.0, "query_timeout"),
    ],
)
def test_a_billion_rows_are_read_or_refused(
    tmp_path: Path, order: str | None, filter_: str | None, limit_s: float | None, answer: str | int
) -> None:
    file = tmp_path / "hostile.parquet"
    file.write_bytes(billion_rows())
    assert ask(file, {"x": "integer"}, order, filter_, limit_s) == [answer] * AT_ONCE


def ask(
    file: Path,
    families: dict[str, str],
    order: str | None,
    filter_: str | None,
    limit_s: float | None = None,
) -> list[str | int]:
    """Four answers to the same page, asked at once; ``limit_s`` instead of the setting's."""
    asked = [str(file), families, order, filter_, limit_s]
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-c", PROGRAM, json.dumps(asked), str(AT_ONCE)],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    answers, peak_kib = json.loads(done.stdout)
    assert 0 < peak_kib <= MEMORY_MAX_KIB
    return list(answers)
