"""Quota alerts, and rules for top-up orders."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _alerts()
    create_schema(op, "usage")
    _rules()
    _orders()
    append_only(op, "contracts.usage_alert")
    grant(op, "contracts.usage_threshold", "select, insert, update (percents, updated_at)")
    grant(
        op,
        "usage.top_up_rule",
        "select, insert, update (agreement_id, enabled, at_percent, lots, limit_price_minor, "
        "max_per_month, revision, updated_at)",
    )
    grant(op, "usage.top_up_order", "select, insert, update (status, order_id, code)")


def downgrade() -> None:
    op.drop_table("top_up_order", schema="usage")
    op.drop_table("top_up_rule", schema="usage")
    drop_schema(op, "usage")
    op.drop_table("usage_alert", schema="contracts")
    op.drop_table("usage_threshold", schema="contracts")


def _id(name: str) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid, nullable=False)


def _big(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False)


def _small(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.SmallInteger, nullable=False)


def _time(name: str) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _grant(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["grant_id"], ["contracts.access_grant.id"], name=name)


def _alerts() -> None:
    op.create_table(
        "usage_threshold",
        _id("grant_id"),
        sa.Column("percents", ARRAY(sa.SmallInteger), nullable=False),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("grant_id", name="usage_threshold_pkey"),
        _grant("usage_threshold_grant_fk"),
        sa.CheckConstraint(
            "cardinality(percents) <= 10 AND 1 <= ALL (percents) AND 100 >= ALL (percents)",
            name="usage_threshold_percents",
        ),
        schema="contracts",
    )
    op.create_table(
        "usage_alert",
        _id("id"),
        _id("grant_id"),
        _id("buyer_id"),
        _small("percent"),
        _big("used_units"),
        _big("granted_units"),
        _time("raised_at"),
        sa.PrimaryKeyConstraint("id", name="usage_alert_pkey"),
        _grant("usage_alert_grant_fk"),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name="usage_alert_percent"),
        sa.CheckConstraint(
            "used_units >= 0 AND used_units <= granted_units", name="usage_alert_units"
        ),
        sa.UniqueConstraint("grant_id", "percent", name="usage_alert_once"),
        schema="contracts",
    )
    op.create_index("usage_alert_buyer", "usage_alert", ["buyer_id", "id"], schema="contracts")


def _rules() -> None:
    op.create_table(
        "top_up_rule",
        _id("id"),
        _id("agreement_id"),
        _id("buyer_id"),
        _id("plan_id"),
        sa.Column("enabled", sa.Boolean, nullable=False),
        _small("at_percent"),
        _big("lots"),
        _big("limit_price_minor"),
        _small("max_per_month"),
        sa.Column("revision", sa.Integer, nullable=False),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="top_up_rule_pkey"),
        sa.UniqueConstraint("agreement_id", name="top_up_rule_agreement"),
        sa.CheckConstraint("at_percent BETWEEN 0 AND 99", name="top_up_rule_percent"),
        sa.CheckConstraint(
            "lots BETWEEN 1 AND 1000000000 AND limit_price_minor > 0 AND revision > 0",
            name="top_up_rule_positive",
        ),
        sa.CheckConstraint("max_per_month BETWEEN 1 AND 100", name="top_up_rule_month"),
        schema="usage",
    )
    op.create_index(
        "top_up_rule_enabled",
        "top_up_rule",
        ["id"],
        schema="usage",
        postgresql_where=sa.text("enabled"),
    )


def _orders() -> None:
    op.create_table(
        "top_up_order",
        _id("id"),
        _id("rule_id"),
        sa.Column("revision", sa.Integer, nullable=False),
        _id("agreement_id"),
        _id("buyer_id"),
        _id("plan_id"),
        _big("lots"),
        _big("limit_price_minor"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("order_id", sa.Uuid),
        sa.Column("code", sa.Text),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="top_up_order_pkey"),
        sa.ForeignKeyConstraint(["rule_id"], ["usage.top_up_rule.id"], name="top_up_order_rule_fk"),
        sa.UniqueConstraint("rule_id", "revision", name="top_up_order_once"),
        sa.CheckConstraint(
            "status IN ('pending', 'placed', 'refused')", name="top_up_order_status_known"
        ),
        sa.CheckConstraint(
            "(status = 'placed') = (order_id IS NOT NULL) "
            "AND (status = 'refused') = (code IS NOT NULL)",
            name="top_up_order_whole",
        ),
        schema="usage",
    )
    op.create_index(
        "top_up_order_agreement", "top_up_order", ["agreement_id", "id"], schema="usage"
    )
    op.create_index(
        "top_up_order_pending",
        "top_up_order",
        ["id"],
        schema="usage",
        postgresql_where=sa.text("status = 'pending'"),
    )
