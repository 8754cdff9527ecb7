"""New countries: from an operator's file, when there is one and it can be read."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import maxminddb
import pytest
from fastapi import FastAPI

from contracts.usage_hold_models import UsageSuspicion
from market.kernel.context import Kernel
from market.operations.sandbox import AdvanceClock, advance_clock
from market.surveillance.rules import Rule
from market.usage import countries, watch
from market.usage.watch import Arrival, Newcomer, Reader, Volume, WatchLimits
from market.usage.watch_job import examine_usage
from tests.contracts.factories import Trade, make_trade, mint
from tests.listings.factories import any_operator
from tests.market.usage.mmdb import write_mmdb
from tests.market.usage.test_watch import Reading, alerts, guard, reading_of

CN, OTHER_CN, DE, NOWHERE = "192.0.2.1", "192.0.2.200", "198.51.100.9", "203.0.113.5"
KNOWN = {
    "192.0.2.0/24": "CN",
    "198.51.100.0/24": "DE",
    "2001:db8::/32": "FR",
    "203.0.113.128/25": {"registered_country": {"iso_code": "US"}},
    "203.0.113.64/26": {"country": {"names": {"en": "Atlantis"}}},
}
LIMITS = WatchLimits(spike_units=10**6, address_deliveries=10**6, country_deliveries=3)


@pytest.fixture(scope="module")
def country_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mmdb") / "countries.mmdb"
    write_mmdb(path, KNOWN)
    return path


@pytest.fixture(scope="module")
async def shop(kernel: Kernel) -> Trade:
    return await make_trade(kernel, lots=1, lot_units=10_000, rows=20)


@pytest.fixture
async def reading(app: FastAPI, kernel: Kernel, shop: Trade) -> Reading:
    return await reading_of(app, kernel, shop)


def watching(kernel: Kernel, database: Path | None) -> Kernel:
    settings = kernel.settings.model_copy(update={"country_database": database})
    return replace(kernel, settings=settings)


@pytest.mark.parametrize(
    ("address", "country"),
    [
        (CN, "CN"),
        (f"::ffff:{DE}", "DE"),
        ("2001:db8::7", "FR"),
        ("203.0.113.200", "US"),
        ("203.0.113.70", None),
        (NOWHERE, None),
        ("fe80::1%eth0", None),
        ("testclient", None),
        ("", None),
    ],
)
def test_the_country_of_an_address(country_file: Path, address: str, country: str | None) -> None:
    with maxminddb.open_database(country_file) as reader:
        assert countries.country_of(reader, address) == country


def arrival(country: str, address: str, **before: int) -> Arrival:
    reader = Reader(*(UUID(int=number) for number in range(1, 6)))
    return Arrival(Newcomer(reader, datetime.now(UTC), address, 9), country, before)


def test_which_countries_are_new() -> None:
    found = watch.arrivals(
        [
            arrival("DE", DE, CN=2, FR=1),
            arrival("DE", "198.51.100.10", CN=2, FR=1),
            arrival("CN", OTHER_CN, CN=20),
            arrival("US", "203.0.113.200", CN=2),
            arrival("IT", "2001:db8::9"),
        ],
        LIMITS,
    )
    (finding,) = found
    assert finding.rule is Rule.USAGE_COUNTRY
    assert finding.subject.endswith(":DE")
    wanted = {
        "country": "DE",
        "address": DE,
        "earlier_countries": "CN, FR",
        "earlier_deliveries": 3,
    }
    assert finding.figures.items() >= wanted.items()
    assert UsageSuspicion(finding.rule.value) is UsageSuspicion.COUNTRY


def test_a_spike_of_bytes_needs_more_of_them() -> None:
    reader = Reader(*(UUID(int=number) for number in range(1, 6)))
    limits = WatchLimits(spike_units=1_000, spike_factor=5)

    def seen(unit: str, units: int) -> bool:
        volume = Volume(reader, datetime.now(UTC), unit, units, 1, 1)
        return bool(watch.spikes([volume], limits))

    for unit, least in (("row", 1_000), ("byte", 1_024_000), ("millisecond", 20_000)):
        assert not seen(unit, least - 1)
        assert seen(unit, least)


async def test_a_country_never_seen_before_is_asked_about_and_held(
    client: httpx.AsyncClient, kernel: Kernel, reading: Reading, country_file: Path
) -> None:
    trade = reading.trade
    assert await guard(client, trade, trade.seller, "usage_country") == 200
    watcher = watching(kernel, country_file)
    for address in (CN, OTHER_CN, CN, NOWHERE):
        await reading.page(limit=1, address=address)
    # All within the hour: nothing came before it.
    assert await examine_usage(watcher, LIMITS) == 0
    reading = await later(kernel, reading)
    await reading.page(limit=1, address="192.0.2.99")
    await reading.page(limit=1, address="203.0.113.6")
    assert await examine_usage(watcher, LIMITS) == 0
    await reading.page(limit=1, address=DE)
    assert await examine_usage(watcher, LIMITS) == 1
    assert await examine_usage(watcher, LIMITS) == 0
    (alert,) = await alerts(client, kernel, trade)
    assert (alert["rule"], alert["figures"]["country"]) == ("usage_country", "DE")
    assert alert["figures"]["address"] == DE
    assert (alert["figures"]["earlier_countries"], alert["figures"]["earlier_deliveries"]) == (
        "CN",
        3,
    )
    held = await reading.get(limit=1)
    assert (held.status_code, held.json()["code"]) == (403, "grant_suspended")


@pytest.mark.parametrize("content", [None, b"", b"no database", b"\xab\xcd\xefMaxMind.com\xe0"])
async def test_without_a_readable_file_there_is_no_country_and_nothing_breaks(
    kernel: Kernel, reading: Reading, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "countries.mmdb"
    if content is not None:
        path.write_bytes(content)
    await reading.page(limit=1, address=CN)
    reading = await later(kernel, reading)
    await reading.page(limit=1, address=DE)
    limits = replace(LIMITS, country_deliveries=1)
    assert await examine_usage(watching(kernel, None), limits) == 0
    assert await examine_usage(watching(kernel, path), limits) == 0
    # The address is new, as ever.
    assert await examine_usage(watching(kernel, path), replace(limits, address_deliveries=1)) == 1


async def later(kernel: Kernel, reading: Reading) -> Reading:
    """Two hours later, with a token that lives."""
    await advance_clock(kernel, any_operator(), AdvanceClock(seconds=7_200))
    return replace(reading, token=await mint(kernel, reading.trade))
