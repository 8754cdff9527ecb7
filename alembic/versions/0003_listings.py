"""Listings: products, versions, certificates, offers, decisions, catalog."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_GRADES = "grade IN ('core', 'important', 'general')"
_SHA256 = "'^[0-9a-f]{64}$'"
# The state machines of listings/lifecycle.py; a test holds both equal.
_STEPS = {
    "product": "draft>in_review in_review>registered in_review>rejected rejected>draft",
    "product_version": "draft>in_review in_review>certified in_review>rejected rejected>draft",
    "listing": (
        "draft>in_review in_review>listed in_review>rejected rejected>draft listed>suspended "
        "suspended>listed listed>delisted suspended>delisted"
    ),
}

_GUARD_STATUS = """
CREATE FUNCTION listings.guard_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (OLD.status || '>' || NEW.status) = ANY (TG_ARGV) THEN
        RAISE EXCEPTION '%: % to % is not a step', TG_TABLE_NAME, OLD.status, NEW.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

_COUNT_CELLS = """
CREATE FUNCTION listings.count_cells() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE listings.catalog_cell AS c SET listings = c.listings - d.n
        FROM (SELECT category, grade, coalesce(currency, '') AS currency, plan_kinds,
                     count(*) AS n
              FROM old_rows GROUP BY 1, 2, 3, 4) AS d
        WHERE (c.category, c.grade, c.currency, c.plan_kinds)
            = (d.category, d.grade, d.currency, d.plan_kinds);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO listings.catalog_cell AS c (category, grade, currency, plan_kinds, listings)
        SELECT category, grade, coalesce(currency, ''), plan_kinds, count(*)
        FROM new_rows GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
        ON CONFLICT (category, grade, currency, plan_kinds)
        DO UPDATE SET listings = c.listings + excluded.listings;
    END IF;
    RETURN NULL;
END $$
"""
_CELL_TRIGGERS = (
    ("insert", "REFERENCING NEW TABLE AS new_rows"),
    ("update", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    ("delete", "REFERENCING OLD TABLE AS old_rows"),
)


def upgrade() -> None:
    create_schema(op, "listings")
    _product()
    _product_version()
    _certificate()
    _listing()
    _decision()
    _catalog()
    _blob_intent()
    _triggers()
    _grants()


def downgrade() -> None:
    tables = (
        "blob_intent",
        "catalog_cell",
        "catalog_entry",
        "decision",
        "listing",
        "certificate",
        "product_version",
        "product",
    )
    for table in tables:
        op.drop_table(table, schema="listings")
    op.execute("DROP FUNCTION listings.count_cells()")
    op.execute("DROP FUNCTION listings.guard_status()")
    drop_schema(op, "listings")


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _uuid(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Uuid(), nullable=False)


def _child(name: str, target: str, constraint: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Uuid(), sa.ForeignKey(target, name=constraint), nullable=False)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, postgresql.JSONB(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _texts(name: str) -> sa.Column[Any]:
    return sa.Column(name, postgresql.ARRAY(sa.Text()), nullable=False)


def _review_queue(table: str) -> None:
    op.create_index(
        f"{table}_review_queue",
        table,
        ["submitted_at", "id"],
        schema="listings",
        postgresql_where=sa.text("status = 'in_review'"),
    )


def _product() -> None:
    op.create_table(
        "product",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _uuid("owner_id"),
        _json("name"),
        _text("description"),
        _text("category"),
        _text("source_statement"),
        _json("rights"),
        sa.Column("contains_personal_data", sa.Boolean(), nullable=False),
        sa.Column("people_count", sa.BigInteger(), nullable=False),
        _json("deidentification", nullable=True),
        _json("impacts"),
        _text("filing_reference", nullable=True),
        _texts("regions"),
        _text("update_cycle"),
        _text("grade"),
        _text("status"),
        _text("status_reason", nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        _time("submitted_at", nullable=True),
        sa.CheckConstraint(
            "status IN ('draft', 'in_review', 'registered', 'rejected')",
            name="product_status_known",
        ),
        sa.CheckConstraint(_GRADES, name="product_grade_known"),
        sa.CheckConstraint("people_count >= 0", name="product_people_count"),
        sa.CheckConstraint("revision >= 1", name="product_revision_positive"),
        sa.CheckConstraint(
            "status <> 'in_review' OR grade <> 'core'", name="product_core_never_in_review"
        ),
        schema="listings",
    )
    op.create_index("product_owner", "product", ["owner_id", "id"], schema="listings")


def _product_version() -> None:
    op.create_table(
        "product_version",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _child("product_id", "listings.product.id", "product_version_product"),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("status"),
        _text("status_reason", nullable=True),
        _text("blob_key"),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        _text("sha256"),
        _text("source_format"),
        sa.Column("source_bytes", sa.BigInteger(), nullable=False),
        _text("source_sha256"),
        _json("columns"),
        _json("profile"),
        _json("quality"),
        _json("preview"),
        _texts("sensitive_columns"),
        _text("grade"),
        _time("created_at"),
        _time("submitted_at", nullable=True),
        sa.UniqueConstraint("product_id", "number", name="product_version_number"),
        sa.UniqueConstraint("product_id", "source_sha256", name="product_version_source"),
        sa.UniqueConstraint("blob_key", name="product_version_blob"),
        sa.CheckConstraint("number >= 1", name="product_version_number_positive"),
        sa.CheckConstraint("row_count >= 1", name="product_version_rows"),
        sa.CheckConstraint("byte_count >= 1", name="product_version_bytes"),
        sa.CheckConstraint("source_bytes >= 1", name="product_version_source_bytes"),
        sa.CheckConstraint(f"sha256 ~ {_SHA256}", name="product_version_sha256"),
        sa.CheckConstraint(f"source_sha256 ~ {_SHA256}", name="product_version_source_sha256"),
        sa.CheckConstraint("source_format IN ('csv', 'parquet')", name="product_version_format"),
        sa.CheckConstraint(_GRADES, name="product_version_grade_known"),
        sa.CheckConstraint(
            "status IN ('draft', 'in_review', 'certified', 'rejected')",
            name="product_version_status_known",
        ),
        schema="listings",
    )
    _review_queue("product_version")


def _certificate() -> None:
    op.create_table(
        "certificate",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _child("product_id", "listings.product.id", "certificate_product_fk"),
        _child("version_id", "listings.product_version.id", "certificate_version_fk"),
        _uuid("owner_id"),
        _text("jws"),
        _json("claims"),
        _uuid("issued_by"),
        _time("issued_at"),
        sa.UniqueConstraint("version_id", name="certificate_version"),
        schema="listings",
    )
    op.create_index("certificate_product", "certificate", ["product_id", "id"], schema="listings")


def _listing() -> None:
    op.create_table(
        "listing",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _child("product_id", "listings.product.id", "listing_product"),
        _child("version_id", "listings.product_version.id", "listing_version"),
        _uuid("seller_id"),
        _json("title"),
        _text("summary"),
        _text("category"),
        _text("grade"),
        _json("policy"),
        _text("status"),
        _text("status_reason", nullable=True),
        sa.Column("from_minor", sa.BigInteger()),
        _text("currency", nullable=True),
        _texts("plan_kinds"),
        sa.Column("revision", sa.Integer(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        _time("submitted_at", nullable=True),
        _time("listed_at", nullable=True),
        sa.CheckConstraint(
            "status IN ('draft', 'in_review', 'listed', 'suspended', 'delisted', 'rejected')",
            name="listing_status_known",
        ),
        sa.CheckConstraint("grade IN ('important', 'general')", name="listing_grade_tradable"),
        sa.CheckConstraint(
            "(from_minor IS NULL) = (currency IS NULL)", name="listing_price_has_currency"
        ),
        sa.CheckConstraint("from_minor IS NULL OR from_minor >= 1", name="listing_price_positive"),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name="listing_currency_form"),
        sa.CheckConstraint("revision >= 1", name="listing_revision_positive"),
        sa.CheckConstraint(
            "status NOT IN ('listed', 'suspended') OR listed_at IS NOT NULL",
            name="listing_listed_when",
        ),
        schema="listings",
    )
    op.create_index("listing_seller", "listing", ["seller_id", "id"], schema="listings")
    _review_queue("listing")


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _text("kind"),
        _uuid("subject_id"),
        _text("action"),
        _text("from_status"),
        _text("to_status"),
        _uuid("actor_id"),
        _text("reason", nullable=True),
        _time("at"),
        sa.CheckConstraint("kind IN ('product', 'version', 'listing')", name="decision_kind_known"),
        sa.CheckConstraint(
            "action NOT IN ('reject', 'suspend') OR reason IS NOT NULL", name="decision_reasoned"
        ),
        schema="listings",
    )
    op.create_index("decision_subject", "decision", ["subject_id", "id"], schema="listings")


def _catalog() -> None:
    op.create_table(
        "catalog_entry",
        sa.Column(
            "listing_id",
            sa.Uuid(),
            sa.ForeignKey("listings.listing.id", name="catalog_entry_listing"),
            primary_key=True,
        ),
        _uuid("seller_id"),
        _text("category"),
        _text("grade"),
        _text("currency", nullable=True),
        sa.Column("from_minor", sa.BigInteger()),
        _texts("plan_kinds"),
        _text("title_en"),
        _text("title_zh", nullable=True),
        sa.Column("search", postgresql.TSVECTOR(), nullable=False),
        _time("listed_at"),
        schema="listings",
    )
    newest = [sa.text("listed_at DESC"), sa.text("listing_id DESC")]
    op.create_index(
        "catalog_entry_search",
        "catalog_entry",
        ["search"],
        schema="listings",
        postgresql_using="gin",
    )
    op.create_index("catalog_entry_newest", "catalog_entry", newest, schema="listings")
    op.create_index(
        "catalog_entry_category", "catalog_entry", ["category", *newest], schema="listings"
    )
    op.create_index(
        "catalog_entry_price", "catalog_entry", ["currency", "from_minor"], schema="listings"
    )
    op.create_index("catalog_entry_seller", "catalog_entry", ["seller_id"], schema="listings")
    for title in ("title_en", "title_zh"):
        op.create_index(
            f"catalog_entry_{title}",
            "catalog_entry",
            [title],
            schema="listings",
            postgresql_ops={title: "text_pattern_ops"},
        )
    op.create_table(
        "catalog_cell",
        sa.Column("category", sa.Text(), primary_key=True),
        sa.Column("grade", sa.Text(), primary_key=True),
        sa.Column("currency", sa.Text(), primary_key=True),
        sa.Column("plan_kinds", postgresql.ARRAY(sa.Text()), primary_key=True),
        sa.Column("listings", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("listings >= 0", name="catalog_cell_count"),
        schema="listings",
    )


def _blob_intent() -> None:
    op.create_table(
        "blob_intent",
        sa.Column("blob_key", sa.Text(), primary_key=True),
        sa.Column("doomed", sa.Boolean(), nullable=False),
        _time("created_at"),
        schema="listings",
    )
    op.create_index("blob_intent_age", "blob_intent", ["created_at"], schema="listings")


def _triggers() -> None:
    op.execute(_GUARD_STATUS)
    for table, steps in _STEPS.items():
        arguments = ", ".join(f"'{step}'" for step in steps.split())
        op.execute(
            f"CREATE TRIGGER {table}_status BEFORE UPDATE OF status ON listings.{table} "
            "FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) "
            f"EXECUTE FUNCTION listings.guard_status({arguments})"
        )
        op.execute(f"ALTER TABLE listings.{table} ENABLE ALWAYS TRIGGER {table}_status")
    op.execute(_COUNT_CELLS)
    for event, referencing in _CELL_TRIGGERS:
        op.execute(
            f"CREATE TRIGGER catalog_entry_{event}_cells AFTER {event} ON listings.catalog_entry "
            f"{referencing} FOR EACH STATEMENT EXECUTE FUNCTION listings.count_cells()"
        )


def _grants() -> None:
    # What was reviewed cannot be rewritten: owners, blobs, hashes and profiles have no UPDATE.
    grant(op, "listings.product", "select, insert")
    grant(
        op,
        "listings.product",
        "update (name, description, category, source_statement, rights, contains_personal_data, "
        "people_count, deidentification, impacts, filing_reference, regions, update_cycle, grade, "
        "status, status_reason, revision, updated_at, submitted_at)",
    )
    grant(
        op,
        "listings.product_version",
        "select, insert, update (status, status_reason, grade, submitted_at)",
    )
    grant(op, "listings.listing", "select, insert")
    grant(
        op,
        "listings.listing",
        "update (title, summary, category, policy, status, status_reason, from_minor, currency, "
        "plan_kinds, revision, updated_at, submitted_at, listed_at)",
    )
    append_only(op, "listings.certificate")
    append_only(op, "listings.decision")
    grant(op, "listings.catalog_entry", "select, insert, update, delete")
    grant(op, "listings.catalog_cell", "select")
    grant(op, "listings.blob_intent", "select, insert, update, delete")
