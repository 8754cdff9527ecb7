"""Delivering what changed between two versions: a feed in the place of a version's file.

Order: token, rate, policy (both versions), early refusal, feed; then the rows API's own way with
the feed's file: query, reserve, send, settle, receipt. Each changed row is a row.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from urllib.parse import quote

from contracts.changes.errors import VersionsIncomparable
from contracts.changes.feeds import Feed, feeds_of
from contracts.changes.keys import key_of
from contracts.changes.schemas import ChangeCounts
from contracts.changes.sql import Comparison, Side, count_query
from contracts.delivery.gate import gate_of
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.response import MeteredResponse
from contracts.delivery.rows import rows_service
from contracts.errors import QuotaExhausted, UnitRefused
from contracts.metering import meter_of
from contracts.models import Unit
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from listings import offers
from listings.masks import blurred
from listings.row_filter import ALWAYS
from listings.typed_columns import Column, Family
from market.kernel.context import Kernel


async def deliver(kernel: Kernel, request: RowsRequest, *, since: int) -> MeteredResponse:
    """A page of the changes from version ``since`` to the request's.

    Raises as :meth:`contracts.delivery.rows.RowsService.deliver`, VersionNotFound (404),
    VersionsIncomparable, UnitRefused (409), ChangesPreparing (503). A refusal charges nothing.
    """
    request = request._replace(operation=WayOut.CHANGES)
    claims, context, headers = await gate_of(kernel).authorize(request)
    await rows_service(kernel).admit(claims, request.delivery_id)
    context, feed = await changed(kernel, claims, context, since)
    headers |= change_headers(feed, since)
    return await rows_service(kernel).deliver_from(claims, context, headers, request)


async def count(kernel: Kernel, request: RowsRequest, *, since: int) -> ChangeCounts:
    """How many changes there are; free. Raises as :func:`deliver`, but never 402."""
    request = request._replace(operation=WayOut.CHANGES)
    rows = rows_service(kernel)
    claims, context, _ = await gate_of(kernel).authorize(request)
    with contextlib.suppress(QuotaExhausted):
        await meter_of(kernel).admit(claims.grant_id, claims.token_id)
    _, feed = await changed(kernel, claims, context, since)
    table = await rows.engine.table(count_query(str(feed.path), _mark(context)))
    found = dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return ChangeCounts(
        inserted=found.get("insert", 0),
        updated=found.get("update", 0),
        deleted=found.get("delete", 0),
    )


def change_headers(feed: Feed, since: int) -> dict[str, str]:
    """What every answer with changes says of them."""
    headers = {"Since-Version": str(since)}
    if feed.key:
        headers["Changes-Key"] = ",".join(quote(name, safe="") for name in feed.key)
    return headers


async def changed(
    kernel: Kernel, claims: Claims, after: Context, since: int
) -> tuple[Context, Feed]:
    """The context of ``after`` with the feed as what is read.

    Raises as :meth:`contracts.delivery.gate.Gate.scoped`, VersionsIncomparable, UnitRefused (409),
    ChangesPreparing (503).
    """
    if after.unit is Unit.MILLISECOND:
        raise UnitRefused("A feed is computed once for many readers; its time is nobody's.")
    rows = rows_service(kernel)
    before = await gate_of(kernel).scoped(claims, since)
    async with kernel.unit_of_work() as uow:
        old = await offers.get_version(uow, before.version_id)
        new = await offers.get_version(uow, after.version_id)
        key = await key_of(uow, after.product_id)
    # Not the mappings themselves: they refuse to be asked for a column that the token hides.
    names, had = list(after.columns), set(before.columns)
    types = {column["name"]: column["type"] for column in old.columns}
    for column in new.columns:
        name = column["name"]
        if name in names and types.get(name, column["type"]) != column["type"]:
            raise VersionsIncomparable(
                f"Column {name!r} was {types[name]} and is {column['type']}.", column=name
            )
    shared = [name for name in names if name in had]
    mark = _mark(after)
    comparison = Comparison(
        Side(str(await kernel.blobs.local_path(before.blob_key)), shared, before.only),
        Side(str(await kernel.blobs.local_path(after.blob_key)), names, after.only),
        # A buyer that does not read all of the key, or not exactly, compares whole rows.
        key if set(key) <= set(shared) - blurred(after.policy.masks) else (),
        mark,
    )
    # Not the versions' names: the files of a marked agreement are its own.
    versions = (before.blob_key, after.blob_key)
    feed = await feeds_of(kernel).open(rows.engine, comparison, versions)
    columns = {mark: Column(mark, Family.TEXT), **{name: after.columns[name] for name in names}}
    context = replace(after, columns=columns, only=ALWAYS, file=feed.path, of=feed.digest)
    return context, feed


def _mark(context: Context) -> str:
    """The feed's column that says what happened: ``_change`` unless the data has one."""
    name, taken = "_change", set(context.columns)
    while name in taken:
        name = f"_{name}"
    return name
