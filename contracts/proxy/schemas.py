"""API shapes of upstreams, operations, calls and violations."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from contracts.outbound.sealing import VISIBLE, visible
from contracts.proxy.models import UpstreamStatus, ViolationKind
from market.kernel.ids import AgreementId, PartyId, ProductId, UpstreamId, ViolationId
from market.kernel.schemas import Moment, Schema, ShortText

# A buffered answer is held in memory whole while it is checked.
CHECKED_MAX_BYTES = 4 << 20
STREAMED_MAX_BYTES = 1 << 30
OPERATIONS_MAX = 50

OperationName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,49}$")]
_HEADER = r"^[A-Za-z0-9_-]{1,64}$"
# Types that no browser runs.
MediaType = Literal[
    "application/json",
    "application/x-ndjson",
    "application/octet-stream",
    "application/pdf",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.parquet",
    "image/jpeg",
    "image/png",
    "text/csv",
    "text/plain",
]
JsonSchema = Annotated[
    dict[str, Any],
    Field(description="JSON Schema 2020-12, written out: at most 32 KiB, no references."),
]
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Operation(Schema):
    """One way to ask an upstream."""

    name: OperationName
    description: ShortText | None = None
    method: Literal["GET", "POST"] = Field(
        default="GET", description="Only GET is tried again when a connection breaks."
    )
    path: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern="^/")] = Field(
        description="Below the base address; `{name}` takes a required parameter.",
        examples=["/v1/stocks/{symbol}/quotes"],
    )
    parameters: JsonSchema = Field(default=_NO_PARAMETERS)
    answer: JsonSchema | None = Field(
        default=None, description="What a JSON answer must be; anything else is not charged."
    )
    media_type: MediaType = "application/json"
    stream: bool = Field(
        default=False, description="Passed on as it arrives, unchecked; excludes `answer`."
    )
    max_bytes: Annotated[int, Field(ge=1, le=STREAMED_MAX_BYTES)] = Field(
        default=1 << 20, description="Of the decompressed answer; at most 4 MiB unless streamed."
    )
    timeout_s: Annotated[int, Field(ge=1, le=20)] = Field(
        default=10, description="For the whole call, connecting to last byte."
    )
    cache_ttl_s: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=0, description="Answers to the same parameters may be reused so long; 0: never."
    )


class SecretPlace(Schema):
    """Where the secret goes; its value is set by PUT …/secret and never shown."""

    place: Literal["header", "query"]
    name: Annotated[str, StringConstraints(pattern=_HEADER)]
    prefix: Annotated[str, StringConstraints(max_length=20, pattern="^[!-~]* ?$")] = Field(
        default="", description="Put before the value.", examples=["Bearer "]
    )


class UpstreamInput(Schema):
    """A seller's API: its address, where its secret goes, what may be asked."""

    base_url: Annotated[
        str, StringConstraints(min_length=9, max_length=500, pattern="^https?://[!-~]+$")
    ] = Field(examples=["https://api.example.com/v2"])
    secret: SecretPlace | None = None
    operations: list[Operation] = Field(min_length=1, max_length=OPERATIONS_MAX)


class SecretBody(Schema):
    """The new secret; the one before is gone at once."""

    value: Annotated[
        SecretStr,
        Field(min_length=1, max_length=4_096, json_schema_extra={"pattern": VISIBLE}),
        AfterValidator(visible),
    ] = Field(description="Visible ASCII characters.")


class TrialBody(Schema):
    """A call on the seller's own account."""

    operation: OperationName
    parameters: dict[str, Any] = Field(default={})


class UpstreamView(Schema):
    """An upstream as its seller sees it."""

    id: UpstreamId
    product_id: ProductId
    owner_id: PartyId
    base_url: str
    secret: SecretPlace | None
    secret_number: int | None = Field(description="How often it was set; null: not yet.")
    secret_set_at: Moment | None
    operations: list[Operation]
    status: UpstreamStatus
    revision: int
    created_at: Moment
    updated_at: Moment
    retired_at: Moment | None


class Finding(Schema):
    """One way in which an answer broke its description. Quotes nothing of its values."""

    path: str
    message: str
    rule: str


class TrialView(Schema):
    """How a test call ended. The answer itself is not shown."""

    ok: bool
    problem: str | None = Field(description="The code that a buyer would have got.")
    upstream_status: int | None
    byte_count: int | None
    body_sha256: str | None
    elapsed_ms: int
    findings: list[Finding]


class OperationView(Schema):
    """One operation as a buyer sees it: without its path and secret."""

    name: OperationName
    description: ShortText | None
    parameters: dict[str, Any]
    answer: dict[str, Any] | None
    media_type: MediaType
    stream: bool
    max_bytes: int


class OperationList(Schema):
    """What a grant may ask; all of it, at most 50."""

    items: list[OperationView]


class CallBody(Schema):
    """The parameters of one call, as the operation's schema says."""

    parameters: dict[str, Any] = Field(default={})


class ViolationView(Schema):
    """An answer that broke its operation's description; not charged."""

    id: ViolationId
    agreement_id: AgreementId
    upstream_id: UpstreamId
    revision: int
    delivery_id: str
    operation: OperationView = Field(description="As it was in force.")
    kind: ViolationKind
    findings: list[Finding]
    parameters_sha256: str
    body_sha256: str = Field(description="Of the first bytes that were read.")
    byte_count: int
    happened_at: Moment
