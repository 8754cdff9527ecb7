"""A call through the proxy: reserved before, charged after, and only when it succeeded.

Order: token, rate, policy, early refusal, parameters, reserve, upstream, check, send, settle.
Whatever fails before the last byte of a checked answer gives the reservation back; only of bytes
and time a client that leaves midway pays for its share.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpcore
import orjson

from contracts.delivery.charges import part_units, remaining_after
from contracts.delivery.gate import gate_of
from contracts.delivery.once import (
    Earlier,
    checked_key,
    find_earlier,
    meter_headers,
    require_replayable,
    reserve_once,
)
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.response import Finish, MeteredResponse
from contracts.errors import MeterUnavailable, QuotaExhausted
from contracts.metering import Hold, meter_of
from contracts.metering_asked import Asked
from contracts.metering_records import Fact
from contracts.outbound.dialing import GuardedNetwork
from contracts.policy import refuse_masked
from contracts.proxy import bounds, caching, kept, secrets, upstreams, violations
from contracts.proxy.calling import Calls, Request, require_fitting
from contracts.proxy.calls import AnswerBroken
from contracts.proxy.errors import (
    AnswerNotKept,
    OperationNotFound,
    ParametersInvalid,
    ProxyUnitRefused,
    UpstreamNotFound,
    UpstreamSecretMissing,
)
from contracts.proxy.models import Upstream, UpstreamSecret
from contracts.proxy.relaying import Relay, RelayedResponse
from contracts.proxy.schemas import Operation, OperationList
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import canonical_json, sha256_hex
from pricing.units import WAYS_OUT

SEND_MARGIN_S = 2.0
_NO_LEASE = UUID(int=0)
_NOTHING_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """What a buyer asks for; ``delivery_id`` None lets the server choose one."""

    token: str
    operation: str
    parameters: dict[str, Any]
    delivery_id: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose token, operation and parameters are good."""

    claims: Claims
    context: Context
    upstream: Upstream
    secret: UpstreamSecret | None
    operation: Operation
    parameters: dict[str, Any]
    digest: str
    key: str
    delivery_id: str | None
    address: str | None


