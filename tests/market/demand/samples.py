"""Listings as requests see them, for tests of the pure rules."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from listings.classification import Grade
from listings.market_facts import MarketFacts
from listings.vocabulary import Category
from market.demand.criteria import Check, Price, check
from market.demand.schemas import Constraint, Constraints
from market.kernel.schemas import LocalizedText

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PLAN = UUID(int=7)


def facts(number: int = 1, **changes: Any) -> MarketFacts:
    """A listing of 1,000 rows on 2025, quality 0.9000, ten days old."""
    plain: dict[str, Any] = {
        "listing_id": UUID(int=number),
        "version_id": UUID(int=100 + number),
        "seller_id": UUID(int=200 + number),
        "title": LocalizedText(en="Traffic"),
        "category": Category.TRANSPORT,
        "grade": Grade.GENERAL,
        "columns": ("Road", "day", "cars", "speed"),
        "regions": ("CN",),
        "periods": ((date(2025, 1, 1), date(2025, 12, 31)),),
        "rows": 1_000,
        "purposes": ("internal_analytics", "model_training"),
        "territory": ("CN",),
        "quality": 9_000,
        "latest": datetime(2026, 11, 12, 12, tzinfo=UTC),
        "text_score": 0,
        "listed_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return MarketFacts(**{**plain, **changes})


def price(minor: int, *, unit: str = "license", lot_units: int = 1, plan: UUID = PLAN) -> Price:
    """A plan in CNY."""
    return Price(plan, unit, lot_units, minor, "CNY")


def checks_of(
    listing: MarketFacts, *prices: Price, country: str = "CN", **constraints: Any
) -> dict[Constraint, Check]:
    """The checks of a listing by constraint, from a request's JSON."""
    wanted = Constraints.model_validate(constraints)
    found = check(wanted, listing, prices, country=country, now=NOW)
    return {each.constraint: each for each in found}
