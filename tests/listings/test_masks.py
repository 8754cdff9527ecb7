"""Masks as DuckDB computes them, and what versions refuse."""

import hmac
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import TypeAdapter, ValidationError

from listings.columns import quoted
from listings.errors import FilterInvalid, MaskInvalid
from listings.mask_schemas import Mask
from listings.masks import blurred, masked_columns, require_maskable
from listings.policy_schemas import Policy
from tests.listings.factories import listing_body

KEY = b"k" * 32
COLUMNS = [
    {"name": name, "type": type_}
    for name, type_ in (
        ("tiny", "TINYINT"),
        ("big", "BIGINT"),
        ("natural", "UBIGINT"),
        ("price", "DECIMAL(18,2)"),
        ("wide", "DECIMAL(38,0)"),
        ("level", "DOUBLE"),
        ("single", "FLOAT"),
        ("text", "VARCHAR"),
        ("day", "DATE"),
        ("moment", "TIMESTAMP"),
        ("fine", "TIMESTAMP_NS"),
        ("zoned", "TIMESTAMP WITH TIME ZONE"),
        ("flag", "BOOLEAN"),
    )
]
TYPES = {column["name"]: column["type"] for column in COLUMNS}


at = datetime.fromisoformat


def mask(column: str, kind: str, **more: Any) -> Mask:
    """A mask as the API takes it."""
    parsed: Mask = TypeAdapter(Mask).validate_python({"kind": kind, "column": column, **more})
    return parsed


DATABASE = duckdb.connect(":memory:", config={"autoload_known_extensions": False})


def run(one: Mask, values: list[Any], key: bytes = KEY) -> list[Any]:
    """The column's values masked; their type must stay."""
    require_maskable([one], None, COLUMNS)
    column = {"name": one.column, "type": TYPES[one.column]}
    DATABASE.execute(f"CREATE OR REPLACE TABLE t ({quoted(one.column)} {column['type']})")
    if values:
        places = ", ".join(["(?)"] * len(values))
        DATABASE.execute(f"INSERT INTO t VALUES {places}", values)
    query = masked_columns([one], [column], key)
    found = DATABASE.sql(f"SELECT {query.sql} FROM t", params=list(query.parameters))
    assert [str(each) for each in found.types] == [column["type"]]
    return [row[0] for row in found.fetchall()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=1, max_size=20), st.integers(1, 127))
def test_whole_numbers_are_rounded_towards_zero(values: list[int], step: int) -> None:
    expected = [math.trunc(Decimal(value) / step) * step for value in values]
    assert run(mask("tiny", "round", step=str(step)), values) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.decimals(-(10**15), 10**15, places=2), min_size=1, max_size=20),
    st.sampled_from(["0.05", "0.5", "1", "2.5", "1000"]),
)
def test_decimals_are_rounded_exactly(values: list[Decimal], step: str) -> None:
    width = Decimal(step)
    assert run(mask("price", "round", step=step), values) == [v - v % width for v in values]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.sampled_from(["0.01", "0.5", "1", "7", "1000"]),
)
def test_doubles_lose_what_is_below_the_step(values: list[float], step: str) -> None:
    width = float(step)
    for value, found in zip(values, run(mask("level", "round", step=step), values), strict=True):
        assert abs(found) <= abs(value) * (1 + 1e-12)
        assert abs(value - found) <= width * (1 + 1e-6)
        if abs(value) < width * 2**53:
            assert found == math.trunc(value / width) * width


def test_numbers_at_their_limits_stay_in_them() -> None:
    assert run(mask("big", "round", step="1000"), [-(2**63), 2**63 - 1, None]) == [
        -9223372036854775000,
        9223372036854775000,
        None,
    ]
    assert run(mask("natural", "round", step="10"), [2**64 - 1]) == [18446744073709551610]
    assert run(mask("wide", "round", step="7"), [Decimal(10**38 - 1)]) == [Decimal(10**38 - 2)]
    found = run(mask("level", "round", step="0.01"), [1e308, math.inf, -math.inf, math.nan])
    assert found[:3] == [1e308, math.inf, -math.inf]
    assert math.isnan(found[3])
    assert run(mask("single", "round", step="0.5"), [1.75, -1.75]) == [1.5, -1.5]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_pseudonyms_are_hmac(values: list[str]) -> None:
    expected = [hmac.new(KEY, v.encode(), "sha256").hexdigest()[:32] for v in values]
    assert run(mask("text", "pseudonym"), values) == expected


def test_pseudonyms_depend_on_the_key_alone() -> None:
    one = mask("text", "pseudonym")
    assert run(one, ["a", None, "a"]) == run(one, ["a", None, "a"])
    assert run(one, ["a"]) != run(one, ["a"], b"other")
    long = b"x" * 100
    assert run(one, ["a"], long) == [hmac.new(long, b"a", "sha256").hexdigest()[:32]]


