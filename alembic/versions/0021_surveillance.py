"""Surveillance: alerts with their evidence, and how far the trades were examined."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from alembic import op
from market.kernel.migration import create_schema, drop_schema, grant

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_SCHEMA = "surveillance"
_CHECKS = {
    "alert_rule_known": (
        "rule IN ('affiliated_trade', 'circular_trading', 'cancelled_pressure', "
        "'price_jump', 'price_off_valuation', 'concentration')"
    ),
    "alert_status_known": "status IN ('open', 'dismissed', 'confirmed')",
    "alert_decided_whole": (
        "num_nulls(reason, decided_by, decided_at) = CASE status WHEN 'open' THEN 3 ELSE 0 END"
    ),
}


def upgrade() -> None:
    create_schema(op, _SCHEMA)
    op.create_table(
        "alert",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("plan_id", sa.Uuid),
        sa.Column("parties", ARRAY(sa.Uuid), nullable=False),
        sa.Column("figures", JSONB, nullable=False),
        sa.Column("orders", ARRAY(sa.Uuid), nullable=False),
        sa.Column("trades", ARRAY(sa.Uuid), nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("decided_by", sa.Uuid),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="alert_pkey"),
        sa.UniqueConstraint("rule", "subject", "window_start", name="alert_once"),
        *(sa.CheckConstraint(rule, name=name) for name, rule in _CHECKS.items()),
        schema=_SCHEMA,
    )
    op.create_index(
        "alert_open",
        "alert",
        ["id"],
        schema=_SCHEMA,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_index("alert_parties", "alert", ["parties"], schema=_SCHEMA, postgresql_using="gin")
    op.create_table(
        "progress",
        sa.Column("id", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("trade_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="progress_pkey"),
        sa.CheckConstraint("id = 1", name="progress_single"),
        schema=_SCHEMA,
    )
    op.execute("INSERT INTO surveillance.progress (id, trade_seq) VALUES (1, 0)")
    _freeze_decided()
    grant(
        op,
        "surveillance.alert",
        "select, insert, update (status, reason, decided_by, decided_at)",
    )
    grant(op, "surveillance.progress", "select, update (trade_seq)")


def downgrade() -> None:
    op.drop_table("progress", schema=_SCHEMA)
    op.drop_table("alert", schema=_SCHEMA)
    op.execute("DROP FUNCTION surveillance.freeze_decided()")
    drop_schema(op, _SCHEMA)


def _freeze_decided() -> None:
    op.execute(
        "CREATE FUNCTION surveillance.freeze_decided() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN IF TG_OP = 'DELETE' OR OLD.status <> 'open' THEN "
        "RAISE EXCEPTION 'a decided alert does not change' "
        "USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER alert_frozen BEFORE UPDATE OR DELETE ON surveillance.alert "
        "FOR EACH ROW EXECUTE FUNCTION surveillance.freeze_decided()"
    )
    op.execute("ALTER TABLE surveillance.alert ENABLE ALWAYS TRIGGER alert_frozen")
