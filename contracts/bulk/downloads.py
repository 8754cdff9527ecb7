"""Whole versions as files, in ranges of bytes, charged once per Delivery-Id and byte.

Order of a download: token, rate, policy, range, what the id has bought already, early refusal;
then per part: reserve, read, send, settle. Rows are charged for the bytes that the kernel took, and
the same bytes are free for 24 hours under the same id; so however often a download breaks, a buyer
that resumes pays for each row or byte once. Plans by the call and licenses count one unit per id;
plans by queries or their time do not sell files.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from contracts.bulk import ranges
from contracts.bulk.bought import Bought, bought, part_key
from contracts.bulk.ranges import File, Portion, parse_range, portions
from contracts.bulk.response import MEDIA_TYPE, BulkResponse
from contracts.bulk.schemas import BulkManifest
from contracts.delivery.charges import DIVISIBLE, whole_units
from contracts.delivery.gate import gate_of
from contracts.delivery.once import REPLAY_FREE, checked_key, reserve_once
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.rows import SEND_MARGIN_S
from contracts.errors import (
    DeliveryIdExpired,
    DeliveryIdReused,
    DeliveryInProgress,
    QuotaExhausted,
    UnitRefused,
)
from contracts.metering import Hold, meter_of
from contracts.metering_asked import Asked
from contracts.metering_records import Fact
from contracts.models import Unit
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.ids import new_id, show
from market.kernel.logging import get_logger
from market.kernel.security import canonical_json, sha256_hex
from pricing.units import WAYS_OUT

FORMAT = "bulk"
_NO_LEASE = UUID(int=0)
_log = get_logger("contracts.bulk")


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """What a client asks for, as text; ``delivery_id`` None lets the server choose one."""

    token: str
    range: str | None = None
    if_range: str | None = None
    delivery_id: str | None = None
    address: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class _Order:
    """One download: who, of what, under which id."""

    claims: Claims
    context: Context
    file: File
    path: Path
    key: str
    query_sha256: str
    address: str | None


async def manifest(
    kernel: Kernel, token: str, *, address: str | None, version: int | None = None
) -> BulkManifest:
    """What the download is and costs; free. Raises as :func:`download`, but never 402."""
    claims, context, _ = await gate_of(kernel).authorize(
        RowsRequest(token=token, address=address, version=version, operation=WayOut.BULK)
    )
    _require_sold(context.unit)
    # What is left to buy may be looked at with nothing left to spend.
    with contextlib.suppress(QuotaExhausted):
        await meter_of(kernel).admit(claims.grant_id, claims.token_id)
    file, _ = await _file(kernel, context)
    return BulkManifest(
        version_id=context.version_id,
        version=context.version,
        media_type=MEDIA_TYPE,
        bytes=file.size,
        rows=file.rows,
        sha256=file.sha256,
        part_bytes=ranges.PART_BYTES,
        parts=file.parts,
        unit=context.unit,
        units=whole_units(context.unit, rows=file.rows, size=file.size),
    )


async def download(kernel: Kernel, request: BulkRequest) -> BulkResponse:
    """The version's file or a range of it.

    Raises as :meth:`contracts.delivery.rows.RowsService.deliver` about token, policy, grant,
    Delivery-Id and meter; RangeInvalid (422), RangeUnsatisfiable (416). QuotaExhausted (402)
    when not all of the range can be paid for. A refusal charges nothing.
    """
    key = checked_key(request.delivery_id)
    claims, context, headers = await gate_of(kernel).authorize(
        RowsRequest(
            token=request.token,
            address=request.address,
            version=request.version,
            operation=WayOut.BULK,
        )
    )
    _require_sold(context.unit)
    file, path = await _file(kernel, context)
    asked = parse_range(request.range, file.size)
    if request.if_range is not None and request.if_range.strip() != file.etag:
        asked = None
    start, stop = asked or (0, file.size)
    digest = sha256_hex(
        canonical_json({"bulk": show("ver", context.version_id), "sha256": file.sha256})
    )
    order = _Order(claims, context, file, path, key, digest, request.address)
    download = Download(kernel, order, list(portions(file, start, stop)))
    charged, remaining = await download.begin()
    headers |= {
        "Data-Version": str(context.version),
        "Delivery-Id": key,
        "Meter-Charged": str(charged),
        "Meter-Unit": context.unit.value,
        "ETag": file.etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{_base64(file.sha256)}:",
    }
    if remaining is not None:
        headers["Meter-Remaining"] = str(remaining)
    if asked is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    if stop - start == file.size:
        headers["Content-Digest"] = headers["Repr-Digest"]
    return BulkResponse(download, length=stop - start, headers=headers, partial=asked is not None)


def _require_sold(unit: Unit) -> None:
    """Raises UnitRefused (409): a file is no query, and takes none of DuckDB's time."""
    if "bulk" not in WAYS_OUT[unit.value]:
        raise UnitRefused(f"The grant counts in units of a {unit.value}; a file has none.")


