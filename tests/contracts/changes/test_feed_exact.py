"""Applying the feed to the older version gives the newer one exactly."""

import math
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from contracts.changes.feeds import write
from contracts.changes.sql import Comparison, Side
from contracts.delivery.engine import Engine, engine_of
from listings.row_filter import ALWAYS

MARK = "_change"
TYPES = {
    "id": pa.int64(),
    "zone": pa.string(),
    "value": pa.float64(),
    "tags": pa.list_(pa.int32()),
    "added": pa.string(),
}
OLD = ("id", "zone", "value", "tags")
NEW = ("id", "zone", "value", "tags", "added")

Row = tuple[Any, ...]

_values = st.one_of(
    st.none(), st.sampled_from([0.0, 1.5, -2.25, math.nan, math.inf]), st.floats(width=32)
)
_tags = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=2))
_zones = st.sampled_from(["", "a", "b'", "中文"])
_rest = st.tuples(_values, _tags)
_keys = st.tuples(st.integers(-3, 12), _zones)
_keyed = st.dictionaries(_keys, _rest, max_size=12)
_added = st.sampled_from([None, "x", "y"])
_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), _zones), _values, _tags
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(128, 60)


def _write(path: Path, names: tuple[str, ...], rows: list[Row]) -> Side:
    columns = {
        name: pa.array([row[i] for row in rows], TYPES[name]) for i, name in enumerate(names)
    }
    # A name of its own: files that have been read do not change.
    path = path.with_name(f"{uuid4().hex}-{path.name}")
    pq.write_table(pa.table(columns), path)
    return Side(str(path), names, ALWAYS)


def _plain(row: Row) -> Row:
    """Comparable: NaN equals itself, -0.0 is 0.0 (as the feed has it), lists are hashable."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return "nan" if math.isnan(value) else value + 0.0
        return tuple(value) if isinstance(value, list) else value

    return tuple(plain(value) for value in row)


def _wide(rows: list[Row]) -> list[Row]:
    return [_plain((*row, None)) for row in rows]


async def _feed(
    engine: Engine, folder: Path, comparison: Comparison, parts: int
) -> list[tuple[str, Row]]:
    target = folder / f"feed-{parts}.parquet"
    await write(engine, comparison, parts, target)
    table = pq.read_table(target)
    assert table.column_names == [MARK, *NEW]
    assert [table.schema.field(name).type for name in NEW] == [TYPES[name] for name in NEW]
    return [(row[0], _plain(row[1:])) for row in zip(*table.to_pydict().values(), strict=True)]


@pytest.mark.parametrize("parts", [1, 5])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=_keyed, new=st.dictionaries(_keys, st.tuples(_rest, _added), max_size=12))
async def test_by_key(
    engine: Engine, tmp_path: Path, parts: int, old: dict[Any, Any], new: dict[Any, Any]
) -> None:
    # Some of the old rows stay as they were.
    for place, key in enumerate(sorted(old)):
        if place % 2:
            new[key] = (old[key], None)
    before = [(*key, *rest) for key, rest in old.items()]
    after = [(*key, *rest, added) for key, (rest, added) in new.items()]
    comparison = Comparison(
        _write(tmp_path / "a.parquet", OLD, before),
        _write(tmp_path / "b.parquet", NEW, after),
        ("zone", "id"),
        MARK,
    )
    feed = await _feed(engine, tmp_path, comparison, parts)
    state = {row[:2]: row for row in _wide(before)}
    for change, row in feed:
        known = state.get(row[:2])
        if change == "insert":
            assert known is None
            state[row[:2]] = row
        elif change == "update":
            assert known is not None
            assert known != row
            state[row[:2]] = row
        else:
            assert known == row
            del state[row[:2]]
    assert state == {row[:2]: row for row in map(_plain, after)}
    assert len({row[:2] for _, row in feed}) == len(feed)


@pytest.mark.parametrize("parts", [1, 5])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=_rows, new=st.lists(st.tuples(st.integers(0, 11), _added), max_size=12), fresh=_rows)
async def test_by_row(
    engine: Engine,
    tmp_path: Path,
    parts: int,
    old: list[Row],
    new: list[tuple[int, str | None]],
    fresh: list[Row],
) -> None:
    after = [(*old[place], added) for place, added in new if place < len(old)]
    after += [(*row, None) for row in fresh]
    comparison = Comparison(
        _write(tmp_path / "a.parquet", OLD, old),
        _write(tmp_path / "b.parquet", NEW, after),
        (),
        MARK,
    )
    feed = await _feed(engine, tmp_path, comparison, parts)
    state = Counter(_wide(old))
    for change, row in feed:
        state[row] += 1 if change == "insert" else -1
        assert change in ("insert", "delete")
    wanted = Counter(map(_plain, after))
    assert {row: n for row, n in state.items() if n} == dict(wanted)
    # Nothing comes and goes: the feed is as short as it can be.
    assert len(feed) == sum(
        ((wanted - Counter(_wide(old))) + (Counter(_wide(old)) - wanted)).values()
    )


async def test_the_order_does_not_depend_on_the_parts(engine: Engine, tmp_path: Path) -> None:
    before = [(i, "a", i / 2, [i]) for i in range(500)]
    after = [(i, "a", i / 2 + (i % 3), [i], None) for i in range(100, 700)]
    sides = (
        _write(tmp_path / "a.parquet", OLD, before),
        _write(tmp_path / "b.parquet", NEW, after),
    )
    for key in ((), ("id",)):
        feeds = [
            await _feed(engine, tmp_path, Comparison(*sides, key, MARK), parts)
            for parts in (1, 2, 7, 64)
        ]
        assert feeds[0] == feeds[1] == feeds[2] == feeds[3]
        assert len(feeds[0]) > 300
