"""Calls of upstreams as the exchange makes them: bounded in number, broken off, checked."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import httpcore
import orjson

from contracts.proxy import json_schemas
from contracts.proxy.breaker import Breakers
from contracts.proxy.calls import Answer, AnswerBroken, Bounds, Caller
from contracts.proxy.checkers import Late, TooCostly
from contracts.proxy.errors import (
    ParametersInvalid,
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamRefused,
    UpstreamTimeout,
)
from contracts.proxy.models import Upstream, ViolationKind
from contracts.proxy.schemas import Operation
from contracts.proxy.templates import Injected, render
from market.kernel.db import assert_no_unit_of_work
from market.kernel.errors import MarketError

# Of one upstream at once, so that a slow one cannot take all of a process's calls.
PER_UPSTREAM_MAX: Final = 8
# Shorter secrets are found in innocent answers.
_ECHO_MIN_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One call: who, what, and under which Delivery-Id."""

    upstream: Upstream
    operation: Operation
    parameters: dict[str, Any]
    delivery: str
    secret: Injected | None

    @property
    def circuit(self) -> tuple[UUID, int]:
        """A replaced upstream starts with a clean record."""
        return self.upstream.id, self.upstream.revision


class Calls:
    """All calls of this process: at most ``calls_max`` at once, PER_UPSTREAM_MAX of one upstream.

    Every refusal here may be UpstreamBusy, UpstreamCircuitOpen (503), UpstreamUnreachable,
    UpstreamBlocked, UpstreamFailed, UpstreamRefused (502), UpstreamTimeout (504) or
    ParametersInvalid (422).
    """

    def __init__(
        self,
        network: httpcore.AsyncNetworkBackend,
        *,
        calls_max: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._caller = Caller(network, tls=tls)
        self._breakers = Breakers()
        self._calls_max = calls_max
        self._running: Counter[UUID] = Counter()

    async def read(self, request: Request, *, deadline: float) -> bytes:
        """As :meth:`timed_read`, without the time."""
        return (await self.timed_read(request, deadline=deadline))[0]

    async def timed_read(self, request: Request, *, deadline: float) -> tuple[bytes, int]:
        """A whole answer that is as its operation describes it, and how long the upstream took.

        Nanoseconds from the request to the answer's last byte, without our checks of it.
        ``deadline`` in monotonic seconds, on top of the operation's own. Raises as the class
        says, and AnswerBroken.
        """
        begun = time.monotonic_ns()
        async with self.open(request, deadline=deadline) as answer:
            try:
                body = await answer.read()
                took_ns = time.monotonic_ns() - begun
                await _check(request, body, deadline=answer.bounds.deadline)
            except (AnswerBroken, MarketError) as failure:
                self.ended(request, failure)
                raise
        self.ended(request, None)
        return body, took_ns

    @asynccontextmanager
    async def open(self, request: Request, *, deadline: float) -> AsyncIterator[Answer]:
        """An answer whose head is good, to be read by the caller, who reports by :meth:`ended`.

        Raises as :meth:`read`.
        """
        assert_no_unit_of_work()
        operation = request.operation
        ends = min(deadline, time.monotonic() + operation.timeout_s)
        outgoing = render(
            request.upstream.base_url,
            operation.method,
            operation.path,
            request.parameters,
            accept=operation.media_type,
            delivery=request.delivery,
            secret=request.secret,
        )
        with self._slot(request.upstream.id):
            wait_s = self._breakers.wait_s(request.circuit)
            if wait_s:
                raise UpstreamCircuitOpen(retry_after_s=ceil(wait_s))
            call = self._caller.call(
                outgoing, Bounds(operation.media_type, operation.max_bytes, ends)
            )
            try:
                answer = await call.__aenter__()
            except (AnswerBroken, MarketError) as failure:
                self.ended(request, failure)
                raise
            try:
                yield answer
            finally:
                await call.__aexit__(None, None, None)

    def ended(self, request: Request, failure: AnswerBroken | MarketError | None) -> None:
        """Tell the circuit how a call went; refusing parameters is no failure."""
        if failure is None or isinstance(failure, UpstreamRefused):
            self._breakers.succeeded(request.circuit)
        else:
            self._breakers.failed(request.circuit)

    @contextmanager
    def _slot(self, upstream_id: UUID) -> Iterator[None]:
        busy = self._running[upstream_id] >= PER_UPSTREAM_MAX
        if busy or self._running.total() >= self._calls_max:
            raise UpstreamBusy(retry_after_s=1)
        self._running[upstream_id] += 1
        try:
            yield
        finally:
            self._running[upstream_id] -= 1
            if not self._running[upstream_id]:
                del self._running[upstream_id]


async def require_fitting(operation: Operation, parameters: dict[str, Any]) -> None:
    """Raises ParametersInvalid (422), UpstreamBusy (503)."""
    try:
        body = json_schemas.json_of(parameters)
        findings = await json_schemas.errors_of(operation.parameters, body)
    except json_schemas.NotJson as error:
        raise ParametersInvalid("They hold what JSON cannot carry.", param="parameters") from error
    except TooCostly as error:
        raise ParametersInvalid("Checking them costs too much.", param="parameters") from error
    except Late as error:
        raise UpstreamBusy(retry_after_s=1) from error
    if findings:
        first = findings[0]
        raise ParametersInvalid(
            first["message"], param=f"parameters{first['path']}", errors=findings
        )


async def _check(request: Request, body: bytes, *, deadline: float) -> None:
    """Raises AnswerBroken, UpstreamTimeout (504)."""

    def broken(
        kind: ViolationKind, message: str, findings: list[dict[str, str]] | None = None
    ) -> AnswerBroken:
        digest = hashlib.sha256(body).hexdigest()
        return AnswerBroken(
            kind, message, findings=findings, body_sha256=digest, byte_count=len(body)
        )

    operation, secret = request.operation, request.secret
    if secret and any(form in body for form in _forms(secret.bare)):
        raise broken(ViolationKind.ECHO, "It repeats the upstream's secret.")
    if operation.media_type != "application/json":
        return
    try:
        findings = await json_schemas.errors_of(operation.answer, body, deadline=deadline)
    except json_schemas.NotJson as error:
        raise broken(ViolationKind.SCHEMA, "It is not JSON.") from error
    except TooCostly as error:
        raise broken(ViolationKind.SCHEMA, "Checking it costs too much.") from error
    except Late as error:
        raise UpstreamTimeout from error
    if findings:
        raise broken(ViolationKind.SCHEMA, findings[0]["message"], findings)


def _forms(secret: str) -> frozenset[bytes]:
    """How a secret reads in an answer that repeats it: as it is, in JSON, in an address."""
    if len(secret) < _ECHO_MIN_CHARS:
        return frozenset()
    in_json = orjson.dumps(secret)[1:-1]
    forms = (secret.encode(), in_json, in_json.replace(b"/", b"\\/"), quote(secret, "").encode())
    return frozenset(forms)