async def _file(kernel: Kernel, context: Context) -> tuple[File, Path]:
    path = await kernel.blobs.local_path(context.blob_key)
    return File(context.byte_count, context.row_count, context.sha256), path


def _base64(sha256: str) -> str:
    """A hex digest as RFC 9530 writes it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


@dataclass(frozen=True, slots=True)
class _Open:
    """A part that was reserved and is being sent; ``hold`` None: it is free."""

    portion: Portion
    body: bytes
    hold: Hold | None
    fact: Fact | None


class Download:
    """The parts of one answer, each reserved before and settled after it is sent."""

    def __init__(self, kernel: Kernel, order: _Order, wanted: Sequence[Portion]) -> None:
        self._kernel = kernel
        self._order = order
        self._wanted = wanted
        self._at = 0
        self._settled_bytes = 0
        self._open: _Open | None = None
        self._first: _Open | None = None
        self._bought = Bought()

    async def begin(self) -> tuple[int, int | None]:
        """Reserve the first part; what the answer will charge, and what is left after it.

        Raises as :func:`download`.
        """
        order = self._order
        meter = meter_of(self._kernel)
        await meter.flush()
        self._bought = await bought(
            self._kernel,
            order.claims.grant_id,
            order.key,
            self._wanted,
            query_sha256=order.query_sha256,
        )
        due = [self._due(part, part.size) for part in self._wanted]
        try:
            await meter.admit(order.claims.grant_id, order.claims.token_id)
        except QuotaExhausted:
            # What a used-up grant has paid for can still be fetched.
            if any(due):
                raise
        self._first = opened = await self._reserve(self._wanted[0])
        units = opened.fact.units if opened.fact is not None else 0
        rest = sum(due[1:])
        left = None if opened.hold is None else opened.hold.remaining
        if left is not None and left < rest:
            assert opened.hold is not None
            await meter.release(opened.hold)
            raise QuotaExhausted(
                f"The range needs {units + rest} units.",
                remaining=left + units,
                unit=order.context.unit.value,
            )
        return units + rest, None if left is None else left - rest

    @property
    def _divisible(self) -> bool:
        return self._order.context.unit in DIVISIBLE

    def _due(self, portion: Portion, size: int) -> int:
        """Units owed for the first ``size`` bytes, beyond those paid; 0 if the id counts."""
        if self._order.context.unit is Unit.BYTE:
            return self._bought.bytes(portion, size)
        return self._bought.rows(portion, size) if self._divisible else 0

    async def next(self) -> tuple[bytes, float] | None:
        """See :class:`contracts.bulk.response.Parts`. Raises TimeoutError: it ends the answer."""
        if self._at == len(self._wanted):
            return None
        opened, self._first = self._first, None
        if opened is None:
            try:
                opened = await self._reserve(self._wanted[self._at])
            except MarketError as error:
                # Status and headers are out; the client sees a short body and resumes.
                _log.warning("bulk_cut_off", code=error.code, key=self._order.key)
                raise TimeoutError from error
        self._at += 1
        self._open = opened
        if opened.hold is None:
            return opened.body, float(meter_of(self._kernel).hold_s)
        return opened.body, max(0.0, opened.hold.deadline - time.monotonic() - SEND_MARGIN_S)

    async def sent(self) -> None:
        """See :class:`contracts.bulk.response.Parts`."""
        opened, self._open = self._open, None
        assert opened is not None
        self._settled_bytes += opened.portion.size
        await self._settle(opened, opened.portion.size)

    async def finish(self, sent: int) -> None:
        """See :class:`contracts.bulk.response.Parts`."""
        opened = self._open or self._first
        self._open = self._first = None
        if opened is not None:
            await self._settle(opened, max(0, sent - self._settled_bytes))

    async def _settle(self, opened: _Open, sent: int) -> None:
        if opened.hold is None or opened.fact is None:
            return
        meter = meter_of(self._kernel)
        if sent == 0:
            await meter.release(opened.hold)
            return
        fact = opened.fact._replace(
            lease_id=opened.hold.lease_id,
            delivered_at=self._kernel.clock.now(),
        )
        if sent < opened.portion.size:
            fact = self._cut(fact, opened, sent)
        await meter.settle(opened.hold, fact)

    def _cut(self, fact: Fact, opened: _Open, sent: int) -> Fact:
        """The delivery of no more than the first ``sent`` bytes of the part."""
        rows = self._bought.rows(opened.portion, sent)
        assert fact.asked is not None
        return fact._replace(
            units=self._due(opened.portion, sent) if self._divisible else fact.units,
            rows=rows,
            bytes=sent,
            body_sha256=hashlib.sha256(memoryview(opened.body)[:sent]).hexdigest(),
            complete=False,
            asked=replace(fact.asked, until=opened.portion.start + sent),
        )

    async def _reserve(self, portion: Portion) -> _Open:
        body = await asyncio.to_thread(_read, self._order.path, portion)
        if not self._divisible and not self._bought.entered:
            entry = self._fact(portion, body)._replace(key=self._order.key, units=1)
            hold = await self._hold(entry)
            self._bought.entered = True
            return _Open(portion, body, hold, entry)
        if self._bought.has(portion):
            return _Open(portion, body, None, None)
        whole = self._fact(portion, body)
        return _Open(portion, body, await self._hold(whole), whole)

    async def _hold(self, fact: Fact) -> Hold:
        """Reserved units. Another process may have used the id since we looked: 409."""
        outcome = await reserve_once(
            self._kernel,
            fact,
            delivery_id=fact.key,
            seller_safe=self._order.context.policy.meter_side == "seller_safe",
        )
        if isinstance(outcome, Hold):
            return outcome
        if outcome.query_sha256 != self._order.query_sha256:
            raise DeliveryIdReused(param="Delivery-Id")
        if self._kernel.clock.now() - outcome.delivered_at > REPLAY_FREE:
            raise DeliveryIdExpired(param="Delivery-Id")
        raise DeliveryInProgress(headers={"Retry-After": "1"})

    def _fact(self, portion: Portion, body: bytes) -> Fact:
        """The part as it will have been delivered if all of it arrives."""
        order = self._order
        rows = self._bought.rows(portion, portion.size)
        record = self._bought.records.get(portion.part, 0)
        return Fact(
            usage_id=new_id(),
            receipt_id=new_id(),
            grant_id=order.claims.grant_id,
            agreement_id=order.context.agreement_id,
            version_id=order.context.version_id,
            lease_id=_NO_LEASE,
            token_id=order.claims.token_id,
            key=part_key(order.key, portion.part, record),
            query_sha256=order.query_sha256,
            format=FORMAT,
            units=self._due(portion, portion.size),
            rows=rows,
            bytes=len(body),
            body_sha256=hashlib.sha256(body).hexdigest(),
            complete=True,
            delivered_at=self._kernel.clock.now(),
            asked=Asked(
                tuple(order.context.columns),
                after=portion.start,
                until=portion.stop,
                address=order.address,
            ),
        )


def _read(path: Path, portion: Portion) -> bytes:
    with path.open("rb") as file:
        file.seek(portion.start)
        return file.read(portion.size)