def test_texts_keep_their_first_characters() -> None:
    values = ["北京市海淀区", "ab", "", None]
    assert run(mask("text", "prefix", characters=3), values) == ["北京市", "ab", "", None]
    assert run(mask("text", "prefix", characters=0), values) == ["", "", "", None]


@pytest.mark.parametrize(
    ("to", "day", "moment"),
    [
        ("day", date(2024, 5, 17), at("2024-05-17")),
        ("week", date(2024, 5, 13), at("2024-05-13")),
        ("month", date(2024, 5, 1), at("2024-05-01")),
        ("quarter", date(2024, 4, 1), at("2024-04-01")),
        ("year", date(2024, 1, 1), at("2024-01-01")),
    ],
)
def test_times_become_the_beginning_of_their_span(to: str, day: date, moment: datetime) -> None:
    given_at = at("2024-05-17T23:59:58.123456")
    assert run(mask("day", "truncate", to=to), [given_at.date(), None]) == [day, None]
    assert run(mask("moment", "truncate", to=to), [given_at]) == [moment]
    assert run(mask("fine", "truncate", to=to), [given_at]) == [moment]


def test_hours_and_zones() -> None:
    given_at = at("2024-05-17T23:59:58")
    assert run(mask("moment", "truncate", to="hour"), [given_at]) == [at("2024-05-17T23:00")]
    one = mask("zoned", "truncate", to="day")
    query = masked_columns([one], [{"name": "zoned", "type": TYPES["zoned"]}], KEY)
    for zone in ("UTC", "Asia/Shanghai"):
        t = pa.table({"zoned": pa.array([given_at], pa.timestamp("us", zone))})
        DATABASE.register("zoned", t)
        found = DATABASE.sql(f"SELECT {query.sql} FROM zoned t").to_arrow_table()["zoned"]
        assert found[0].as_py().astimezone(UTC) == at("2024-05-17T00:00Z")


def test_everything_can_be_hidden() -> None:
    for name in TYPES:
        assert run(mask(name, "hide"), [None]) == [None]
    assert run(mask("flag", "hide"), [True, False]) == [None, None]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (mask("none", "hide"), "no column"),
        (mask("big", "pseudonym"), "takes no pseudonym"),
        (mask("day", "prefix", characters=1), "takes no prefix"),
        (mask("text", "round", step="1"), "takes no round"),
        (mask("big", "truncate", to="day"), "takes no truncate"),
        (mask("day", "truncate", to="hour"), "takes no truncate"),
        (mask("flag", "round", step="1"), "takes no round"),
        (mask("tiny", "round", step="128"), "has no 128"),
        (mask("big", "round", step="0.5"), r"has no 0\.5"),
        (mask("price", "round", step="0.005"), r"has no 0\.005"),
        (mask("wide", "round", step="0.1"), r"has no 0\.1"),
    ],
    ids=lambda each: each if isinstance(each, str) else f"{each.kind}_{each.column}",
)
def test_masks_that_do_not_fit_are_refused(one: Mask, why: str) -> None:
    with pytest.raises(MaskInvalid, match=why) as refused:
        require_maskable([mask("flag", "hide"), one], None, COLUMNS)
    assert refused.value.param == "policy.masks.1"


def test_a_row_filter_must_fit_the_version() -> None:
    require_maskable([], "price > 10 and day >= '2024-01-01'", COLUMNS)
    with pytest.raises(FilterInvalid) as refused:
        require_maskable([], "missing = 1", COLUMNS)
    assert refused.value.param == "policy.row_filter"


def test_only_pseudonyms_keep_what_differs_apart() -> None:
    masks = [mask("text", "pseudonym"), mask("big", "round", step="5"), mask("flag", "hide")]
    assert blurred(masks) == {"big", "flag"}


@pytest.mark.parametrize(
    "clauses",
    [
        {"masks": [{"kind": "hide", "column": "a"}, {"kind": "hide", "column": "a"}]},
        {"masks": [{"kind": "hide", "column": "b"}], "fingerprint": True},
        {"masks": [{"kind": "prefix", "column": "a", "characters": 1}], "fingerprint": True},
        {"masks": [{"kind": "round", "column": "a", "step": "0"}]},
        {"masks": [{"kind": "blur", "column": "a"}]},
        {"row_filter": ""},
    ],
    ids=["twice", "marked", "key", "step", "kind", "empty"],
)
def test_policies_that_contradict_themselves(clauses: dict[str, Any]) -> None:
    policy = {**listing_body("")["policy"], **clauses}
    if clauses.get("fingerprint"):
        policy["fingerprint"] = {"keys": ["a"], "columns": [{"name": "b", "tolerance": "1"}]}
    with pytest.raises(ValidationError):
        Policy.model_validate(policy)
