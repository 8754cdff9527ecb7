"""Paging and the engine: any order, with NULLs and ties, gives every row exactly once."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from contracts.delivery.engine import Engine
from contracts.delivery.sql import (
    PLACE,
    Query,
    SortKey,
    count_query,
    page_query,
    parse_order,
    parse_select,
)
from contracts.errors import PageTooLarge, QueryTimeout
from listings.row_filter import ALWAYS, compile_filter
from listings.typed_columns import columns_of

COLUMNS = columns_of(
    [
        {"name": "n", "type": "INTEGER"},
        {"name": "word", "type": "VARCHAR"},
        {"name": "order", "type": "DOUBLE"},
    ]
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(memory_mb=256, timeout_s=20)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "data.parquet"
    dice = random.Random(7)
    size = 400
    pq.write_table(
        pa.table(
            {
                "n": pa.array([dice.choice([None, 1, 2, 3]) for _ in range(size)], pa.int32()),
                "word": pa.array([dice.choice([None, "a", "b", "é", ""]) for _ in range(size)]),
                "order": pa.array(
                    [dice.choice([None, 0.5, -1.0, float("nan")]) for _ in range(size)]
                ),
            }
        ),
        path,
        row_group_size=64,
    )
    return path


async def walk(engine: Engine, file: Path, order: list[SortKey], limit: int) -> list[int]:
    """Places of all rows, page by page."""
    places: list[int] = []
    after: int | None = None
    for _ in range(1_000):
        query = page_query(
            str(file),
            select=parse_select("word", COLUMNS),
            condition=compile_filter("n is null or n < 3", COLUMNS),
            order=order,
            after=after,
            limit=limit,
        )
        found = (await engine.table(query)).column(PLACE).to_pylist()
        places += found[:limit]
        if len(found) <= limit:
            return places
        after = found[limit - 1]
    raise AssertionError("endless")


KEYS = st.permutations(["n", "word", "order"]).flatmap(
    lambda names: st.lists(st.booleans(), max_size=3).map(
        lambda signs: [
            ("-" if down else "") + name for name, down in zip(names, signs, strict=False)
        ]
    )
)


@given(names=KEYS, limit=st.integers(23, 150))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_pages_in_any_order_are_one_sequence(
    engine: Engine, file: Path, names: list[str], limit: int
) -> None:
    order = parse_order(",".join(names), COLUMNS) if names else []
    whole = page_query(
        str(file),
        select=parse_select(None, COLUMNS),
        condition=compile_filter("n is null or n < 3", COLUMNS),
        order=order,
        after=None,
        limit=1_000,
    )
    expected = (await engine.table(whole)).column(PLACE).to_pylist()
    assert await walk(engine, file, order, limit) == expected
    assert len(set(expected)) == len(expected)


async def test_nan_is_found_by_no_comparison_and_by_not_null(engine: Engine, file: Path) -> None:
    rows = pq.read_table(file).to_pylist()
    nan = sum(row["order"] != row["order"] for row in rows)
    number = sum(row["order"] in (0.5, -1.0) for row in rows)
    assert nan > 0
    for text, expected in (
        ('"order" > -5', number),
        ('"order" <= 5', number),
        ('not "order" > 5', number),
        ('"order" is not null', number + nan),
    ):
        query = count_query(str(file), compile_filter(text, COLUMNS))
        assert await engine.count(query) == expected, text


async def test_a_place_beyond_the_file_gives_nothing(engine: Engine, file: Path) -> None:
    for order in ([], parse_order("n", COLUMNS)):
        query = page_query(
            str(file),
            select=parse_select("n", COLUMNS),
            condition=ALWAYS,
            order=order,
            after=10**9,
            limit=10,
        )
        assert (await engine.table(query)).num_rows == 0


async def test_counting(engine: Engine, file: Path) -> None:
    condition = compile_filter("word = 'é' and n = 2", COLUMNS)
    table = pq.read_table(file).to_pylist()
    expected = sum(row["word"] == "é" and row["n"] == 2 for row in table)
    assert await engine.count(count_query(str(file), condition)) == expected


async def test_time_and_memory_are_bounded(file: Path) -> None:
    slow = Engine(memory_mb=256, timeout_s=1)
    endless = Query("SELECT count(*) FROM range(100000000000) a, range(1000) b", ())
    with pytest.raises(QueryTimeout) as refused:
        await slow.count(endless)
    assert refused.value.headers["Retry-After"]
    assert await slow.count(count_query(str(file), ALWAYS)) == 400
    hungry = Query("SELECT list(a::VARCHAR || repeat('x', 1000)) FROM range(10000000) t(a)", ())
    with pytest.raises(PageTooLarge):
        await Engine(memory_mb=64, timeout_s=20).table(hungry)


async def test_nothing_can_be_loosened_from_a_query(engine: Engine) -> None:
    for statement in ("SET threads = 64", "SET enable_external_access = true"):
        with pytest.raises(Exception, match=r"configuration|disabled|locked"):
            await engine.count(Query(statement, ()))
