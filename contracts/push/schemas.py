"""API shapes of pushes and their targets."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from contracts.delivery.formats import Format
from contracts.outbound.sealing import VISIBLE, visible
from contracts.push.models import Follow, PushStatus, TargetKind, TargetStatus
from contracts.versions.granted import NUMBER_MAX
from listings.row_filter import FILTER_MAX_CHARS
from market.kernel.ids import GrantId, PushId, PushTargetId, ReceiptId, TokenId
from market.kernel.schemas import Moment, Schema

PAGE_ROWS_MAX = 100_000

Address = Annotated[
    str, StringConstraints(min_length=9, max_length=500, pattern="^https?://[!-~]+$")
]
_Credential = Annotated[
    SecretStr,
    Field(min_length=1, max_length=200, json_schema_extra={"pattern": VISIBLE}),
    AfterValidator(visible),
]


class WebhookInput(Schema):
    """Parts are POSTed, signed as Standard Webhooks says (standardwebhooks.com)."""

    kind: Literal["webhook"]
    url: Address = Field(examples=["https://hooks.example.com/market"])


class S3Input(Schema):
    """Parts are PUT into a bucket, addressed by path, with Signature Version 4."""

    kind: Literal["s3"]
    endpoint: Address = Field(examples=["https://s3.eu-central-1.amazonaws.com"])
    region: Annotated[str, StringConstraints(pattern="^[a-z0-9-]{1,40}$")]
    bucket: Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[
        str, StringConstraints(max_length=200, pattern=r"^([A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*)?$")
    ] = ""
    access_key_id: _Credential
    secret_access_key: _Credential


PushTargetInput = Annotated[WebhookInput | S3Input, Field(discriminator="kind")]


class PushTargetView(Schema):
    """A target as its buyer sees it; credentials are never shown."""

    id: PushTargetId
    kind: TargetKind
    url: str
    region: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    status: TargetStatus
    created_at: Moment
    verified_at: Moment | None


class NewPushTarget(PushTargetView):
    """A target just made."""

    signing_secret: str | None = Field(
        default=None, description="Of a webhook; shown once. Signatures are made with it."
    )


class PushVerification(Schema):
    """How a ping went."""

    ok: bool
    problem: str | None = Field(description="Why the target counts as unreachable.")
    target: PushTargetView


class PushInput(Schema):
    """Which rows of a grant's version go where; every part is charged like a page of rows."""

    target_id: PushTargetId
    token_id: TokenId = Field(
        description="A token of yours for the grant: its limits, quota and end are the push's."
    )
    select: Annotated[str, StringConstraints(max_length=8_000)] | None = Field(
        default=None, description="Columns, separated by commas."
    )
    filter: Annotated[str, StringConstraints(max_length=FILTER_MAX_CHARS)] | None = None
    order: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    version: Annotated[int, Field(ge=1, le=NUMBER_MAX)] | None = Field(
        default=None, description="The version's number; null: the one that the agreement says."
    )
    since: Annotated[int, Field(ge=1, le=NUMBER_MAX)] | None = Field(
        default=None,
        description="Only what changed since this version, as `/v1/delivery/changes` gives it; "
        "null: all rows.",
    )
    follow: Follow | None = Field(
        default=None,
        description="Push later versions by themselves when the agreement reads them: `all` rows "
        "of each, or its `changes` since the one before; null: this version only.",
    )
    format: Format = Format.NDJSON
    page_rows: Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)] = Field(
        default=10_000, description="Rows of a part."
    )


class PushView(Schema):
    """A push and how far it is."""

    id: PushId
    target_id: PushTargetId
    grant_id: GrantId
    token_id: TokenId
    version: int
    since: int | None
    follow: Follow | None = Field(description="Null also once the next push follows.")
    previous_id: PushId | None = Field(description="The push that this one follows.")
    select: str | None
    filter: str | None
    order: str | None
    format: Format
    page_rows: int
    status: PushStatus
    parts: int = Field(description="Parts that the target took.")
    rows: int
    bytes: int
    attempts: int = Field(description="Failures of the next part in a row.")
    problem: str | None = Field(description="Code of the last failure.")
    next_at: Moment | None = Field(description="When the next attempt is due, if any.")
    created_at: Moment
    ended_at: Moment | None


class PushPartView(Schema):
    """A part that the target took."""

    number: int
    delivery_id: str
    receipt_id: ReceiptId
    rows: int
    bytes: int
    sha256: str
    arrived_at: Moment
