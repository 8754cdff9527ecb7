"""Pure ASGI middleware: request id, body cap, security headers, metrics, access log."""

import re
import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.kernel.db import transient
from market.kernel.errors import MarketError, TooLarge
from market.kernel.http import PROBLEM_TYPE, bind_log, problem_body
from market.kernel.ids import new_id
from market.kernel.logging import get_logger

_REQUEST_ID_FORM = re.compile(r"^[A-Za-z0-9_-]{8,64}$")
_log = get_logger("market.access")

REQUESTS = Counter("market_http_requests_total", "Requests", ["method", "route", "status"])
LATENCY = Histogram("market_http_request_seconds", "Time to the last byte", ["method", "route"])

_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class RequestContext:
    """Outermost: request id in and out, metrics by route template, one access line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID_FORM.match(given) else f"req_{new_id().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        bind_log(request_id)
        started = time.perf_counter()
        status = 500
        answering = False

        async def stamped(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                answering = True
                status = message["status"]
                headers = message.setdefault("headers", [])
                names = {name.lower() for name, _ in headers}
                headers.append((b"x-request-id", request_id.encode()))
                headers.extend(pair for pair in _SECURITY_HEADERS if pair[0] not in names)
                if b"cache-control" not in names:
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        try:
            await self.app(scope, receive, stamped)
        except Exception as error:
            problem = transient(error)
            if problem is None:
                _log.exception("unexpected_error", path=scope["path"], exc_info=error)
            if answering:
                raise
            refusal = problem or MarketError("Something failed on our side.")
            await _send_problem(refusal, scope, stamped)
        finally:
            elapsed_s = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            REQUESTS.labels(scope["method"], route, str(status)).inc()
            LATENCY.labels(scope["method"], route).observe(elapsed_s)
            if status >= 500:
                _log.warning("request", method=scope["method"], route=route, status=status)


class BodyLimit:
    """Refuse bodies over the cap by 413, whether declared or chunked.

    Paths in ``streamed`` (uploads) count their own bytes against their own, larger cap.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, streamed: re.Pattern[str]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.streamed.match(scope["path"]):
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await self._refuse(scope, send)
            return
        seen = 0
        answering = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise _OverLimit
            return message

        async def observed(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self.app(scope, counted, observed)
        except _OverLimit:
            if not answering:
                await self._refuse(scope, send)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        detail = f"The body may have at most {self.max_bytes} bytes."
        error = TooLarge(detail, param="body", headers={"Connection": "close"})
        await _send_problem(error, scope, send)


async def _send_problem(error: MarketError, scope: Scope, send: Send) -> None:
    body = problem_body(error, str(scope.get("state", {}).get("request_id", "unknown")))
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers.append((b"content-type", PROBLEM_TYPE.encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _OverLimit(BaseException):
    """Not an Exception, so that no handler on the way turns it into a 500."""
