"""What a delivery was asked for, as far as its usage record keeps it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """The field set, the place of the page, and the client's address.

    ``sequence`` names the version, filter and order that pages follow one another in;
    ``after`` and ``until`` are row places of the version, None at the beginning or without rows.
    Bulk delivery, which has no sequence, keeps the first byte and the one after the last there.
    What a way out does not know stays None or empty.
    """

    fields: tuple[str, ...] = ()
    sequence: str | None = None
    after: int | None = None
    until: int | None = None
    address: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any] | None) -> Asked | None:
        """From its JSON form; members that this version does not know are passed over."""
        if values is None:
            return None
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        return cls(**{**known, "fields": tuple(known.get("fields", ()))})
