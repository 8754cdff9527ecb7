"""How the columns of two versions differ, and which version a follower reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from listings.releases import Release


@dataclass(frozen=True, slots=True)
class Retyped:
    """A column that both versions have, with its types before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """Names of added and removed columns, and columns with another type, in file order."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[Retyped, ...]

    @property
    def breaking(self) -> bool:
        """Whether a reader of the older version may fail: something is gone or has another type."""
        return bool(self.removed or self.retyped)


def schema_change(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> SchemaChange:
    """What happened to the columns ``[{name, type}]`` of a version."""
    old = {str(column["name"]): str(column["type"]) for column in before}
    new = {str(column["name"]): str(column["type"]) for column in after}
    return SchemaChange(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        retyped=tuple(
            Retyped(name, old[name], new[name])
            for name in new
            if name in old and old[name] != new[name]
        ),
    )


def in_effect(releases: Sequence[Release], *, now: datetime, notice: timedelta) -> Release:
    """What a follower reads without naming a version; ``releases`` are not empty, oldest first.

    A version that does not break the one read at that moment is read as soon as it is certified;
    one that does, ``notice`` later, unless a newer one is read by then. A break that is repaired
    within the notice therefore spares its readers.
    """
    current = releases[0]
    # What happens when: a version is certified, or its notice is over.
    moments = [(each.certified_at, each.number, False, each) for each in releases[1:]]
    moments += [(each.certified_at + notice, each.number, True, each) for each in releases[1:]]
    known: list[Release] = []
    for at, _, over, release in sorted(moments, key=lambda moment: moment[:3]):
        if at > now:
            break
        if not over:
            known.append(release)
        if release.number > current.number and (over or _fits(current, release)):
            current = release
            for newer in known:
                if newer.number > current.number and _fits(current, newer):
                    current = newer
    return current


def _fits(current: Release, release: Release) -> bool:
    return not schema_change(current.columns, release.columns).breaking


def effective_at(earlier: Sequence[Release], release: Release, *, notice: timedelta) -> datetime:
    """When followers read ``release`` at the latest, unless a newer one takes its place.

    ``earlier`` are the versions before it, oldest first.
    """
    if not earlier:
        return release.certified_at
    read = in_effect(earlier, now=release.certified_at, notice=notice)
    return release.certified_at if _fits(read, release) else release.certified_at + notice