class ProxyService:
    """Delivers calls. One per process; ``network`` is for tests."""

    def __init__(self, kernel: Kernel, *, network: httpcore.AsyncNetworkBackend | None = None):
        self._kernel = kernel
        guarded = network or GuardedNetwork(loopback=kernel.settings.upstream_loopback)
        self.calls = Calls(guarded, calls_max=kernel.settings.upstream_calls_max)

    async def operations(self, token: str, *, address: str | None) -> OperationList:
        """What the token's grant may ask; free. Raises UpstreamNotFound (404) and as a call."""
        claims, context, _ = await gate_of(self._kernel).authorize(
            RowsRequest(token=token, address=address, operation=WayOut.PROXY)
        )
        refuse_masked(context.policy)
        # What could be bought more of may be read with nothing left to spend.
        with contextlib.suppress(QuotaExhausted):
            await meter_of(self._kernel).admit(claims.grant_id, claims.token_id)
        upstream, _ = await self._upstream(context.product_id)
        found = upstreams.operations_of(upstream).values()
        return OperationList(items=[violations.shown(operation) for operation in found])

    async def deliver(self, request: ProxyRequest) -> MeteredResponse:
        """The upstream's answer, charged when all of it is sent.

        Raises what the rows API raises for token, policy and meter, UpstreamNotFound,
        OperationNotFound (404), ParametersInvalid (422), ProxyUnitRefused, AnswerNotKept (409),
        and the refusals of :class:`contracts.proxy.calling.Calls` (502, 503, 504). None of them
        charges anything.
        """
        key = checked_key(request.delivery_id)
        asking = RowsRequest(token=request.token, address=request.address, operation=WayOut.PROXY)
        claims, context, headers = await gate_of(self._kernel).authorize(asking)
        refuse_masked(context.policy)
        headers |= {"Delivery-Id": key, "X-Content-Type-Options": "nosniff"}
        meter = meter_of(self._kernel)
        earlier: Earlier | None = None
        # First: a revoked token learns nothing and costs nothing.
        try:
            await meter.admit(claims.grant_id, claims.token_id)
        except QuotaExhausted:
            earlier = await find_earlier(self._kernel, claims.grant_id, request.delivery_id)
            if earlier is None:
                raise
        asked = await self._asked(request, claims, context, key)
        whole = self._fact(asked)
        outcome = earlier or await reserve_once(
            self._kernel,
            whole,
            delivery_id=request.delivery_id,
            seller_safe=asked.context.policy.meter_side == "seller_safe",
        )
        if isinstance(outcome, Earlier):
            return await self._again(asked, outcome, headers)
        try:
            return await self._fresh(asked, outcome, whole, headers)
        except BaseException:
            await meter.release(outcome)
            raise

    async def _asked(
        self, request: ProxyRequest, claims: Claims, context: Context, key: str
    ) -> _Asked:
        upstream, secret = await self._upstream(context.product_id)
        operation = upstreams.operations_of(upstream).get(request.operation)
        if operation is None:
            raise OperationNotFound(param="operation")
        if "proxy" not in WAYS_OUT[context.unit.value]:
            raise ProxyUnitRefused(f"The grant counts {context.unit.value}s.")
        if upstream.secret is not None and secret is None:
            raise UpstreamSecretMissing(retry_after_s=60)
        digest = _digest(upstream, operation, request.parameters)
        await require_fitting(operation, request.parameters)
        return _Asked(
            *(claims, context, upstream, secret, operation, request.parameters, digest, key),
            delivery_id=request.delivery_id,
            address=request.address,
        )

    async def _upstream(self, product_id: UUID) -> tuple[Upstream, UpstreamSecret | None]:
        async with self._kernel.unit_of_work() as uow:
            found = await upstreams.of_product(uow, product_id)
        if found is None:
            raise UpstreamNotFound("The product is not delivered by calls.")
        return found

    async def _fresh(
        self, asked: _Asked, hold: Hold, whole: Fact, headers: dict[str, str]
    ) -> MeteredResponse:
        """Ask the upstream under a reservation. Raises with the reservation still held."""
        unit = asked.context.unit
        if asked.operation.stream:
            headers |= bounds.stream_headers(unit, hold, whole.receipt_id)
            return await self._relayed(asked, headers, hold=hold, whole=whole)
        body, took_ns = await self._body(asked, deadline=hold.deadline - SEND_MARGIN_S)
        left_s = hold.deadline - time.monotonic() - SEND_MARGIN_S
        if left_s <= 0:
            raise MeterUnavailable("The reservation ended before the answer was ready.")
        units = bounds.owed(unit, hold, size=len(body), took_ns=took_ns)
        left = remaining_after(hold, units)
        headers |= meter_headers(units, left, whole.receipt_id, unit=unit)
        fact = whole._replace(units=units)

        async def finish(sent: int) -> None:
            due = part_units(unit, units, sent=sent, size=len(body))
            if sent < len(body):
                # Half an answer is not repeated under its id; and else answers that nobody pays
                # for could fill the database.
                await kept.forget(self._kernel, asked.claims.grant_id, asked.delivery_id)
                if due == 0:
                    await meter_of(self._kernel).release(hold)
                    return
            digest = hashlib.sha256(memoryview(body)[:sent]).hexdigest()
            complete = sent == len(body)
            await self._settle(
                hold, fact._replace(units=due, bytes=sent, body_sha256=digest, complete=complete)
            )

        return _respond(asked, body, headers, deadline_s=left_s, finish=finish)

    async def _body(self, asked: _Asked, *, deadline: float) -> tuple[bytes, int]:
        """A checked answer: kept, cached or fresh; and the nanoseconds that the upstream took."""
        operation, upstream = asked.operation, asked.upstream
        known = await kept.find(self._kernel, asked.claims.grant_id, asked.delivery_id)
        if known is not None and known.query_sha256 == asked.digest:
            return known.body, 0
        body, took_ns = None, 0
        if operation.cache_ttl_s:
            body = await caching.get(self._kernel.redis, upstream.id, asked.digest)
        if body is None:
            try:
                body, took_ns = await self.calls.timed_read(
                    self._outgoing(asked), deadline=deadline
                )
            except AnswerBroken as broken:
                raise await self._violation(asked, broken) from broken
            await caching.put(
                *(self._kernel.redis, upstream.id, asked.digest, body),
                ttl_s=operation.cache_ttl_s,
            )
        await kept.keep(
            *(self._kernel, asked.claims.grant_id, asked.delivery_id),
            query_sha256=asked.digest,
            media_type=operation.media_type,
            body=body,
        )
        return body, took_ns

    async def _relayed(
        self, asked: _Asked, headers: dict[str, str], *, hold: Hold | None, whole: Fact
    ) -> MeteredResponse:
        """The answer as it comes, charged to ``hold`` if there is one.

        A client that leaves after the first byte pays: it may have what it wanted. An upstream
        that fails at any byte is not paid.
        """
        meter = meter_of(self._kernel)
        deadline = time.monotonic() + meter.hold_s if hold is None else hold.deadline
        deadline -= SEND_MARGIN_S
        request = self._outgoing(asked)
        held = AsyncExitStack()
        begun_ns = time.monotonic_ns()
        try:
            answer = await held.enter_async_context(self.calls.open(request, deadline=deadline))
        except AnswerBroken as broken:
            raise await self._violation(asked, broken) from broken
        relay = Relay(answer)
        head_ns = time.monotonic_ns() - begun_ns

        async def finish(sent: int) -> None:
            self.calls.ended(request, relay.failure)
            failed = relay.failure is not None or (sent == 0 and not relay.whole)
            if hold is not None and failed:
                await meter.release(hold)
            elif hold is not None:
                digest = relay.digest.hexdigest()
                # What the transport was given; less than that may have left this machine.
                complete = relay.whole and sent == relay.passed
                took_ns = head_ns + int(relay.upstream_s * 1e9)
                unit = asked.context.unit
                units = bounds.owed(unit, hold, size=relay.passed, took_ns=took_ns)
                fact = whole._replace(
                    units=units,
                    bytes=relay.passed,
                    body_sha256=digest,
                    complete=complete,
                )
                await self._settle(hold, fact)
            if isinstance(relay.failure, AnswerBroken):
                await self._violation(asked, relay.failure)

        return RelayedResponse(
            relay,
            media_type=asked.operation.media_type,
            headers=headers,
            deadline_s=max(0.0, deadline - time.monotonic()),
            finish=finish,
            held=held,
        )

    async def _again(
        self, asked: _Asked, earlier: Earlier, headers: dict[str, str]
    ) -> MeteredResponse:
        """The answer of an earlier delivery, free.

        One that was billed on assumption is asked of the upstream again if it was not kept.
        """
        require_replayable(earlier, asked.digest, now=self._kernel.clock.now())
        headers |= meter_headers(0, None, earlier.receipt_id, unit=asked.context.unit)
        deadline_s = meter_of(self._kernel).hold_s - SEND_MARGIN_S
        if earlier.assumed and asked.operation.stream:
            return await self._relayed(asked, headers, hold=None, whole=self._fact(asked))
        if earlier.assumed:
            body, _ = await self._body(asked, deadline=time.monotonic() + deadline_s)
        else:
            known = await kept.find(self._kernel, asked.claims.grant_id, asked.delivery_id)
            if known is None or known.query_sha256 != asked.digest:
                raise AnswerNotKept(param="Delivery-Id")
            body = known.body

        async def nothing(_sent: int) -> None:
            return None

        return _respond(asked, body, headers, deadline_s=deadline_s, finish=nothing)

    def _outgoing(self, asked: _Asked) -> Request:
        injected = secrets.injected(self._kernel, asked.upstream, asked.secret)
        return Request(asked.upstream, asked.operation, asked.parameters, asked.key, injected)

    async def _violation(self, asked: _Asked, broken: AnswerBroken) -> Exception:
        return await violations.refusal(
            self._kernel,
            broken,
            agreement_id=asked.context.agreement_id,
            upstream=asked.upstream,
            operation=asked.operation,
            delivery_key=asked.key,
            parameters_sha256=sha256_hex(canonical_json(asked.parameters)),
        )

    async def _settle(self, hold: Hold, fact: Fact) -> None:
        now = self._kernel.clock.now()
        await meter_of(self._kernel).settle(
            hold, fact._replace(lease_id=hold.lease_id, delivered_at=now)
        )

    def _fact(self, asked: _Asked) -> Fact:
        """The delivery as it is known before the upstream answers: without a body."""
        return Fact(
            usage_id=new_id(),
            receipt_id=new_id(),
            grant_id=asked.claims.grant_id,
            agreement_id=asked.context.agreement_id,
            version_id=asked.context.version_id,
            lease_id=_NO_LEASE,
            token_id=asked.claims.token_id,
            key=asked.key,
            query_sha256=asked.digest,
            format="proxy",
            units=bounds.reserved(asked.context.unit, asked.operation),
            rows=0,
            bytes=0,
            body_sha256=_NOTHING_SHA256,
            complete=True,
            delivered_at=self._kernel.clock.now(),
            asked=Asked(fields=(asked.operation.name,), address=asked.address),
        )


def _digest(upstream: Upstream, operation: Operation, parameters: dict[str, Any]) -> str:
    """What makes two calls the same call. Raises ParametersInvalid for what JSON cannot carry."""
    asked = {
        "upstream": show("ups", upstream.id),
        "revision": upstream.revision,
        "operation": operation.name,
        "parameters": parameters,
    }
    try:
        return sha256_hex(canonical_json(asked))
    except (TypeError, ValueError, orjson.JSONEncodeError) as error:
        raise ParametersInvalid("They hold what JSON cannot carry.", param="parameters") from error


def _respond(
    asked: _Asked, body: bytes, headers: dict[str, str], *, deadline_s: float, finish: Finish
) -> MeteredResponse:
    return MeteredResponse(
        body,
        media_type=asked.operation.media_type,
        headers=headers,
        deadline_s=deadline_s,
        finish=finish,
    )


def proxy_service(kernel: Kernel) -> ProxyService:
    """This process's proxy service."""
    return kernel.service(ProxyService)
