"""A request for a page, understood: columns, filter, order, place, and a digest of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.delivery import sql
from contracts.delivery.coding import Choice, choose_coding
from contracts.delivery.formats import Format
from contracts.delivery.requests import Context, RowsRequest
from contracts.metering_asked import Asked
from listings.row_filter import ALWAYS, Condition, compile_filter
from listings.typed_columns import Column
from market.kernel.http import ValidationFailed
from market.kernel.ids import show
from market.kernel.schemas import BadCursor, decode_cursor
from market.kernel.security import canonical_json, sha256_hex

_PLACE_MAX = 2**62


@dataclass(frozen=True, slots=True)
class Question:
    """``sequence`` names version, filter and order; ``query_sha256`` all that was asked."""

    chosen: Sequence[Column]
    condition: Condition
    order: Sequence[sql.SortKey]
    after: int | None
    limit: int
    format: Format
    sequence: str
    query_sha256: str
    address: str | None
    coding: Choice

    def told(self, until: int | None) -> Asked:
        """What the usage record keeps of it; ``until`` is the place of the page's last row."""
        names = tuple(column.name for column in self.chosen)
        return Asked(names, self.sequence, self.after, until, self.address)


def question_of(
    context: Context, request: RowsRequest, format_: Format, *, rows_max: int
) -> Question:
    """No data is read. Raises ValidationFailed, FilterInvalid, ColumnUnknown, OrderInvalid or
    BadCursor (422), CodingNotOffered (406).
    """
    if not 1 <= request.limit <= rows_max:
        raise ValidationFailed(f"A page has 1 to {rows_max} rows.", param="limit")
    order = sql.parse_order(request.order, context.columns)
    chosen = sql.parse_select(request.select, context.columns)
    asked: dict[str, object] = {
        "version": show("ver", context.version_id),
        "select": [column.name for column in chosen],
        "filter": (request.filter or "").strip(),
        "order": [("-" if key.descending else "") + key.column.name for key in order],
    }
    if context.only is not ALWAYS:
        asked["only"] = [context.only.sql, [str(each) for each in context.only.parameters]]
    if context.of is not None:
        asked["of"] = context.of
    sequence = sha256_hex(canonical_json({**asked, "select": None}))[:16]
    after = _place(request.after, sequence)
    condition = compile_filter(request.filter, context.columns)
    asked |= {"after": after, "limit": request.limit, "format": format_.value}
    return Question(
        chosen=chosen,
        condition=condition,
        order=order,
        after=after,
        limit=request.limit,
        format=format_,
        sequence=sequence,
        query_sha256=sha256_hex(canonical_json(asked)),
        address=request.address,
        coding=choose_coding(request.accept_encoding),
    )


def _place(after: str | None, sequence: str) -> int | None:
    """The row that a cursor of this very sequence (version, filter, order) names."""
    if after is None:
        return None
    place, of = decode_cursor(after, 2)
    if of != sequence or not place.isascii() or not place.isdigit() or len(place) > 19:
        raise BadCursor("The cursor belongs to another query.", param="after")
    if int(place) > _PLACE_MAX:
        raise BadCursor(param="after")
    return int(place)
