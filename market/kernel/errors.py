"""Errors that reach a client. The tree:

MarketError
├── Invalid 422            ├── Unauthorized 401      ├── TooMany 429
├── NotFound 404           ├── Forbidden 403         ├── Unavailable 503
├── Conflict 409           ├── PaymentRequired 402   ├── Gone 410
├── PreconditionFailed 412 ├── PreconditionRequired 428
├── TooLarge 413           ├── UnsupportedMediaType 415
└── NotAcceptable 406      └── BadRequest 400

Packages subclass these in their own ``errors.py`` with a stable ``code``; ``kernel.http`` maps
them once to RFC 9457 problem+json.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class MarketError(Exception):
    """Base of every refusal: ``code`` is stable API, ``detail`` is for people.

    ``param`` names the offending input, ``hint`` the next step, ``extra`` adds members to the
    problem document (for example ``remaining``).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    default_hint: ClassVar[str | None] = None

    def __init__(
        self,
        detail: str = "",
        *,
        param: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.param = param
        self.hint = hint if hint is not None else self.default_hint
        self.headers = dict(headers or {})
        self.extra = extra


class BadRequest(MarketError):
    status, code, title = 400, "bad_request", "Bad request"


class Unauthorized(MarketError):
    status, code, title = 401, "unauthorized", "Authentication required"


class PaymentRequired(MarketError):
    status, code, title = 402, "payment_required", "Payment required"


class Forbidden(MarketError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(MarketError):
    status, code, title = 404, "not_found", "Not found"
    default_hint = "Check the identifier, and that it belongs to your organization."


class NotAcceptable(MarketError):
    status, code, title = 406, "not_acceptable", "Not acceptable"


class Conflict(MarketError):
    status, code, title = 409, "conflict", "Conflict with the current state"


class Gone(MarketError):
    status, code, title = 410, "gone", "Gone"


class PreconditionFailed(MarketError):
    status, code, title = 412, "stale_version", "The resource has changed"
    default_hint = "Fetch the resource again and repeat with its current ETag in If-Match."


class TooLarge(MarketError):
    status, code, title = 413, "too_large", "Payload too large"


class UnsupportedMediaType(MarketError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Invalid(MarketError):
    status, code, title = 422, "invalid", "Invalid input"


class PreconditionRequired(MarketError):
    status, code, title = 428, "if_match_required", "If-Match required"
    default_hint = "Send the ETag of the version you edited in If-Match."


class TooMany(MarketError):
    status, code, title = 429, "too_many_requests", "Too many requests"


class Unavailable(MarketError):
    """Transient; always carries Retry-After (seconds)."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"
    default_hint = "Repeat the request with the same Idempotency-Key after Retry-After seconds."

    def __init__(self, detail: str = "", *, retry_after_s: int = 1, **kwargs: Any) -> None:
        headers = {"Retry-After": str(retry_after_s), **(kwargs.pop("headers", None) or {})}
        super().__init__(detail, headers=headers, **kwargs)
