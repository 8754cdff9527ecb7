"""Refusals of Delta Sharing, and the protocol's own words for all refusals.

NotFound ─ ShareNotFound            BadRequest ─ SharingRequestInvalid, VersionNotShared
Unauthorized ─ SharingTokenExpired  Forbidden ─ FileLinkInvalid
MarketError ─ RangeUnsatisfiable (416)
"""

from market.kernel.errors import BadRequest, Forbidden, MarketError, NotFound, Unauthorized


class ShareNotFound(NotFound):
    code, title = "share_not_found", "The token's share has no such name"


class SharingRequestInvalid(BadRequest):
    code, title = "sharing_request_invalid", "The request does not have the protocol's form"


class VersionNotShared(BadRequest):
    code, title = "version_not_shared", "That version of the table is not shared"
    default_hint = "The agreement is about one version: ask for `delta-table-version`, or none."


class SharingTokenExpired(Unauthorized):
    """401 and not 410: the official clients know expired profiles by it."""

    code, title = "token_expired", "The profile's token has expired"
    default_hint = "Mint a new token with POST /v1/grants/{id}/tokens and fetch its profile."


class FileLinkInvalid(Forbidden):
    code, title = "file_link_invalid", "The link to the file is not valid, or no longer"
    default_hint = "Query the table again: links are short-lived."


class RangeUnsatisfiable(MarketError):
    status, code, title = 416, "range_unsatisfiable", "The range lies outside of the file"


_WORDS = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    402: "QUOTA_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    410: "ACCESS_ENDED",
    413: "REQUEST_LIMIT_EXCEEDED",
    416: "INVALID_PARAMETER_VALUE",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}


def in_protocol_form(error: MarketError) -> MarketError:
    """The same refusal, its problem document with the protocol's ``errorCode`` and ``message``."""
    message = error.detail if error.hint is None else f"{error.detail} {error.hint}"
    error.extra |= {"errorCode": _WORDS.get(error.status, "INTERNAL_ERROR"), "message": message}
    return error
