"""Which version is in effect: columns, notice, repairs."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.versions.changes import Retyped, effective_at, in_effect, schema_change
from listings.releases import Release
from market.kernel.ids import new_id

START = datetime(2026, 1, 1, tzinfo=UTC)
NOTICE = timedelta(days=14)
ID = {"name": "id", "type": "BIGINT"}
DAY = {"name": "day", "type": "DATE"}
WIDE = {"name": "id", "type": "HUGEINT"}


def _release(number: int, day: float, *columns: dict[str, str]) -> Release:
    at = START + timedelta(days=day)
    return Release(new_id(), new_id(), number, columns, 1, 1, "", "", at)


def test_what_happened_to_columns() -> None:
    change = schema_change([ID, DAY], [{"name": "delay", "type": "INTEGER"}, WIDE])
    assert change.added == ("delay",)
    assert change.removed == ("day",)
    assert change.retyped == (Retyped("id", "BIGINT", "HUGEINT"),)
    assert change.breaking
    assert not schema_change([ID], [DAY, ID]).breaking


@pytest.mark.parametrize(("day", "number"), [(0, 1), (1.5, 2), (3, 2), (16.9, 2), (17, 3), (40, 3)])
def test_a_breaking_version_waits_for_the_notice(day: float, number: int) -> None:
    releases = [_release(1, 0, ID), _release(2, 1, ID, DAY), _release(3, 3, ID)]
    seen = [release for release in releases if release.certified_at <= START + timedelta(days=day)]
    assert in_effect(seen, now=START + timedelta(days=day), notice=NOTICE).number == number


def test_a_repaired_break_spares_the_readers() -> None:
    releases = [_release(1, 0, ID), _release(2, 1, WIDE), _release(3, 2, ID)]
    numbers = [
        in_effect(releases[:count], now=START + timedelta(days=day), notice=NOTICE).number
        for count, day in ((2, 1.5), (3, 2), (3, 15), (3, 16), (3, 30))
    ]
    assert numbers == [1, 3, 3, 3, 3]


def test_what_builds_on_a_break_waits_with_it() -> None:
    releases = [_release(1, 0, ID, DAY), _release(2, 1, ID), _release(3, 5, ID)]
    assert in_effect(releases, now=START + timedelta(days=14.9), notice=NOTICE).number == 1
    assert in_effect(releases, now=START + timedelta(days=15), notice=NOTICE).number == 3
    assert effective_at(releases[:2], releases[2], notice=NOTICE) == START + timedelta(days=19)


def test_without_notice_all_take_effect_at_once() -> None:
    releases = [_release(1, 0, ID), _release(2, 1, WIDE)]
    now = START + timedelta(days=1)
    assert in_effect(releases, now=now, notice=timedelta(0)).number == 2
