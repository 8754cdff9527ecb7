"""Countries of addresses, from the operator's MMDB file (MaxMind DB format, version 2).

The market brings no such data: an operator who has a country or city database names its file in
``MARKET_COUNTRY_DATABASE``. It is opened anew at each look, so it may be replaced at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from uuid import UUID

import maxminddb

from market.kernel.logging import get_logger
from market.usage.watch import Arrival, Newcomer

_log = get_logger("market.usage.countries")


def locate(
    database: Path, newcomers: Sequence[Newcomer], before: Mapping[UUID, Mapping[str, int]]
) -> list[Arrival]:
    """Those of ``newcomers`` whose country is known, with earlier use by country.

    ``before`` are deliveries by grant and address. A file that cannot be read is logged, and then
    no country is known: the other rules do not need it. Reads the file: call it in a thread.
    """
    try:
        with maxminddb.open_database(database) as reader:
            return _locate(reader, newcomers, before)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        _log.warning("country_database_unreadable", path=str(database), error=str(error))
        return []


def _locate(
    reader: maxminddb.Reader,
    newcomers: Sequence[Newcomer],
    before: Mapping[UUID, Mapping[str, int]],
) -> list[Arrival]:
    known: dict[UUID, Counter[str]] = {}
    for grant_id, addresses in before.items():
        known[grant_id] = Counter()
        for address, deliveries in addresses.items():
            country = country_of(reader, address)
            if country is not None:
                known[grant_id][country] += deliveries
    found = []
    for newcomer in newcomers:
        country = country_of(reader, newcomer.address)
        if country is not None:
            found.append(Arrival(newcomer, country, known[newcomer.reader.grant_id]))
    return found


def country_of(reader: maxminddb.Reader, address: str) -> str | None:
    """ISO 3166 code of an address, None where the file does not say.

    ``country`` is where it is used; where only its owner's is known, ``registered_country``.
    Raises maxminddb.InvalidDatabaseError for a damaged file.
    """
    try:
        ip = ip_address(address)
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        record = reader.get(ip)
    except ValueError:
        # No address, one with a zone, or IPv6 in a database of IPv4.
        return None
    if not isinstance(record, dict):
        return None
    for name in ("country", "registered_country"):
        place = record.get(name)
        code = place.get("iso_code") if isinstance(place, dict) else None
        if isinstance(code, str):
            return code
    return None
