"""API shapes of registration, versions, certificates and listings (the catalog has its own)."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    model_validator,
)

from listings.classification import Element, Grade, ImpactDegree, ImpactObject, Requirement
from listings.detectors import Sensitive
from listings.lifecycle import Action, ListingStatus, ProductStatus, VersionStatus
from listings.policy_schemas import UNIQUE, Policy, Region, distinct
from listings.vocabulary import Category, DeidentificationMethod, UpdateCycle
from market.kernel.ids import CertificateId, ListingId, PartyId, ProductId, VersionId
from market.kernel.money import AmountMinor, Currency
from market.kernel.schemas import LocalizedText, LongText, Schema, ShortText

PEOPLE_MAX = 10_000_000_000


Regions = Annotated[
    list[Region],
    Field(min_length=1, max_length=64, json_schema_extra=UNIQUE),
    AfterValidator(distinct),
]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Score = Annotated[
    str,
    StringConstraints(pattern=r"^[01]\.[0-9]{4}$"),
    Field(description="Between 0.0000 and 1.0000.", examples=["0.9731"]),
]


class Right(Schema):
    """One of the three separate rights; a held right names its legal or contractual basis."""

    # Stated in JSON Schema too, so that generated clients know it.
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"held": {"const": True}}},
            "then": {"required": ["basis"], "properties": {"basis": {"type": "string"}}},
        }
    )

    held: StrictBool
    basis: LongText | None = None

    @model_validator(mode="after")
    def _held_has_a_basis(self) -> Self:
        if self.held and self.basis is None:
            raise ValueError("a held right needs its basis")
        return self


class Rights(Schema):
    """持有, 加工使用 and 经营 as separate flags (NDRC 2022-12-21)."""

    holding: Right
    processing_use: Right
    product_operation: Right


class RightFlags(Schema):
    """The three rights without their basis, as published."""

    holding: bool
    processing_use: bool
    product_operation: bool


class ImpactInput(Schema):
    """The seller's judgment of one grading element: what a leak would harm, and how badly."""

    element: Element
    object: ImpactObject
    degree: ImpactDegree


class Deidentification(Schema):
    """Evidence that people cannot be identified from the data."""

    method: DeidentificationMethod
    evidence: LongText


class ProductInput(Schema):
    """A registration: what the data is, where it comes from, which rights the seller has."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"contains_personal_data": {"const": False}}},
            "then": {"properties": {"people_count": {"maximum": 0}}},
        }
    )

    name: LocalizedText
    description: LongText
    category: Category
    source_statement: LongText = Field(description="Where the data comes from, and by what right.")
    rights: Rights
    contains_personal_data: StrictBool
    people_count: Annotated[int, Field(strict=True, ge=0, le=PEOPLE_MAX)] = Field(
        default=0, description="Number of people the data is about."
    )
    deidentification: Deidentification | None = None
    impacts: Annotated[list[ImpactInput], Field(max_length=64)] = Field(default_factory=list)
    filing_reference: ShortText | None = Field(
        default=None, description="Filing number of important data."
    )
    regions: Regions
    update_cycle: UpdateCycle

    @model_validator(mode="after")
    def _people_are_personal(self) -> Self:
        if self.people_count > 0 and not self.contains_personal_data:
            raise ValueError("people_count needs contains_personal_data")
        return self


# What a product always has: left out of a patch it stays, but null is refused.
_ALWAYS = frozenset(ProductInput.model_fields) - {"deidentification", "filing_reference"}


def _without_null(schema: dict[str, Any]) -> None:
    for name in _ALWAYS:
        field = schema["properties"][name]
        (form,) = (option for option in field.pop("anyOf") if option != {"type": "null"})
        del field["default"]
        field.update(form)


class ProductPatch(Schema):
    """Changes to a draft; fields that are left out stay as they are."""

    model_config = ConfigDict(json_schema_extra=_without_null)

    name: LocalizedText | None = None
    description: LongText | None = None
    category: Category | None = None
    source_statement: LongText | None = None
    rights: Rights | None = None
    contains_personal_data: StrictBool | None = None
    people_count: Annotated[int, Field(strict=True, ge=0, le=PEOPLE_MAX)] | None = None
    deidentification: Deidentification | None = None
    impacts: Annotated[list[ImpactInput], Field(max_length=64)] | None = None
    filing_reference: ShortText | None = None
    regions: Regions | None = None
    update_cycle: UpdateCycle | None = None


class Assessment(Schema):
    """The grade of the declaration and of what was found, and what is missing for a review."""

    grade: Grade
    deciding: list[Element]
    personal_data: bool
    requirements: list[Requirement]


class ProductView(ProductInput):
    """A registered thing, as its owner and the overseers see it."""

    id: ProductId
    owner_id: PartyId
    status: ProductStatus
    status_reason: str | None = Field(description="Why it was rejected.")
    assessment: Assessment
    latest_version: int | None
    certificate_id: CertificateId | None = Field(description="Of the newest certified version.")
    revision: int
    created_at: datetime
    updated_at: datetime


class ColumnView(Schema):
    """One column of the stored Parquet file."""

    name: str
    type: str = Field(description="DuckDB type name.", examples=["BIGINT"])
    nullable: bool


class ColumnProfile(Schema):
    """Facts about one column. Bounds of sensitive columns are never kept."""

    name: str
    type: str
    null_count: int
    approx_distinct: int
    invalid_count: int
    min: str | None
    max: str | None
    sensitive: Sensitive | None
    spellings: int | None
    canonical_spellings: int | None


class Profile(Schema):
    """Facts about a version, counted over all of its rows."""

    row_count: int
    distinct_rows: int
    latest: datetime | None
    columns: list[ColumnProfile]


class Quality(Schema):
    """Scores by the formulas of `listings.quality`; null means not assessed."""

    completeness: Score
    validity: Score
    consistency: Score
    uniqueness: Score
    timeliness: Score | None
    overall: Score


class SourceFormat(StrEnum):
    """What was uploaded. Stored is always Parquet."""

    CSV = "csv"
    PARQUET = "parquet"


class VersionSummary(Schema):
    """One upload of a product's data."""

    id: VersionId
    product_id: ProductId
    number: int
    status: VersionStatus
    grade: Grade
    row_count: int
    byte_count: int = Field(description="Size of the stored Parquet file.")
    sha256: Sha256Hex = Field(description="Of the stored Parquet file.")
    source_format: SourceFormat
    source_bytes: int
    source_sha256: Sha256Hex = Field(description="Of the bytes as uploaded.")
    sensitive_columns: list[str]
    quality: Quality
    created_at: datetime


