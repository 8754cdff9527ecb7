"""When use looks unusual: pure decisions over figures that were read. No I/O.

A finding says what was seen, not that it was wrong: an operator decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from market.kernel.ids import show
from market.surveillance.rules import PPM, Finding, Rule


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """What counts as unusual.

    A spike is an hour with at least ``spike_units`` (times ``SPIKE_SCALES``) and more than
    ``spike_factor`` times the grant's busiest hour before it. Scraping is at least
    ``scrape_pages`` pages, each following another, with ``scrape_ppm`` of all rows of the version.
    A new address counts once the grant has ``address_deliveries`` from others, a new country once
    it has ``country_deliveries`` from others that are known.
    """

    spike_units: int = 1_000
    spike_factor: int = 5
    scrape_pages: int = 5
    scrape_ppm: int = 900_000
    address_deliveries: int = 20
    country_deliveries: int = 20


# A thousand rows and a thousand bytes are not the same stir.
SPIKE_SCALES = {"byte": 1_024, "millisecond": 20}


@dataclass(frozen=True, slots=True)
class Reader:
    """A grant and whose it is."""

    grant_id: UUID
    agreement_id: UUID
    plan_id: UUID
    buyer_id: UUID
    seller_id: UUID


@dataclass(frozen=True, slots=True)
class Volume:
    """Units of the last hour, and of the busiest hour before; ``hours`` had use before."""

    reader: Reader
    at: datetime
    unit: str
    units: int
    busiest_units: int
    hours: int


@dataclass(frozen=True, slots=True)
class Walk:
    """Pages of one query that follow one another, and the rows that they hold together."""

    reader: Reader
    at: datetime
    pages: int
    rows: int
    version_rows: int


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An address without earlier deliveries; ``earlier`` came from others."""

    reader: Reader
    at: datetime
    address: str
    earlier: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A newcomer whose country is known; ``before`` are earlier deliveries by known country."""

    newcomer: Newcomer
    country: str
    before: Mapping[str, int]


def spikes(volumes: Sequence[Volume], limits: WatchLimits) -> list[Finding]:
    """Sudden volume against the grant's own history; without history there is none."""
    return [
        _finding(
            Rule.USAGE_SPIKE,
            item.reader,
            item.at,
            {
                "unit": item.unit,
                "units": item.units,
                "busiest_units": item.busiest_units,
                "hours": item.hours,
            },
        )
        for item in volumes
        if item.hours > 0
        and item.units >= limits.spike_units * SPIKE_SCALES.get(item.unit, 1)
        and item.units > limits.spike_factor * item.busiest_units
    ]


def scrapes(walks: Sequence[Walk], limits: WatchLimits) -> list[Finding]:
    """Nearly all of a version, page after page."""
    return [
        _finding(
            Rule.USAGE_SCRAPING,
            item.reader,
            item.at,
            {"pages": item.pages, "rows": item.rows, "version_rows": item.version_rows},
        )
        for item in walks
        if item.pages >= limits.scrape_pages
        and item.rows * PPM >= limits.scrape_ppm * item.version_rows
    ]


def newcomers(found: Sequence[Newcomer], limits: WatchLimits) -> list[Finding]:
    """Use from an address that the grant was never used from."""
    return [
        _finding(
            Rule.USAGE_ADDRESS,
            item.reader,
            item.at,
            {"address": item.address, "earlier_deliveries": item.earlier},
            more=f":{item.address}",
        )
        for item in found
        if item.earlier >= limits.address_deliveries
    ]


def arrivals(found: Sequence[Arrival], limits: WatchLimits) -> list[Finding]:
    """Use from a country that the grant was never used from, each country once."""
    first: dict[tuple[UUID, str], Finding] = {}
    for item in found:
        earlier = sum(item.before.values())
        if item.country in item.before or earlier < limits.country_deliveries:
            continue
        reader, at, address = item.newcomer.reader, item.newcomer.at, item.newcomer.address
        figures: dict[str, int | str] = {
            "country": item.country,
            "address": address,
            "earlier_countries": ", ".join(sorted(item.before)),
            "earlier_deliveries": earlier,
        }
        made = _finding(Rule.USAGE_COUNTRY, reader, at, figures, more=f":{item.country}")
        first.setdefault((reader.grant_id, item.country), made)
    return list(first.values())


def _finding(
    rule: Rule, reader: Reader, at: datetime, figures: dict[str, int | str], *, more: str = ""
) -> Finding:
    return Finding(
        rule=rule,
        subject=f"{show('grt', reader.grant_id)}{more}",
        at=at,
        figures={"agreement_id": show("agr", reader.agreement_id), **figures},
        parties=(reader.buyer_id, reader.seller_id),
        plan_id=reader.plan_id,
    )
