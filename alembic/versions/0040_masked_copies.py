"""Copies of versions under a policy's masks and row filter."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "masked_copy",
        sa.Column("version_id", sa.Uuid, primary_key=True),
        sa.Column("recipe", sa.Text, primary_key=True),
        sa.Column("blob_key", sa.Text, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("byte_count", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("byte_count > 0", name="masked_copy_bytes_positive"),
        sa.CheckConstraint("row_count >= 0", name="masked_copy_rows"),
        schema="contracts",
    )
    append_only(op, "contracts.masked_copy")


def downgrade() -> None:
    op.drop_table("masked_copy", schema="contracts")
