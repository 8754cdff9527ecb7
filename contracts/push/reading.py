"""What a push reads: its query as pages of the rows API, of a version or of what changed."""

from __future__ import annotations

import asyncio
from math import ceil

import pyarrow.parquet as pq

from contracts.changes.delivery import change_headers, changed
from contracts.delivery.formats import MEDIA_TYPES, Format
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.rows import rows_service
from contracts.push.errors import PushPartsTooMany, PushSinceLater
from contracts.push.schemas import PushInput, PushView
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from market.kernel.context import Kernel
from market.kernel.http import ValidationFailed

PARTS_MAX = 10_000


def request_of(
    query: PushInput | PushView,
    format_: Format,
    *,
    version: int | None,
    after: str | None = None,
    delivery_id: str | None = None,
) -> RowsRequest:
    """The page that a part is."""
    return RowsRequest(
        token="",
        select=query.select,
        filter=query.filter,
        order=query.order,
        after=after,
        limit=query.page_rows,
        accept=MEDIA_TYPES[format_],
        delivery_id=delivery_id,
        version=version,
        operation=WayOut.PUSH,
    )


async def opened(
    kernel: Kernel, claims: Claims, context: Context, request: RowsRequest, since: int | None
) -> tuple[Context, RowsRequest, dict[str, str]]:
    """What a part is read from, how, and what it says of that.

    Of changes it always says what happened to a row, whatever was selected. Raises as
    :func:`contracts.changes.delivery.changed`.
    """
    if since is None:
        return context, request, {}
    context, feed = await changed(kernel, claims, context, since)
    mark = next(iter(context.columns))
    if request.select is not None:
        named = {name.strip().strip('"') for name in request.select.split(",")}
        if mark not in named:
            request = request._replace(select=f"{mark},{request.select}")
    return context, request, change_headers(feed, since)


async def require_readable(
    kernel: Kernel,
    claims: Claims,
    context: Context,
    query: PushInput | PushView,
    since: int | None,
) -> None:
    """Refuse what no part could answer.

    Raises PushSinceLater, PushPartsTooMany (422), as :func:`opened`, and as
    :meth:`contracts.delivery.rows.RowsService.check`.
    """
    if since is not None and since > context.version:
        raise PushSinceLater(f"The push would be of version {context.version}.", param="since")
    request = request_of(query, query.format, version=context.version)
    context, request, _ = await opened(kernel, claims, context, request, since)
    try:
        rows_service(kernel).check(context, request)
    except ValidationFailed as error:
        error.param = "page_rows"
        raise
    rows = context.row_count
    if context.file is not None:
        rows = (await asyncio.to_thread(pq.read_metadata, context.file)).num_rows
    parts = ceil(rows / query.page_rows)
    if parts > PARTS_MAX:
        raise PushPartsTooMany(f"It may have {parts}, the limit is {PARTS_MAX}.", param="page_rows")
