"""Identifiers: UUIDv7 in Python and Postgres, ``<prefix>_<32 hex>`` on the wire."""

import re
from typing import Annotated, Any
from uuid import UUID, SafeUUID

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from uuid_utils import uuid7

PREFIXES = {
    "acc": "account",
    "agr": "agreement",
    "alr": "alert",
    "auc": "auction",
    "bid": "bid",
    "bnd": "bundle",
    "cal": "call auction",
    "cor": "correction",
    "crd": "credential",
    "crt": "certificate",
    "dsp": "dispute",
    "evd": "evidence",
    "evt": "event",
    "fxq": "exchange quote",
    "fxr": "exchange rate",
    "fee": "fee schedule",
    "grt": "grant",
    "hld": "hold",
    "inv": "invoice",
    "lst": "listing",
    "ord": "order",
    "pay": "payout",
    "pln": "plan",
    "prd": "product",
    "psh": "push",
    "ptg": "push target",
    "pty": "party",
    "quo": "quote",
    "rcp": "receipt",
    "req": "request",
    "rul": "ruling",
    "sva": "surveillance alert",
    "tok": "token",
    "top": "top-up",
    "trd": "trade",
    "txd": "tax declaration",
    "txn": "transfer",
    "ups": "upstream",
    "usa": "usage alert",
    "use": "usage record",
    "val": "valuation",
    "ver": "product version",
    "vio": "violation",
}


# UUID refuses assignment and checks what it is given; its slots' descriptors do neither. Half the
# time of uuid_utils.compat, and an order with its trade needs about a dozen ids.
_set_int = UUID.__dict__["int"].__set__
_set_safety = UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown
_make = object.__new__


def new_id() -> UUID:
    """A new UUIDv7 (RFC 9562): time-ordered, so that B-tree inserts stay on the right edge."""
    made = _make(UUID)
    _set_int(made, uuid7().int)
    _set_safety(made, _UNKNOWN)
    return made


def show(prefix: str, value: UUID) -> str:
    """The wire form of an id, for example ``prd_0190f3…``."""
    return f"{prefix}_{value.int:032x}"


def parse(prefix: str, text: str) -> UUID:
    """The UUID behind a wire id. Raises ValueError when prefix or form is wrong."""
    if not re.fullmatch(rf"{prefix}_[0-9a-f]{{32}}", text):
        raise ValueError(f"expected {prefix}_ followed by 32 lowercase hex digits")
    return UUID(hex=text[len(prefix) + 1 :])


def _wire(prefix: str) -> Any:
    def validate(value: object) -> UUID:
        if isinstance(value, UUID):
            return value
        if isinstance(value, str):
            return parse(prefix, value)
        raise ValueError(f"expected a {PREFIXES[prefix]} id")

    def serialize(value: UUID) -> str:
        return show(prefix, value)

    schema = {
        "type": "string",
        "pattern": f"^{prefix}_[0-9a-f]{{32}}$",
        "description": f"Identifier of a {PREFIXES[prefix]}.",
        "examples": [f"{prefix}_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"],
    }
    return (
        BeforeValidator(validate),
        PlainSerializer(serialize, return_type=str, when_used="json"),
        WithJsonSchema(schema),
    )


AccountId = Annotated[UUID, *_wire("acc")]
AgreementId = Annotated[UUID, *_wire("agr")]
AlertId = Annotated[UUID, *_wire("alr")]
AuctionId = Annotated[UUID, *_wire("auc")]
BidId = Annotated[UUID, *_wire("bid")]
BundleId = Annotated[UUID, *_wire("bnd")]
CallAuctionId = Annotated[UUID, *_wire("cal")]
CorrectionId = Annotated[UUID, *_wire("cor")]
CredentialId = Annotated[UUID, *_wire("crd")]
CertificateId = Annotated[UUID, *_wire("crt")]
DisputeId = Annotated[UUID, *_wire("dsp")]
EvidenceId = Annotated[UUID, *_wire("evd")]
EventId = Annotated[UUID, *_wire("evt")]
ExchangeQuoteId = Annotated[UUID, *_wire("fxq")]
ExchangeRateId = Annotated[UUID, *_wire("fxr")]
FeeScheduleId = Annotated[UUID, *_wire("fee")]
GrantId = Annotated[UUID, *_wire("grt")]
HoldId = Annotated[UUID, *_wire("hld")]
InvoiceId = Annotated[UUID, *_wire("inv")]
ListingId = Annotated[UUID, *_wire("lst")]
OrderId = Annotated[UUID, *_wire("ord")]
PayoutId = Annotated[UUID, *_wire("pay")]
PlanId = Annotated[UUID, *_wire("pln")]
ProductId = Annotated[UUID, *_wire("prd")]
PartyId = Annotated[UUID, *_wire("pty")]
PushId = Annotated[UUID, *_wire("psh")]
PushTargetId = Annotated[UUID, *_wire("ptg")]
QuoteId = Annotated[UUID, *_wire("quo")]
ReceiptId = Annotated[UUID, *_wire("rcp")]
RequestId = Annotated[UUID, *_wire("req")]
RulingId = Annotated[UUID, *_wire("rul")]
SurveillanceAlertId = Annotated[UUID, *_wire("sva")]
TokenId = Annotated[UUID, *_wire("tok")]
TopUpId = Annotated[UUID, *_wire("top")]
TradeId = Annotated[UUID, *_wire("trd")]
TaxDeclarationId = Annotated[UUID, *_wire("txd")]
TransferId = Annotated[UUID, *_wire("txn")]
UpstreamId = Annotated[UUID, *_wire("ups")]
UsageAlertId = Annotated[UUID, *_wire("usa")]
UsageId = Annotated[UUID, *_wire("use")]
ValuationId = Annotated[UUID, *_wire("val")]
VersionId = Annotated[UUID, *_wire("ver")]
ViolationId = Annotated[UUID, *_wire("vio")]
