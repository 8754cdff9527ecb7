"""The filter language: what it means, what it refuses, and that nothing escapes it."""

import duckdb
import pytest
from hypothesis import example, given, settings, strategies as st

from listings.errors import FilterInvalid
from listings.row_filter import FILTER_MAX_DEPTH, Condition, compile_filter
from listings.typed_columns import Family, columns_of, family_of

COLUMNS = columns_of(
    [
        {"name": "carrier", "type": "VARCHAR"},
        {"name": "dep_delay", "type": "DOUBLE"},
        {"name": "flight", "type": "BIGINT"},
        {"name": "price", "type": "DECIMAL(10,2)"},
        {"name": "late", "type": "BOOLEAN"},
        {"name": "day", "type": "DATE"},
        {"name": "moment", "type": "TIMESTAMP"},
        {"name": "exact", "type": "TIMESTAMP_NS"},
        {"name": "tags", "type": "VARCHAR[]"},
        {"name": 'od"d name', "type": "VARCHAR"},
        {"name": "航班", "type": "VARCHAR"},
    ]
)

ROWS = (
    "SELECT * FROM (VALUES "
    "('UA', 20.5, 1, 1.25, true, DATE '2013-01-01', TIMESTAMP '2013-01-01 05:00',"
    " TIMESTAMP_NS '2013-01-01 05:00:00.000000001', ['a'], 'x',"
    " '甲'),"
    "('AA', NULL, 2, 9.99, false, DATE '2013-02-01', TIMESTAMP '2013-02-01 06:00',"
    " TIMESTAMP_NS '2013-02-01 06:00', ['b'], 'y',"
    " '乙'),"
    "(NULL, -3, 3, 0.10, NULL, NULL, NULL, NULL, NULL, 'O''Hare', NULL)"
    ') t(carrier, dep_delay, flight, price, late, day, moment, exact, tags, "od""d name", 航班)'
)


def matching(text: str) -> list[int]:
    """Flight numbers that the filter selects, by really running it."""
    condition = compile_filter(text, COLUMNS)
    connection = duckdb.connect(":memory:")
    found = connection.execute(
        f"SELECT flight FROM ({ROWS}) t WHERE {condition.sql} ORDER BY flight",
        list(condition.parameters),
    ).fetchall()
    connection.close()
    return [row[0] for row in found]


@pytest.mark.parametrize(
    ("text", "flights"),
    [
        ("carrier = 'UA' and dep_delay > 15", [1]),
        ("carrier = 'UA' or flight = 3", [1, 3]),
        ("NOT carrier = 'UA'", [2]),
        ("carrier is null", [3]),
        ("carrier IS NOT NULL", [1, 2]),
        ("flight in (1, 3)", [1, 3]),
        ("flight not in (1, 3)", [2]),
        ("carrier like '_A'", [1, 2]),
        ("carrier not like 'U%'", [2]),
        ("price = 9.99", [2]),
        ("price <= 1.25", [1, 3]),
        ("dep_delay >= -3e0", [1, 3]),
        ("flight < 2.5", [1, 2]),
        ("late = true", [1]),
        ("late != true", [2]),
        ("day >= '2013-02-01'", [2]),
        ("moment < '2013-01-01T05:00:01Z'", [1]),
        ("moment > '0001-01-01' and day < '9999-12-31'", [1, 2]),
        ("exact > '1678-01-01' and exact < '2261-12-31T23:59:59.999999'", [1, 2]),
        ("exact = '2013-02-01T07:00+01:00'", [2]),
        ("\"od\"\"d name\" = 'O''Hare'", [3]),
        ("航班 = '甲'", [1]),
        ("tags is null", [3]),
        ("(carrier = 'UA' or carrier = 'AA') and not (flight = 1)", [2]),
        ("flight = 1 or flight = 2 and carrier = 'zz'", [1]),
        ("  ", [1, 2, 3]),
    ],
)
def test_meaning(text: str, flights: list[int]) -> None:
    assert matching(text) == flights


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("nope = 1", 0),
        ("carrier = 1", 10),
        ("flight = 'a'", 9),
        ("flight = 1 flight", 11),
        ("flight", 6),
        ("flight in ()", 11),
        ("flight in (1, ", 14),
        ("carrier = 'open", 10),
        ("late > true", 5),
        ("tags = 'a'", 7),
        ("flight like '1'", 12),
        ("day = '2013-13-01'", 6),
        ("day = '10000-01-01'", 6),
        ("exact > '1677-12-31T23:59:59'", 8),
        ("exact < '2262-01-01'", 8),
        ("flight = 1; drop table x", 10),
        ("flight = 1 -- x", 11),
        ("flight = (select 1)", 9),
        ("flight = 99999999999999999999", 9),
        ("dep_delay = 1e999", 12),
        ("flight = nan", 9),
        ("and = 1", 0),
        ("carrier = 'a\x00'", 12),
        ("flight = flight", 9),
        ("lower(carrier) = 'ua'", 0),
    ],
)
def test_refusal_names_the_position(text: str, position: int) -> None:
    with pytest.raises(FilterInvalid) as refused:
        compile_filter(text, COLUMNS)
    assert refused.value.status == 422
    assert refused.value.extra["position"] == position


