"""The state machines, and that the database refuses the same steps as the code."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import psycopg
import pytest
from hypothesis import given, strategies as st

from listings.errors import IllegalTransition
from listings.lifecycle import (
    LISTING,
    PRODUCT,
    VERSION,
    Action,
    ListingStatus,
    ProductStatus,
    VersionStatus,
    advance,
)
from tests.conftest import TestDatabase

MACHINES: dict[str, tuple[Mapping[Any, Any], type[StrEnum]]] = {
    "product": (PRODUCT, ProductStatus),
    "product_version": (VERSION, VersionStatus),
    "listing": (LISTING, ListingStatus),
}


def test_listing_steps_are_exactly_these() -> None:
    assert {f"{state} {act} {target}" for (state, act), target in LISTING.items()} == {
        "draft submit in_review",
        "in_review approve listed",
        "in_review reject rejected",
        "rejected revise draft",
        "listed suspend suspended",
        "suspended resume listed",
        "listed delist delisted",
        "suspended delist delisted",
    }


def test_product_steps_are_exactly_these() -> None:
    assert {f"{state} {act} {target}" for (state, act), target in PRODUCT.items()} == {
        "draft submit in_review",
        "in_review approve registered",
        "in_review reject rejected",
        "rejected revise draft",
    }


@given(st.lists(st.sampled_from(list(Action)), max_size=30))
def test_nothing_is_listed_without_a_review(actions: list[Action]) -> None:
    status, previous = ListingStatus.DRAFT, None
    for action in actions:
        if (status, action) not in LISTING:
            with pytest.raises(IllegalTransition) as caught:
                advance(LISTING, status, action)
            assert caught.value.status == 409
            assert action not in caught.value.extra["allowed"]
            continue
        following = advance(LISTING, status, action)
        if following is ListingStatus.LISTED:
            assert status in (ListingStatus.IN_REVIEW, ListingStatus.SUSPENDED)
        assert status is not ListingStatus.DELISTED
        previous, status = status, following
    assert previous is not status


def test_refusal_names_what_is_allowed() -> None:
    with pytest.raises(IllegalTransition) as caught:
        advance(LISTING, ListingStatus.LISTED, Action.APPROVE)
    assert caught.value.extra == {"current": "listed", "allowed": ["delist", "suspend"]}


@pytest.mark.parametrize("table", sorted(MACHINES))
def test_database_knows_the_same_steps(table: str, database: TestDatabase) -> None:
    machine, statuses = MACHINES[table]
    with psycopg.connect(database.owner_url) as connection:
        row = connection.execute(
            "SELECT t.tgargs, t.tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE t.tgname = %s AND c.relnamespace = 'listings'::regnamespace",
            (f"{table}_status",),
        ).fetchone()
    assert row is not None
    steps = {argument.decode() for argument in row[0].split(b"\x00") if argument}
    assert steps == {f"{state}>{target}" for (state, _), target in machine.items()}
    assert row[1] == "A"
    assert {state for step in steps for state in step.split(">")} == set(statuses)
