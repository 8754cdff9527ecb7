"""Bundles: orders over several plans that are filled together."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_SCHEMA = "matching"


def upgrade() -> None:
    _bundle()
    append_only(op, "matching.bundle")
    for table in ("order", "trade"):
        op.add_column(table, sa.Column("bundle_id", sa.Uuid, nullable=True), schema=_SCHEMA)
    op.create_check_constraint(
        "order_bundle_leg_filled",
        "order",
        "bundle_id IS NULL OR status = 'filled'",
        schema=_SCHEMA,
    )
    op.create_index(
        "order_bundle",
        "order",
        ["bundle_id", "seq"],
        schema=_SCHEMA,
        postgresql_where=sa.text("bundle_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("order_bundle", "order", schema=_SCHEMA)
    op.drop_constraint("order_bundle_leg_filled", "order", schema=_SCHEMA, type_="check")
    for table in ("trade", "order"):
        op.drop_column(table, "bundle_id", schema=_SCHEMA)
    op.drop_table("bundle", schema=_SCHEMA)


def _bundle() -> None:
    op.create_table(
        "bundle",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("party_id", sa.Uuid, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("cost_minor", sa.BigInteger, nullable=False),
        sa.Column("cost_max_minor", sa.BigInteger),
        sa.Column("self_trade_mode", sa.Text, nullable=False),
        sa.Column("client_order_id", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cost_minor <= cost_max_minor", name="bundle_within_limit"),
        sa.CheckConstraint(
            "self_trade_mode IN ('cancel_newest', 'cancel_oldest', 'cancel_both', 'decrement')",
            name="bundle_self_trade_mode_known",
        ),
        sa.CheckConstraint("client_order_id ~ '^[!-~]{1,64}$'", name="bundle_client_order_id_form"),
        schema=_SCHEMA,
    )
    op.create_index("bundle_seq", "bundle", ["seq"], unique=True, schema=_SCHEMA)
    op.create_index(
        "bundle_client_order_id",
        "bundle",
        ["party_id", "client_order_id"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("client_order_id IS NOT NULL"),
    )
    op.create_index("bundle_party", "bundle", ["party_id", "id"], schema=_SCHEMA)
