"""The database itself keeps plans frozen, shares whole and history append-only."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from market.kernel.ids import new_id
from tests.conftest import TestDatabase

Connection = psycopg.Connection[tuple[Any, ...]]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN: dict[str, Any] = {
    "kind": "metered",
    "currency": "CNY",
    "price_minor": 100,
    "unit": "row",
    "lot_units": 1_000,
    "term_days": 30,
    "acceptance_window_days": 7,
    "status": "active",
    "created_at": NOW,
    "retired_at": None,
}


@pytest.fixture
def app(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        yield connection


def insert(connection: Connection, table: str, **values: Any) -> None:
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.execute(
        f"INSERT INTO pricing.{table} ({names}) VALUES ({marks})", [*values.values()]
    )


def insert_plan(connection: Connection, **changes: Any) -> UUID:
    plan_id = new_id()
    ids = {"id": plan_id, "listing_id": new_id(), "seller_id": new_id()}
    insert(connection, "plan", **{**ids, **PLAN, **changes})
    return plan_id


@pytest.mark.parametrize(
    "changes",
    [
        {"price_minor": 0},
        {"price_minor": -1},
        {"price_minor": 10**15 + 1},
        {"lot_units": 0},
        {"unit": "license"},
        {"kind": "license"},
        {"kind": "license", "unit": "license", "lot_units": 2},
        {"kind": "gift"},
        {"currency": "cny"},
        {"term_days": 0},
        {"acceptance_window_days": -1},
        {"status": "retired"},
        {"retired_at": NOW},
    ],
)
def test_a_plan_out_of_bounds_cannot_be_stored(app: Connection, changes: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert_plan(app, **changes)
    assert app.execute("SELECT count(*) FROM pricing.plan").fetchone() == (0,)


def test_terms_of_a_plan_are_frozen_for_application_and_owner(
    app: Connection, owner: Connection
) -> None:
    plan_id = insert_plan(owner)
    for statement in (
        "UPDATE pricing.plan SET price_minor = 1 WHERE id = %s",
        "UPDATE pricing.plan SET seller_id = id WHERE id = %s",
        "DELETE FROM pricing.plan WHERE id = %s",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(statement, [plan_id])
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner.execute(statement, [plan_id])
    retire = "UPDATE pricing.plan SET status = 'retired', retired_at = now() WHERE id = %s"
    app.execute(retire, [plan_id])
    back = "UPDATE pricing.plan SET status = 'active', retired_at = NULL WHERE id = %s"
    for statement in (retire, back):
        with pytest.raises(psycopg.errors.RestrictViolation):
            app.execute(statement, [plan_id])
    assert owner.execute(
        "SELECT status, price_minor FROM pricing.plan WHERE id = %s", [plan_id]
    ).fetchone() == ("retired", 100)


def insert_shares(
    connection: Connection,
    listing_id: UUID,
    parts: list[tuple[UUID, int]],
    *,
    total: int,
    version: int = 1,
) -> None:
    with connection.transaction():
        insert(
            connection,
            "share_version",
            listing_id=listing_id,
            version=version,
            total_ppm=total,
            set_by=new_id(),
            created_at=NOW,
        )
        for position, (party_id, ppm) in enumerate(parts, 1):
            insert(
                connection,
                "share",
                listing_id=listing_id,
                version=version,
                position=position,
                party_id=party_id,
                ppm=ppm,
            )


def test_shares_add_up_to_their_stated_total_below_the_whole(app: Connection) -> None:
    listing_id, party = new_id(), new_id()
    for parts, total in (
        ([(party, 100)], 101),
        ([], 1),
        ([(party, 600_000), (new_id(), 400_000)], 1_000_000),
        ([(party, 0)], 0),
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            insert_shares(app, listing_id, parts, total=total)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert_shares(app, listing_id, [(party, 1), (party, 2)], total=3)
    assert app.execute("SELECT count(*) FROM pricing.share_version").fetchone() == (0,)

    insert_shares(app, listing_id, [(party, 600_000), (new_id(), 399_999)], total=999_999)
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(
            app,
            "share",
            listing_id=listing_id,
            version=1,
            position=3,
            party_id=new_id(),
            ppm=1,
        )
    assert app.execute("SELECT sum(ppm) FROM pricing.share").fetchone() == (999_999,)


def test_history_is_append_only_even_for_the_owner(app: Connection, owner: Connection) -> None:
    insert_shares(app, new_id(), [(new_id(), 5)], total=5)
    for table in ("share_version", "share", "valuation", "observation"):
        for statement in (f"DELETE FROM pricing.{table}", f"TRUNCATE pricing.{table} CASCADE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
            with pytest.raises(psycopg.errors.RestrictViolation):
                owner.execute(statement)
