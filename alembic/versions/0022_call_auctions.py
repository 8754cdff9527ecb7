"""Call auctions."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _call_auction()
    grant(
        op,
        "matching.call_auction",
        "select, insert, update (status, closes_at, price_minor, volume_lots, surplus_lots, "
        "updated_at)",
    )


def downgrade() -> None:
    op.drop_table("call_auction", schema="matching")


def _time(name: str) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _call_auction() -> None:
    op.create_table(
        "call_auction",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("plan_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reopening", sa.Boolean, nullable=False),
        _time("opens_at"),
        _time("closes_at"),
        sa.Column("price_minor", sa.BigInteger),
        sa.Column("volume_lots", sa.Numeric(30, 0)),
        sa.Column("surplus_lots", sa.Numeric(30, 0)),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint(
            "status IN ('scheduled', 'collecting', 'closed', 'cancelled', 'void')",
            name="call_auction_status_known",
        ),
        sa.CheckConstraint("opens_at < closes_at", name="call_auction_times"),
        sa.CheckConstraint(
            "(price_minor IS NULL) = (volume_lots IS NULL)", name="call_auction_price_volume"
        ),
        sa.CheckConstraint(
            "price_minor IS NOT NULL OR surplus_lots IS NULL", name="call_auction_surplus"
        ),
        schema="matching",
    )
    op.create_index(
        "call_auction_open",
        "call_auction",
        ["plan_id"],
        unique=True,
        schema="matching",
        postgresql_where=sa.text("status IN ('scheduled', 'collecting')"),
    )
    op.create_index("call_auction_plan", "call_auction", ["plan_id", "id"], schema="matching")