@pytest.mark.parametrize(
    "injection",
    [
        "' OR 1=1 --",
        "x'; DROP TABLE t; --",
        "' UNION SELECT * FROM read_csv('/etc/passwd') --",
        "\\",
    ],
)
def test_injection_stays_a_literal(injection: str) -> None:
    escaped = injection.replace("'", "''")
    condition = compile_filter(f"carrier = '{escaped}'", COLUMNS)
    assert condition == Condition('(t."carrier" = ?)', (injection,))
    assert matching(f"carrier = '{escaped}'") == []


def test_nesting_is_bounded() -> None:
    fine = "(" * FILTER_MAX_DEPTH + "flight = 1" + ")" * FILTER_MAX_DEPTH
    assert matching(fine) == [1]
    for text in ("(" * 2_000, "not " * 1_000 + "flight = 1", "(" * 500 + "flight = 1" + ")" * 500):
        with pytest.raises(FilterInvalid):
            compile_filter(text, COLUMNS)


WORDS = "carrier flight and or not in is null like ( ) , = < 'a' '' 1 -1.5 1e9 true"
MARKS = '"carrier" -- ; /* \' " \\ é ٣'
PIECES = st.sampled_from([*WORDS.split(), *MARKS.split()])


@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map(" ".join)))
@settings(max_examples=600, deadline=None)
@example("flight = ٣")
@example("carrier = '\ud800'")
def test_any_text_compiles_or_is_refused_and_never_reaches_the_sql(text: str) -> None:
    try:
        condition = compile_filter(text, COLUMNS)
    except FilterInvalid as error:
        position = error.extra["position"]
    else:
        position = None
    if position is not None:
        assert 0 <= position <= len(text)
        return
    assert condition.sql.count("?") == len(condition.parameters)
    for forbidden in ("--", ";", "/*", "'", "\\"):
        assert forbidden not in condition.sql


@given(st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
@settings(max_examples=300, deadline=None)
def test_every_string_survives_as_its_own_parameter(value: str) -> None:
    quoted = "'" + value.replace("'", "''") + "'"
    if len(quoted) > 4_000:
        return
    assert compile_filter(f"carrier = {quoted}", COLUMNS).parameters == (value,)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("int64", Family.INTEGER),
        ("UBIGINT", Family.INTEGER),
        ("double", Family.FLOAT),
        ("decimal128(10, 2)", Family.DECIMAL),
        ("large_string", Family.TEXT),
        ("date32[day]", Family.DATE),
        ("timestamp[us]", Family.TIMESTAMP),
        ("timestamp[us, tz=UTC]", Family.TIMESTAMP_UTC),
        ("TIMESTAMP WITH TIME ZONE", Family.TIMESTAMP_UTC),
        ("time64[us]", Family.TIME),
        ("BIGINT[]", Family.OTHER),
        ("BIGINT[3]", Family.OTHER),
        ("STRUCT(a INTEGER)", Family.OTHER),
        ("BLOB", Family.OTHER),
        ("INTERVAL", Family.OTHER),
    ],
)
def test_families(name: str, family: Family) -> None:
    assert family_of(name) is family
