"""Queries of Delta Sharing: their files, and what of them has been sent and charged."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import grant

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _moment(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    op.create_table(
        "share_query",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "grant_id",
            sa.Uuid(),
            sa.ForeignKey("contracts.access_grant.id", name="share_query_grant_fk"),
            nullable=False,
        ),
        *(
            sa.Column(name, sa.Uuid(), nullable=False)
            for name in ("agreement_id", "version_id", "buyer_id", "token_id")
        ),
        sa.Column("delivery_key", sa.Text(), nullable=False),
        sa.Column("query_sha256", sa.Text(), nullable=False),
        sa.Column("blob_key", sa.Text(), nullable=True),
        _number("byte_count"),
        _number("row_count"),
        sa.Column("by_row", sa.Boolean(), nullable=False),
        _number("units"),
        sa.Column("seller_safe", sa.Boolean(), nullable=False),
        sa.Column("fields", JSONB(), nullable=False),
        sa.Column("covered", JSONB(), nullable=False),
        _number("covered_bytes"),
        _number("charged"),
        _moment("created_at"),
        _moment("expires_at"),
        sa.CheckConstraint("row_count >= 0 AND units >= 0", name="share_query_counts"),
        sa.CheckConstraint("charged >= 0 AND charged <= units", name="share_query_never_over"),
        sa.CheckConstraint(
            "covered_bytes >= 0 AND covered_bytes <= byte_count", name="share_query_covered"
        ),
        sa.CheckConstraint("(row_count = 0) = (blob_key IS NULL)", name="share_query_file"),
        sa.UniqueConstraint("grant_id", "delivery_key", name="share_query_once"),
        schema="contracts",
    )
    for name, column in (("expiry", "expires_at"), ("blob", "blob_key")):
        op.create_index(f"share_query_{name}", "share_query", [column], schema="contracts")
    grant(
        op,
        "contracts.share_query",
        "select, insert, delete, update (covered, covered_bytes, charged, expires_at)",
    )


def downgrade() -> None:
    op.drop_table("share_query", schema="contracts")
