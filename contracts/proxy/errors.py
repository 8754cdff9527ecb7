"""Refusals of the proxy. None of them is ever charged. The tree:

NotFound ─ UpstreamNotFound, OperationNotFound
Conflict ─ UpstreamExists, UpstreamRetired, ProxyUnitRefused, AnswerNotKept
Invalid ─ UpstreamInvalid, OperationInvalid, SchemaInvalid, ParametersInvalid, SecretInvalid
BadGateway ─ UpstreamUnreachable, UpstreamBlocked, UpstreamFailed, UpstreamRefused,
             UpstreamAnswerInvalid, UpstreamTooLarge
Unavailable ─ UpstreamBusy, UpstreamCircuitOpen, UpstreamSecretMissing
GatewayTimeout ─ UpstreamTimeout
"""

from market.kernel.errors import Conflict, Invalid, MarketError, NotFound, Unavailable

_RETRY = "Nothing was charged. Repeat the request later."


class BadGateway(MarketError):
    status, code, title = 502, "bad_gateway", "The upstream did not answer usably"
    default_hint = _RETRY


class GatewayTimeout(MarketError):
    status, code, title = 504, "gateway_timeout", "The upstream did not answer in time"
    default_hint = _RETRY


class UpstreamNotFound(NotFound):
    code, title = "upstream_not_found", "No such upstream"


class OperationNotFound(NotFound):
    code, title = "operation_not_found", "The product has no such operation"
    default_hint = "GET /v1/delivery/proxy lists the operations of a grant."


class UpstreamExists(Conflict):
    code, title = "upstream_exists", "The product has an upstream already"
    default_hint = "Replace it, or retire it first."


class UpstreamRetired(Conflict):
    code, title = "upstream_retired", "The upstream is retired"
    default_hint = "Register a new one for the product."


class ProxyUnitRefused(Conflict):
    code, title = "proxy_unit_refused", "The grant counts something that a call does not have"
    default_hint = "Calls are delivered on plans by call, MiB or compute second, and on licenses."


class AnswerNotKept(Conflict):
    code, title = "answer_not_kept", "This delivery was made; its answer is no longer kept"
    default_hint = "Use a new Delivery-Id; it is a new call."


class UpstreamInvalid(Invalid):
    code, title = "upstream_invalid", "The upstream cannot be registered like this"


class OperationInvalid(Invalid):
    code, title = "operation_invalid", "The operation cannot be registered like this"


class SchemaInvalid(Invalid):
    code, title = "schema_invalid", "The JSON Schema cannot be used"
    default_hint = "JSON Schema 2020-12 without references, at most 32 KiB."


class ParametersInvalid(Invalid):
    """Extra member ``errors``: where the parameters break the operation's schema, and how."""

    code, title = "parameters_invalid", "The parameters do not fit the operation"


class SecretInvalid(Invalid):
    code, title = "secret_invalid", "The upstream takes no secret"
    default_hint = "Say where it goes first: `secret` of the upstream."


class UpstreamUnreachable(BadGateway):
    code, title = "upstream_unreachable", "The upstream cannot be reached"


class UpstreamBlocked(BadGateway):
    """Its name leads to an address that is not public; no connection was made."""

    code, title = "upstream_blocked", "The upstream's address is not allowed"


class UpstreamFailed(BadGateway):
    """Extra member ``upstream_status``, or the connection broke."""

    code, title = "upstream_failed", "The upstream failed"


class UpstreamRefused(BadGateway):
    """Extra member ``upstream_status``: the upstream answered 4xx to these parameters."""

    code, title = "upstream_refused", "The upstream refused the call"
    default_hint = "Nothing was charged. Check the parameters."


class UpstreamAnswerInvalid(BadGateway):
    """Extra member ``violation``: the id of the evidence that was written."""

    code, title = "upstream_answer_invalid", "The upstream's answer breaks its own description"
    default_hint = "Nothing was charged. The violation is on record and can be named in a dispute."


class UpstreamTooLarge(UpstreamAnswerInvalid):
    code, title = "upstream_too_large", "The upstream's answer is larger than declared"


class UpstreamBusy(Unavailable):
    code, title = "upstream_busy", "Too many calls of this upstream are running"
    default_hint = "Nothing was charged. Repeat the request after Retry-After seconds."


class UpstreamCircuitOpen(Unavailable):
    code, title = "upstream_circuit_open", "The upstream has failed repeatedly and is left alone"
    default_hint = "Nothing was charged. Repeat the request after Retry-After seconds."


class UpstreamSecretMissing(Unavailable):
    code, title = "upstream_secret_missing", "The seller has not set the upstream's secret yet"
    default_hint = "Nothing was charged. Ask the seller."


class UpstreamTimeout(GatewayTimeout):
    code, title = "upstream_timeout", "The upstream did not answer in time"
