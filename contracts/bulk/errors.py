"""What bulk delivery refuses, beside what every delivery may refuse (:mod:`contracts.errors`)."""

from market.kernel.errors import Invalid, MarketError


class RangeInvalid(Invalid):
    """Ignoring it, as RFC 9110 §14.2 allows, would charge for the whole file."""

    code, title = "range_invalid", "The Range cannot be read"
    default_hint = "One range of bytes: `bytes=0-99`, `bytes=100-` or `bytes=-100`."


class RangeUnsatisfiable(MarketError):
    """The answer's Content-Range names the size of the file in bytes."""

    status = 416
    code, title = "range_unsatisfiable", "The file has no such bytes"
    default_hint = "GET /v1/delivery/bulk/manifest shows its size. Nothing was charged."
