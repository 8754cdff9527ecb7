"""Quotas of single delivery tokens."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _moment(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    op.create_table(
        "token_quota",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "grant_id",
            sa.Uuid(),
            sa.ForeignKey("contracts.access_grant.id", name="token_quota_grant_fk"),
            nullable=False,
        ),
        *(_number(name) for name in ("quota_units", "used_units", "held_units")),
        _moment("created_at"),
        sa.CheckConstraint(
            "quota_units > 0 AND used_units >= 0 AND held_units >= 0", name="token_quota_counts"
        ),
        sa.CheckConstraint("used_units + held_units <= quota_units", name="token_quota_never_over"),
        schema="contracts",
    )
    grant(op, "contracts.token_quota", "select, insert, update (used_units, held_units)")
    op.create_table(
        "token_quota_hold",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "quota_id",
            sa.Uuid(),
            sa.ForeignKey("contracts.token_quota.id", name="token_quota_hold_quota_fk"),
            nullable=False,
        ),
        sa.Column("delivery_key", sa.Text(), nullable=False),
        _number("units"),
        _moment("ends_at"),
        sa.CheckConstraint("units > 0", name="token_quota_hold_positive"),
        schema="contracts",
    )
    for name, columns in (("quota", ["quota_id", "delivery_key"]), ("end", ["ends_at"])):
        op.create_index(f"token_quota_hold_{name}", "token_quota_hold", columns, schema="contracts")
    grant(op, "contracts.token_quota_hold", "select, insert, delete")
    op.add_column(
        "delivery_token",
        sa.Column(
            "quota_id",
            sa.Uuid(),
            sa.ForeignKey("contracts.token_quota.id", name="delivery_token_quota_fk"),
        ),
        schema="contracts",
    )


def downgrade() -> None:
    # A market that knows no quotas would let their tokens take everything.
    op.execute(
        "UPDATE contracts.delivery_token SET revoked_at = kernel.market_now() "
        "WHERE revoked_at IS NULL AND quota_id IS NOT NULL"
    )
    op.drop_column("delivery_token", "quota_id", schema="contracts")
    op.drop_table("token_quota_hold", schema="contracts")
    op.drop_table("token_quota", schema="contracts")
