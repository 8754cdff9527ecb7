"""Pricing: plans, share versions, valuations, price observations."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_schema(op, "pricing")
    _plan()
    _shares()
    _valuation()
    _observation()
    # Terms of a plan are part of the agreements under it: only retirement may be written.
    grant(op, "pricing.plan", "select, insert, update (status, retired_at)")
    for table in ("share_version", "share", "valuation", "observation"):
        append_only(op, f"pricing.{table}")


def downgrade() -> None:
    for table in ("observation", "valuation", "share", "share_version", "plan"):
        op.drop_table(table, schema="pricing")
    op.execute("DROP FUNCTION pricing.check_share_total()")
    op.execute("DROP FUNCTION pricing.freeze_plan()")
    drop_schema(op, "pricing")


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _plan() -> None:
    op.create_table(
        "plan",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("listing_id", sa.Uuid(), nullable=False),
        sa.Column("seller_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("lot_units", sa.Integer(), nullable=False),
        sa.Column("term_days", sa.Integer(), nullable=False),
        sa.Column("acceptance_window_days", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        _time("created_at"),
        _time("retired_at", nullable=True),
        sa.CheckConstraint(
            "(kind = 'metered' AND unit IN ('row', 'call')) "
            "OR (kind = 'license' AND unit = 'license' AND lot_units = 1)",
            name="plan_kind_unit",
        ),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name="plan_currency_form"),
        sa.CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="plan_price_range"),
        sa.CheckConstraint("lot_units BETWEEN 1 AND 1000000000", name="plan_lot_range"),
        sa.CheckConstraint("term_days BETWEEN 1 AND 3650", name="plan_term_range"),
        sa.CheckConstraint("acceptance_window_days BETWEEN 0 AND 90", name="plan_acceptance_range"),
        sa.CheckConstraint("status IN ('active', 'retired')", name="plan_status_known"),
        sa.CheckConstraint(
            "(status = 'retired') = (retired_at IS NOT NULL)", name="plan_retired_when"
        ),
        schema="pricing",
    )
    op.create_index("plan_listing_id", "plan", ["listing_id", "id"], schema="pricing")
    # The grant already keeps the application from changing terms; this also stops the owner.
    op.execute(
        "CREATE FUNCTION pricing.freeze_plan() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'DELETE' OR OLD.status = 'retired' OR "
        "to_jsonb(NEW) - '{status,retired_at}'::text[] <> "
        "to_jsonb(OLD) - '{status,retired_at}'::text[] THEN "
        "RAISE EXCEPTION 'a plan changes by retirement only' "
        "USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER plan_frozen BEFORE UPDATE OR DELETE ON pricing.plan "
        "FOR EACH ROW EXECUTE FUNCTION pricing.freeze_plan()"
    )
    op.execute("ALTER TABLE pricing.plan ENABLE ALWAYS TRIGGER plan_frozen")


def _shares() -> None:
    op.create_table(
        "share_version",
        sa.Column("listing_id", sa.Uuid(), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("total_ppm", sa.Integer(), nullable=False),
        sa.Column("set_by", sa.Uuid(), nullable=False),
        _time("created_at"),
        sa.CheckConstraint("version >= 1", name="share_version_positive"),
        sa.CheckConstraint("total_ppm BETWEEN 0 AND 999999", name="share_version_total"),
        schema="pricing",
    )
    op.create_table(
        "share",
        sa.Column("listing_id", sa.Uuid(), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("party_id", sa.Uuid(), nullable=False),
        sa.Column("ppm", sa.Integer(), nullable=False),
        sa.CheckConstraint("ppm BETWEEN 1 AND 999999", name="share_ppm_range"),
        sa.CheckConstraint("position BETWEEN 1 AND 50", name="share_position_range"),
        sa.UniqueConstraint("listing_id", "version", "party_id", name="share_party_once"),
        sa.ForeignKeyConstraint(
            ["listing_id", "version"],
            ["pricing.share_version.listing_id", "pricing.share_version.version"],
            name="share_of_version",
        ),
        schema="pricing",
    )
    # At commit the rows add up to the stated total, which is itself below one million: shares
    # added to an old version later, or left out, cannot be committed.
    op.execute(
        "CREATE FUNCTION pricing.check_share_total() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF (SELECT v.total_ppm FROM pricing.share_version v "
        "WHERE v.listing_id = NEW.listing_id AND v.version = NEW.version) <> "
        "(SELECT coalesce(sum(s.ppm), 0) FROM pricing.share s "
        "WHERE s.listing_id = NEW.listing_id AND s.version = NEW.version) THEN "
        "RAISE EXCEPTION 'shares do not add up to the total of their version' "
        "USING ERRCODE = 'check_violation'; END IF; RETURN NULL; END $$"
    )
    for table in ("share_version", "share"):
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {table}_adds_up AFTER INSERT ON pricing.{table} "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "EXECUTE FUNCTION pricing.check_share_total()"
        )
        op.execute(f"ALTER TABLE pricing.{table} ENABLE ALWAYS TRIGGER {table}_adds_up")


def _valuation() -> None:
    op.create_table(
        "valuation",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("listing_id", sa.Uuid(), nullable=False),
        sa.Column("seller_id", sa.Uuid(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("method_version", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("value_minor", sa.BigInteger(), nullable=False),
        sa.Column("low_minor", sa.BigInteger(), nullable=False),
        sa.Column("high_minor", sa.BigInteger(), nullable=False),
        sa.Column("inputs", postgresql.JSONB(), nullable=False),
        sa.Column("results", postgresql.JSONB(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), nullable=False),
        _time("created_at"),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name="valuation_currency_form"),
        sa.CheckConstraint(
            "0 <= low_minor AND low_minor <= value_minor AND value_minor <= high_minor "
            "AND 1 <= value_minor AND high_minor <= 1000000000000000",
            name="valuation_range",
        ),
        schema="pricing",
    )
    op.create_index("valuation_listing_id", "valuation", ["listing_id", "id"], schema="pricing")
    op.create_index("valuation_seller_id", "valuation", ["seller_id", "id"], schema="pricing")


def _observation() -> None:
    op.create_table(
        "observation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("listing_id", sa.Uuid(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("lot_units", sa.Integer(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("lots", sa.BigInteger(), nullable=False),
        _time("traded_at"),
        sa.CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="observation_price"),
        sa.CheckConstraint("lots >= 1", name="observation_lots"),
        sa.CheckConstraint("lot_units >= 1", name="observation_lot_units"),
        schema="pricing",
    )
    op.create_index(
        "observation_comparable",
        "observation",
        ["category", "currency", "unit", "traded_at"],
        schema="pricing",
    )
