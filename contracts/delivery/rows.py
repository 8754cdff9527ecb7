"""The rows API: a page of a version's rows, metered exactly.

Order of a delivery: token, rate, policy, early refusal, query, reserve, send, settle. The query
runs before the reservation, so that exactly the rows of the page are reserved and a refusal never
depends on how many rows were asked for. Only where its time is what is sold, the reservation comes
first.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

from contracts.delivery import sql
from contracts.delivery.charges import (
    not_enough,
    part_units,
    remaining_after,
    reserve_up_to,
    whole_ms,
    whole_units,
)
from contracts.delivery.coding import Coded, code
from contracts.delivery.engine import Engine, engine_of
from contracts.delivery.formats import Format, PageMarks, encode, negotiate
from contracts.delivery.gate import gate_of
from contracts.delivery.once import (
    Earlier,
    checked_key,
    find_earlier,
    meter_headers,
    require_replayable,
    reserve_once,
)
from contracts.delivery.page import Page, respond, unanswered
from contracts.delivery.questions import Question, question_of
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.response import Finish, MeteredResponse
from contracts.errors import (
    MeterUnavailable,
    PageTooLarge,
    QueryTimeout,
    QuotaExhausted,
)
from contracts.metering import Hold, Meter, meter_of
from contracts.metering_records import Fact
from contracts.models import Unit
from contracts.schemas import RowCount
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from listings.row_filter import both, compile_filter
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.schemas import encode_cursor

# A page beyond this is refused before it is encoded; several of them fit a worker's memory.
PAGE_MAX_BYTES = 64 << 20
SEND_MARGIN_S = 2
_NO_LEASE = UUID(int=0)


class Ready(NamedTuple):
    """A page that may be sent: reserved, or ``paid`` before under the same Delivery-Id.

    ``finish`` is told how many bytes of it were sent.
    """

    page: Page
    headers: dict[str, str]
    deadline_s: float
    finish: Finish
    paid: bool = False


class RowsService:
    """Delivers rows. One per process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @property
    def _meter(self) -> Meter:
        return meter_of(self._kernel)

    @property
    def engine(self) -> Engine:
        """What this process's queries run in."""
        settings = self._kernel.settings
        return engine_of(settings.delivery_memory_mb, settings.delivery_timeout_s)

    async def deliver(self, request: RowsRequest) -> MeteredResponse:
        """A page of rows, charged when it is sent.

        Raises as :meth:`contracts.delivery.gate.Gate.authorize`, GrantSuspended (403),
        TokenExpired, TokenRevoked, GrantRevoked, GrantExpired (410), QuotaExhausted (402),
        RateLimited (429), FormatNotOffered, CodingNotOffered (406), FilterInvalid,
        ColumnUnknown, OrderInvalid, BadCursor, DeliveryIdInvalid, DeliveryIdReused (422),
        DeliveryInProgress, DeliveryIncomplete, DeliveryIdExpired (409), PageTooLarge (413),
        QueryTimeout, MeterUnavailable, MeterRecovering (503). A refusal charges nothing.
        """
        # Before the token is looked at: what is wrong here is wrong for everybody.
        if request.delivery_id is not None:
            checked_key(request.delivery_id)
        negotiate(request.accept)
        if request.operation is not WayOut.ROWS:
            request = request._replace(operation=WayOut.ROWS)
        claims, context, headers = await gate_of(self._kernel).authorize(request)
        return await self.deliver_from(claims, context, headers, request)

    async def admit(self, claims: Claims, delivery_id: str | None) -> Earlier | None:
        """The early refusal, or what was delivered under the id of a used-up grant before."""
        try:
            await self._meter.admit(claims.grant_id, claims.token_id, reserving=True)
        except QuotaExhausted:
            # The last page of a used-up grant can still be fetched again.
            earlier = await find_earlier(self._kernel, claims.grant_id, delivery_id)
            if earlier is None:
                raise
            return earlier
        return None

    async def deliver_from(
        self, claims: Claims, context: Context, headers: dict[str, str], request: RowsRequest
    ) -> MeteredResponse:
        """:meth:`deliver` for what :meth:`contracts.delivery.gate.Gate.authorize` gave."""
        ready = await self.prepare(claims, context, request)
        headers |= ready.headers
        return respond(ready.page, headers, deadline_s=ready.deadline_s, finish=ready.finish)

    async def prepare(self, claims: Claims, context: Context, request: RowsRequest) -> Ready:
        """A page, and its units reserved or known to be paid. Raises as :meth:`deliver`."""
        key = checked_key(request.delivery_id)
        format_ = negotiate(request.accept)
        earlier = await self.admit(claims, request.delivery_id)
        order = (claims, context, request, format_, key)
        if context.unit is Unit.MILLISECOND:
            page, whole, outcome = await self._timed(*order, earlier)
        else:
            page, whole, outcome = await self._counted(*order, earlier)
        headers = {"Delivery-Id": key, "Data-Version": str(context.version)}
        if page.next_after is not None:
            headers["Next-After"] = page.next_after
        if isinstance(outcome, Earlier):
            require_replayable(outcome, page.query_sha256, now=self._kernel.clock.now())
            headers |= meter_headers(0, None, outcome.receipt_id, unit=context.unit)
            return Ready(page, headers, float(self._meter.hold_s), _nothing_due, paid=True)
        left = remaining_after(outcome, whole.units)
        headers |= meter_headers(whole.units, left, whole.receipt_id, unit=context.unit)
        left_s = outcome.deadline - time.monotonic() - SEND_MARGIN_S
        if left_s <= 0:
            await self._meter.release(outcome)
            raise MeterUnavailable("The reservation ended before the page was ready.")
        return Ready(page, headers, left_s, self._finisher(outcome, context, page, whole))

    async def _counted(
        self,
        claims: Claims,
        context: Context,
        request: RowsRequest,
        format_: Format,
        key: str,
        earlier: Earlier | None,
    ) -> tuple[Page, Fact, Hold | Earlier]:
        """The page first, and then exactly what it costs reserved."""
        page = await self._page(context, request, format_)
        units = whole_units(context.unit, rows=page.rows, size=len(page.body))
        whole = self._fact(claims, context, page, key, units)
        outcome = earlier or await reserve_once(
            self._kernel,
            whole,
            delivery_id=request.delivery_id,
            seller_safe=context.policy.meter_side == "seller_safe",
            sub_lease_units=context.policy.sub_lease_units,
        )
        return page, whole, outcome

    async def _timed(
        self,
        claims: Claims,
        context: Context,
        request: RowsRequest,
        format_: Format,
        key: str,
        earlier: Earlier | None,
    ) -> tuple[Page, Fact, Hold | Earlier]:
        """The query's time limit reserved first; less if less is left, and then that is its limit.

        Raises QuotaExhausted (402) when that was too little.
        """
        question = self._question(context, request, format_)
        limit_ms = self.engine.timeout_s * 1_000
        planned = self._fact(claims, context, unanswered(question), key, limit_ms)
        outcome = earlier or await reserve_up_to(
            self._kernel,
            planned,
            delivery_id=request.delivery_id,
            seller_safe=context.policy.meter_side == "seller_safe",
            sub_lease_units=context.policy.sub_lease_units,
        )
        if isinstance(outcome, Earlier):
            require_replayable(outcome, question.query_sha256, now=self._kernel.clock.now())
            return (await self._answer(context, question))[0], planned, outcome
        try:
            page, took_ns = await self._answer(context, question, limit_s=outcome.units / 1_000)
        except BaseException as error:
            await self._meter.release(outcome)
            if isinstance(error, QueryTimeout) and outcome.units < limit_ms:
                raise not_enough(outcome, context.unit) from error
            raise
        ms = min(outcome.units, whole_ms(took_ns))
        whole = self._fact(claims, context, page, key, ms)._replace(
            usage_id=planned.usage_id,
            receipt_id=planned.receipt_id,
        )
        return page, whole, outcome

    async def count(self, request: RowsRequest) -> RowCount:
        """How many rows the filter selects; free. Raises as :meth:`deliver`."""
        request = request._replace(operation=WayOut.COUNT)
        claims, context, _ = await gate_of(self._kernel).authorize(request)
        # What is left to buy may be counted with nothing left to spend.
        with contextlib.suppress(QuotaExhausted):
            await self._meter.admit(claims.grant_id, claims.token_id)
        condition = both(context.only, compile_filter(request.filter, context.columns))
        path = await self._kernel.blobs.local_path(context.blob_key)
        return RowCount(count=await self.engine.count(sql.count_query(str(path), condition)))

    def check(self, context: Context, request: RowsRequest) -> None:
        """Refuse what no page could answer. Raises as :meth:`deliver` about the request's texts."""
        self._question(context, request, negotiate(request.accept))

    def _question(self, context: Context, request: RowsRequest, format_: Format) -> Question:
        maximum = self._kernel.settings.delivery_page_max_rows
        return question_of(context, request, format_, rows_max=maximum)

    async def _page(self, context: Context, request: RowsRequest, format_: Format) -> Page:
        return (await self._answer(context, self._question(context, request, format_)))[0]

    async def _answer(
        self, context: Context, question: Question, *, limit_s: float | None = None
    ) -> tuple[Page, int]:
        """The page, and the nanoseconds that its query took; ``limit_s`` bounds these."""
        path = context.file or await self._kernel.blobs.local_path(context.blob_key)
        query = sql.page_query(
            str(path),
            select=question.chosen,
            condition=question.condition,
            only=context.only,
            order=question.order,
            after=question.after,
            limit=question.limit,
        )
        table, took_ns = await self.engine.timed_table(query, rows=question.limit, limit_s=limit_s)
        has_more = table.num_rows > question.limit
        table = table.slice(0, question.limit)
        next_after, place = None, None
        if table.num_rows:
            place = table.column(table.num_columns - 1)[table.num_rows - 1].as_py()
        if has_more:
            next_after = encode_cursor(place, question.sequence)
        body, body_sha256, coded = await self._body(
            table, question, PageMarks(has_more, next_after)
        )
        page = Page(
            body,
            body_sha256,
            table.num_rows,
            question.format,
            next_after,
            question.query_sha256,
            question.told(place),
            coded,
        )
        return page, took_ns

    async def _body(
        self, table: pa.Table, question: Question, marks: PageMarks
    ) -> tuple[bytes, str, Coded | None]:
        shown = table.drop_columns([sql.PLACE])
        if shown.nbytes > PAGE_MAX_BYTES:
            raise PageTooLarge(f"A page has at most {PAGE_MAX_BYTES} bytes.", param="limit")

        def made() -> tuple[bytes, str, Coded | None]:
            # The digest here too: 24 MB of JSON would keep everybody else waiting for 40 ms.
            body = encode(shown, question.format, marks)
            coded = code(body, question.coding, packed=question.format is Format.PARQUET)
            return body, hashlib.sha256(body).hexdigest(), coded

        return await self.engine.in_thread(made)

    def _fact(self, claims: Claims, context: Context, page: Page, key: str, units: int) -> Fact:
        """The delivery as it will have been if all of it arrives; its lease is not known yet."""
        return Fact(
            usage_id=new_id(),
            receipt_id=new_id(),
            grant_id=claims.grant_id,
            agreement_id=context.agreement_id,
            version_id=context.version_id,
            lease_id=_NO_LEASE,
            token_id=claims.token_id,
            key=key,
            query_sha256=page.query_sha256,
            format=page.format.value,
            units=units,
            rows=page.rows,
            bytes=len(page.body),
            body_sha256=page.body_sha256,
            complete=True,
            delivered_at=self._kernel.clock.now(),
            asked=page.asked,
        )

    def _finisher(self, hold: Hold, context: Context, page: Page, whole: Fact) -> Finish:
        def finish(sent: int) -> Coroutine[Any, Any, None] | None:
            fact = whole._replace(lease_id=hold.lease_id, delivered_at=self._kernel.clock.now())
            if sent < len(page.body):
                size = len(page.body)
                rows = page.rows * sent // size
                units = part_units(context.unit, whole.units, sent=sent, size=size)
                if units == 0:
                    return self._meter.release(hold)
                digest = hashlib.sha256(memoryview(page.body)[:sent]).hexdigest()
                fact = fact._replace(
                    units=units, rows=rows, bytes=sent, body_sha256=digest, complete=False
                )
            if self._meter.settle_alone(hold, fact):
                return None
            return self._meter.settle(hold, fact)

        return finish


def _nothing_due(_sent: int) -> None:
    """What was paid under the same Delivery-Id may be sent again."""


def rows_service(kernel: Kernel) -> RowsService:
    """This process's rows service."""
    return kernel.service(RowsService)