class VersionView(VersionSummary):
    """A version with its schema and profile."""

    columns: list[ColumnView]
    profile: Profile


class Preview(Schema):
    """The first rows in file order; sensitive values, and those of columns that the policy masks,
    are shown as ``***``. None of a listing with a row filter."""

    columns: list[ColumnView]
    rows: list[list[str | int | float | bool | None]]
    row_count: int = Field(description="Rows of the whole version.")
    masked_columns: list[str]


class Reason(Schema):
    """Why an operator decided so; kept with the decision."""

    reason: LongText


class CertificateClaims(Schema):
    """The signed content of a certificate."""

    # The JWS also carries what the keyring adds to every signature.
    model_config = ConfigDict(extra="ignore", frozen=True)

    certificate_id: CertificateId
    product_id: ProductId
    product_name: LocalizedText
    owner_id: PartyId
    owner_name: str
    version_id: VersionId
    version_number: int
    sha256: Sha256Hex
    row_count: int
    byte_count: int
    rights: RightFlags
    grade: Grade
    profile_sha256: Sha256Hex
    issued_at: datetime
    iss: str
    iat: int


class CertificateView(Schema):
    """A registration certificate: verify ``jws`` offline with the published JWKS."""

    id: CertificateId
    product_id: ProductId
    version_id: VersionId
    claims: CertificateClaims
    jws: str
    issued_at: datetime


class ListingInput(Schema):
    """An offer of a certified version. Category and version default to the product's own."""

    product_id: ProductId
    version_id: VersionId | None = None
    title: LocalizedText
    summary: LongText
    category: Category | None = None
    policy: Policy


class ListingPatch(Schema):
    """Changes to a draft listing; fields that are left out stay as they are."""

    title: LocalizedText | None = None
    summary: LongText | None = None
    category: Category | None = None
    policy: Policy | None = None


class PriceSummary(Schema):
    """The lowest active plan price of a listing, in minor units per lot."""

    from_minor: AmountMinor
    currency: Currency
    plan_kinds: list[str]


class ListingView(Schema):
    """An offer."""

    id: ListingId
    product_id: ProductId
    version_id: VersionId
    seller_id: PartyId
    title: LocalizedText
    summary: str
    category: Category
    grade: Grade
    policy: Policy
    status: ListingStatus
    status_reason: str | None
    price: PriceSummary | None
    revision: int
    created_at: datetime
    updated_at: datetime
    listed_at: datetime | None


class SubjectKind(StrEnum):
    """What is under review."""

    PRODUCT = "product"
    VERSION = "version"
    LISTING = "listing"


class ReviewItem(Schema):
    """One object that waits for an operator, oldest submission first."""

    kind: SubjectKind
    id: str = Field(description="Product or listing id, as in its own path.")
    title: LocalizedText
    owner_id: PartyId
    owner_name: str
    grade: Grade
    version: int
    submitted_at: datetime


class DecisionView(Schema):
    """One step in the life of an object, with who took it (append-only)."""

    action: Action
    from_status: str
    to_status: str
    actor_id: PartyId
    reason: str | None
    at: datetime
