"""HTTP edges, once for all services: problem+json, Idempotency-Key routes, ETags, dependencies."""

import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

import orjson
import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.errors import (
    BadRequest,
    Invalid,
    MarketError,
    PreconditionFailed,
    PreconditionRequired,
)
from market.kernel.idempotency import Answer, Claim, KeyInUse, KeyReused, Replay
from market.kernel.schemas import Problem

PROBLEM_TYPE = "application/problem+json"
IDEMPOTENCY_HEADER = "Idempotency-Key"
# Refusals that are part of the business answer; 401, 429 and 5xx are about the moment instead.
_REMEMBERED_REFUSALS = frozenset({400, 402, 403, 404, 409, 410, 412, 422})
_KEY_FORM = re.compile(r"^[\x21-\x7e]{8,255}$")
_ETAG_FORM = re.compile(r'^"([0-9]{1,18})"$')
# Never the version of a row.
_NO_VERSION = -1

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KeyRequired(BadRequest):
    code = "idempotency_key_required"
    title = "Idempotency-Key required"
    default_hint = "Send a new random Idempotency-Key (8 to 255 visible ASCII characters)."


class BadJson(BadRequest):
    code = "json_invalid"
    title = "The body is not valid JSON"


class ValidationFailed(Invalid):
    code = "validation_failed"
    title = "The request does not have the documented form"


def kernel_of(request: Request) -> Kernel:
    """The kernel of the running app."""
    kernel: Kernel = request.app.state.kernel
    return kernel


async def _kernel(request: Request) -> Kernel:
    # async: a plain function would take a turn of the thread pool at every request.
    return kernel_of(request)


KernelDep = Annotated[Kernel, Depends(_kernel)]


def request_id_of(request: Request) -> str:
    """The request id that the outermost middleware set."""
    return str(request.scope.get("state", {}).get("request_id", "unknown"))


def problem_body(error: MarketError, request_id: str) -> bytes:
    """The RFC 9457 document of a refusal."""
    document: dict[str, Any] = {
        "type": f"urn:market:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "param": error.param,
        "request_id": request_id,
        "hint": error.hint,
    }
    document.update(error.extra)
    return orjson.dumps({name: value for name, value in document.items() if value is not None})


