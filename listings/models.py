"""Tables of listings: products, versions, certificates, listings, decisions, catalog, uploads.

``certificate`` and ``decision`` are append-only: 数据安全法 article 33 makes an intermediary keep
its review records. ``catalog_entry`` holds exactly the listings on the market, so a search
cannot show any other; triggers of the migration keep ``catalog_cell`` (facet counts) equal to it
and refuse status steps that `listings.lifecycle` does not know.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    integer_column,
    moment_column,
    text_column,
    uuid_column,
)

SCHEMA = {"schema": "listings"}
_GRADES = "grade IN ('core', 'important', 'general')"
_SHA256 = "'^[0-9a-f]{64}$'"
# LIKE 'prefix%' uses a B-tree under any collation only with this operator class.
_PATTERN_EN = {"title_en": "text_pattern_ops"}
_PATTERN_ZH = {"title_zh": "text_pattern_ops"}


def _child(target: str, name: str) -> Any:
    return Column(Uuid, ForeignKey(target, name=name), nullable=False)


def _json(*, nullable: bool = False) -> Any:
    # none_as_null: an absent document is SQL NULL, never the JSON value null.
    return Column(JSONB(none_as_null=True), nullable=nullable)


class Product(SQLModel, table=True):
    """A registered thing. ``revision`` counts its changes and is its ETag."""

    __tablename__ = "product"
    __table_args__ = (
        CheckConstraint(
            "status IN ('draft', 'in_review', 'registered', 'rejected')",
            name="product_status_known",
        ),
        CheckConstraint(_GRADES, name="product_grade_known"),
        CheckConstraint("people_count >= 0", name="product_people_count"),
        CheckConstraint("revision >= 1", name="product_revision_positive"),
        CheckConstraint(
            "status <> 'in_review' OR grade <> 'core'", name="product_core_never_in_review"
        ),
        Index("product_owner", "owner_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    owner_id: UUID = Field(sa_column=uuid_column())
    name: dict[str, Any] = Field(sa_column=_json())
    description: str = Field(sa_column=text_column())
    category: str = Field(sa_column=text_column())
    source_statement: str = Field(sa_column=text_column())
    rights: dict[str, Any] = Field(sa_column=_json())
    contains_personal_data: bool = Field(sa_column=Column(Boolean, nullable=False))
    people_count: int = Field(sa_column=bigint_column())
    deidentification: dict[str, Any] | None = Field(default=None, sa_column=_json(nullable=True))
    impacts: list[dict[str, Any]] = Field(sa_column=_json())
    filing_reference: str | None = Field(default=None, sa_column=text_column(nullable=True))
    regions: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    update_cycle: str = Field(sa_column=text_column())
    grade: str = Field(sa_column=text_column())
    status: str = Field(sa_column=text_column())
    status_reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    revision: int = Field(default=1, sa_column=integer_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    submitted_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class ProductVersion(SQLModel, table=True):
    """One upload: a Parquet blob with its schema, profile, scores and grade."""

    __tablename__ = "product_version"
    __table_args__ = (
        UniqueConstraint("product_id", "number", name="product_version_number"),
        UniqueConstraint("product_id", "source_sha256", name="product_version_source"),
        UniqueConstraint("blob_key", name="product_version_blob"),
        CheckConstraint("number >= 1", name="product_version_number_positive"),
        CheckConstraint("row_count >= 1", name="product_version_rows"),
        CheckConstraint("byte_count >= 1", name="product_version_bytes"),
        CheckConstraint("source_bytes >= 1", name="product_version_source_bytes"),
        CheckConstraint(f"sha256 ~ {_SHA256}", name="product_version_sha256"),
        CheckConstraint(f"source_sha256 ~ {_SHA256}", name="product_version_source_sha256"),
        CheckConstraint("source_format IN ('csv', 'parquet')", name="product_version_format"),
        CheckConstraint(_GRADES, name="product_version_grade_known"),
        CheckConstraint(
            "status IN ('draft', 'in_review', 'certified', 'rejected')",
            name="product_version_status_known",
        ),
        Index(
            "product_version_review_queue",
            "submitted_at",
            "id",
            postgresql_where=text("status = 'in_review'"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    product_id: UUID = Field(sa_column=_child("listings.product.id", "product_version_product"))
    number: int = Field(sa_column=integer_column())
    status: str = Field(sa_column=text_column())
    status_reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    blob_key: str = Field(sa_column=text_column())
    row_count: int = Field(sa_column=bigint_column())
    byte_count: int = Field(sa_column=bigint_column())
    sha256: str = Field(sa_column=text_column())
    source_format: str = Field(sa_column=text_column())
    source_bytes: int = Field(sa_column=bigint_column())
    source_sha256: str = Field(sa_column=text_column())
    columns: list[dict[str, Any]] = Field(sa_column=_json())
    profile: dict[str, Any] = Field(sa_column=_json())
    quality: dict[str, Any] = Field(sa_column=_json())
    preview: list[list[Any]] = Field(sa_column=_json())
    sensitive_columns: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    grade: str = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())
    submitted_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class Certificate(SQLModel, table=True):
    """The signed proof that a version was registered (append-only)."""

    __tablename__ = "certificate"
    __table_args__ = (
        UniqueConstraint("version_id", name="certificate_version"),
        Index("certificate_product", "product_id", "id"),
        Index("certificate_issued", "issued_at"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    product_id: UUID = Field(sa_column=_child("listings.product.id", "certificate_product_fk"))
    version_id: UUID = Field(
        sa_column=_child("listings.product_version.id", "certificate_version_fk")
    )
    owner_id: UUID = Field(sa_column=uuid_column())
    jws: str = Field(sa_column=text_column())
    claims: dict[str, Any] = Field(sa_column=_json())
    issued_by: UUID = Field(sa_column=uuid_column())
    issued_at: datetime = Field(sa_column=moment_column())


class Listing(SQLModel, table=True):
    """An offer of a certified version. ``revision`` counts its changes and is its ETag."""

    __tablename__ = "listing"
    __table_args__ = (
        CheckConstraint(
            "status IN ('draft', 'in_review', 'listed', 'suspended', 'delisted', 'rejected')",
            name="listing_status_known",
        ),
        CheckConstraint("grade IN ('important', 'general')", name="listing_grade_tradable"),
        CheckConstraint(
            "(from_minor IS NULL) = (currency IS NULL)", name="listing_price_has_currency"
        ),
        CheckConstraint("from_minor IS NULL OR from_minor >= 1", name="listing_price_positive"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="listing_currency_form"),
        CheckConstraint("revision >= 1", name="listing_revision_positive"),
        CheckConstraint(
            "status NOT IN ('listed', 'suspended') OR listed_at IS NOT NULL",
            name="listing_listed_when",
        ),
        Index("listing_seller", "seller_id", "id"),
        Index(
            "listing_review_queue",
            "submitted_at",
            "id",
            postgresql_where=text("status = 'in_review'"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    product_id: UUID = Field(sa_column=_child("listings.product.id", "listing_product"))
    version_id: UUID = Field(sa_column=_child("listings.product_version.id", "listing_version"))
    seller_id: UUID = Field(sa_column=uuid_column())
    title: dict[str, Any] = Field(sa_column=_json())
    summary: str = Field(sa_column=text_column())
    category: str = Field(sa_column=text_column())
    grade: str = Field(sa_column=text_column())
    policy: dict[str, Any] = Field(sa_column=_json())
    status: str = Field(sa_column=text_column())
    status_reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    from_minor: int | None = Field(default=None, sa_column=Column(BigInteger))
    currency: str | None = Field(default=None, sa_column=text_column(nullable=True))
    plan_kinds: list[str] = Field(default=[], sa_column=Column(ARRAY(Text), nullable=False))
    revision: int = Field(default=1, sa_column=integer_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())
    submitted_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    listed_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class ReviewDecision(SQLModel, table=True):
    """One status step of a product, version or listing: who, when, why (append-only)."""

    __tablename__ = "decision"
    __table_args__ = (
        CheckConstraint("kind IN ('product', 'version', 'listing')", name="decision_kind_known"),
        CheckConstraint(
            "action NOT IN ('reject', 'suspend') OR reason IS NOT NULL", name="decision_reasoned"
        ),
        Index("decision_subject", "subject_id", "id"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    kind: str = Field(sa_column=text_column())
    subject_id: UUID = Field(sa_column=uuid_column())
    action: str = Field(sa_column=text_column())
    from_status: str = Field(sa_column=text_column())
    to_status: str = Field(sa_column=text_column())
    actor_id: UUID = Field(sa_column=uuid_column())
    reason: str | None = Field(default=None, sa_column=text_column(nullable=True))
    at: datetime = Field(sa_column=moment_column())


class CatalogEntry(SQLModel, table=True):
    """What the search needs of a listing that is on the market."""

    __tablename__ = "catalog_entry"
    __table_args__ = (
        Index("catalog_entry_search", "search", postgresql_using="gin"),
        Index("catalog_entry_newest", text("listed_at DESC"), text("listing_id DESC")),
        Index(
            "catalog_entry_category", "category", text("listed_at DESC"), text("listing_id DESC")
        ),
        Index("catalog_entry_price", "currency", "from_minor"),
        Index("catalog_entry_seller", "seller_id"),
        Index("catalog_entry_title_en", "title_en", postgresql_ops=_PATTERN_EN),
        Index("catalog_entry_title_zh", "title_zh", postgresql_ops=_PATTERN_ZH),
        SCHEMA,
    )

    listing_id: UUID = Field(
        sa_column=Column(
            Uuid,
            ForeignKey("listings.listing.id", name="catalog_entry_listing"),
            primary_key=True,
        )
    )
    seller_id: UUID = Field(sa_column=uuid_column())
    category: str = Field(sa_column=text_column())
    grade: str = Field(sa_column=text_column())
    currency: str | None = Field(default=None, sa_column=text_column(nullable=True))
    from_minor: int | None = Field(default=None, sa_column=Column(BigInteger))
    plan_kinds: list[str] = Field(default=[], sa_column=Column(ARRAY(Text), nullable=False))
    # Case-folded, for suggestions by prefix.
    title_en: str = Field(sa_column=text_column())
    title_zh: str | None = Field(default=None, sa_column=text_column(nullable=True))
    search: Any = Field(sa_column=Column(TSVECTOR, nullable=False))
    listed_at: datetime = Field(sa_column=moment_column())


class CatalogCell(SQLModel, table=True):
    """How many catalog entries share these facet values; written by triggers only."""

    __tablename__ = "catalog_cell"
    __table_args__ = (CheckConstraint("listings >= 0", name="catalog_cell_count"), SCHEMA)

    category: str = Field(sa_column=Column(Text, primary_key=True))
    grade: str = Field(sa_column=Column(Text, primary_key=True))
    # Empty without a price: a key column cannot be null.
    currency: str = Field(sa_column=Column(Text, primary_key=True))
    plan_kinds: list[str] = Field(sa_column=Column(ARRAY(Text), primary_key=True))
    listings: int = Field(sa_column=bigint_column())


class BlobIntent(SQLModel, table=True):
    """A blob that is about to be stored. The version's transaction removes the row; what stays
    behind is swept with its blob."""

    __tablename__ = "blob_intent"
    __table_args__ = (Index("blob_intent_age", "created_at"), SCHEMA)

    blob_key: str = Field(sa_column=Column(Text, primary_key=True))
    doomed: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    created_at: datetime = Field(sa_column=moment_column())