def problem_response(error: MarketError, request: Request) -> Response:
    """Answer a refusal. The body names no internals."""
    return Response(
        problem_body(error, request_id_of(request)),
        status_code=error.status,
        headers=error.headers,
        media_type=PROBLEM_TYPE,
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses=`` entry of a route: these statuses answer problem+json."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


TEXT_HEADER: dict[str, Any] = {"schema": {"type": "string"}}


def created(what: str, parameter: str, *operations: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses=`` entry of a 201, with links to the operations that take the new id."""
    links = {
        operation: {"operationId": operation, "parameters": {parameter: "$response.body#/id"}}
        for operation in operations
    }
    return {201: {"description": what, "headers": {"Location": TEXT_HEADER}, "links": links}}


# Refusals of this request's headers that wait until the caller and the request are known good.
_postponed: ContextVar[list[MarketError] | None] = ContextVar("postponed_refusals", default=None)


def _postpone(refusal: MarketError) -> None:
    waiting = _postponed.get()
    assert waiting is not None, "the route is not an IdempotentRoute"
    waiting.append(refusal)


def _guarded(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The endpoint, behind the postponed refusals: FastAPI calls it last, before any effect."""

    @functools.wraps(endpoint)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        for refusal in _postponed.get() or ():
            raise refusal
        return await endpoint(*args, **kwargs)

    return guarded


class IdempotentRoute(APIRoute):
    """Route class of every router: its POSTs need an Idempotency-Key and answer it once.

    A missing or malformed Idempotency-Key (400) or If-Match (428, 412) is refused after the
    caller (401, 403) and the documented form of the request (422), but before any effect.

    ``openapi_extra={"x-idempotent": True}`` asks another method for a key too, ``False`` opts a
    POST out that changes nothing (or a standard
    endpoint such as the token endpoint); ``{"x-streamed": True}`` marks an upload whose service
    binds the body's hash by ``idempotency.bind_content`` before its first writing unit of work.
    Raises RuntimeError when a successful POST stored no answer: that is a bug of the service.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **kwargs: Any) -> None:
        extra = dict(kwargs.get("openapi_extra") or {})
        methods = set(kwargs.get("methods") or ())
        # Stays in the published description, where the lint reads it.
        self._idempotent = bool(extra.get("x-idempotent", "POST" in methods))
        self._streamed = bool(extra.pop("x-streamed", False))
        if self._idempotent:
            extra["parameters"] = [*extra.get("parameters", []), _KEY_PARAMETER]
        kwargs["openapi_extra"] = extra or None
        super().__init__(path, _guarded(endpoint) if methods - {"GET"} else endpoint, **kwargs)
        if any(dependency.call is _if_match for dependency in self.dependant.dependencies):
            extra["parameters"] = [*extra.get("parameters", []), _IF_MATCH_PARAMETER]
            self.openapi_extra = extra

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        if self._idempotent:
            handler = self._with_key(handler)

        async def postponing(request: Request) -> Response:
            token = _postponed.set([])
            try:
                return await handler(request)
            finally:
                _postponed.reset(token)

        return postponing

    async def key_of(self, request: Request) -> str | None:
        """The key that the client sent. HTML forms cannot set headers: the console overrides it."""
        return request.headers.get(IDEMPOTENCY_HEADER)

    def _with_key(self, handler: Handler) -> Handler:
        async def keyed(request: Request) -> Response:
            try:
                claim = await _claim_of(
                    request, await self.key_of(request), streamed=self._streamed
                )
            except KeyRequired as refusal:
                _postpone(refusal)
                return await handler(request)
            token = idempotency.set_claim(claim)
            try:
                response = await handler(request)
            except Replay as replay:
                return _stored(replay.answer, replayed=True)
            except MarketError as refusal:
                return await _refused(request, claim, refusal)
            finally:
                idempotency.reset_claim(token)
            if claim.answer is not None:
                return _stored(claim.answer, replayed=False)
            if claim.enforced and response.status_code < 300:
                raise RuntimeError(f"{self.path}: a POST must end in uow.answer()")
            return response

        return keyed


_KEY_PARAMETER = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": True,
    "description": "New random key per command; repeating it repeats the answer, not the effect.",
    "schema": {"type": "string", "minLength": 8, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_MATCH_PARAMETER = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag of the version that was edited.",
    "schema": {"type": "string", "pattern": '^"[0-9]{1,18}"$'},
}


async def _claim_of(request: Request, key: str | None, *, streamed: bool) -> Claim:
    if key is None:
        raise KeyRequired(param=IDEMPOTENCY_HEADER)
    if not _KEY_FORM.match(key):
        raise KeyRequired("The Idempotency-Key has a wrong form.", param=IDEMPOTENCY_HEADER)
    digest = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    if not streamed:
        digest.update(await request.body())
    return Claim(key=key, request_hash=digest.digest(), enforced=not streamed)


async def _refused(request: Request, claim: Claim, refusal: MarketError) -> Response:
    if (
        not claim.checked
        or refusal.status not in _REMEMBERED_REFUSALS
        or isinstance(refusal, KeyInUse | KeyReused)
    ):
        raise refusal
    body = problem_body(refusal, request_id_of(request))
    headers = {**refusal.headers, "content-type": PROBLEM_TYPE}
    try:
        async with kernel_of(request).unit_of_work() as uow:
            await idempotency.remember(
                await uow.raw(), claim, Answer(refusal.status, body, headers)
            )
    except Replay as replay:
        return _stored(replay.answer, replayed=True)
    assert claim.answer is not None
    return _stored(claim.answer, replayed=False)


def _stored(answer: Answer, *, replayed: bool) -> Response:
    headers = {"content-type": "application/json", **answer.headers}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(answer.body, status_code=answer.status, headers=headers)


def etag(version: int) -> str:
    """The strong ETag of an editable row's version number."""
    return f'"{version}"'


async def _if_match(request: Request) -> int:
    given = request.headers.get("If-Match")
    if given is None:
        _postpone(PreconditionRequired(param="If-Match"))
        return _NO_VERSION
    found = _ETAG_FORM.fullmatch(given)
    if found is None:
        _postpone(PreconditionFailed("The ETag is not one of ours.", param="If-Match"))
        return _NO_VERSION
    return int(found.group(1))


# The version number that the caller edited; services compare it with the row under lock.
IfMatch = Annotated[int, Depends(_if_match)]


def require_version(expected: int, current: int) -> None:
    """Raises PreconditionFailed (412) when the row moved on."""
    if expected != current:
        raise PreconditionFailed(param="If-Match")


def _validation_error(error: RequestValidationError) -> MarketError:
    errors = error.errors()
    first = errors[0] if errors else {"loc": (), "msg": "invalid", "type": ""}
    if first["type"] == "json_invalid":
        return BadJson(param="body")
    found = [
        {"param": _param(item["loc"]), "message": str(item["msg"])[:300]} for item in errors[:20]
    ]
    return ValidationFailed(str(first["msg"])[:300], param=_param(first["loc"]), errors=found)


def _param(location: Sequence[Any]) -> str:
    parts = [str(part) for part in location if part not in ("body", "query", "path", "header")]
    return ".".join(parts)[:200] or str(location[0] if location else "body")


def _allowed_methods(request: Request) -> str:
    """The Allow header: the router names only the methods of the first route of the path."""
    path = request.scope["path"]
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        form = getattr(route, "path_regex", None)
        if form is not None and form.match(path):
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


def _http_error(error: HTTPException, request: Request) -> MarketError:
    titles = {400: "Unreadable body", 404: "No such route", 405: "Method not allowed"}
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed_methods(request)
    made = MarketError(titles.get(error.status_code, str(error.detail)), headers=headers)
    made.status = error.status_code  # type: ignore[misc]
    codes = {400: "body_unreadable", 404: "route_not_found", 405: "method_not_allowed"}
    made.code = codes.get(error.status_code, f"http_{error.status_code}")  # type: ignore[misc]
    made.title = made.detail  # type: ignore[misc]
    return made


def install_errors(app: FastAPI) -> None:
    """Map every expected exception to problem+json, once (the middleware takes the others)."""

    async def market_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, MarketError)
        return problem_response(error, request)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_response(_validation_error(error), request)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(_http_error(error, request), request)

    app.add_exception_handler(MarketError, market_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)


def add_problem_schema(document: dict[str, Any]) -> None:
    """Put the Problem schema into an OpenAPI document, and use it for 422 everywhere."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path in document.get("paths", {}).values():
        for operation in path.values():
            responses = operation.get("responses", {})
            if "422" in responses:
                responses["422"] = {"description": "Problem", "content": content}
            responses.setdefault("default", {"description": "Problem", "content": content})


def bind_log(request_id: str) -> None:
    """Every log line of this request carries its id."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
