"""Marked copies of versions."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "marked_copy",
        sa.Column("agreement_id", sa.Uuid, primary_key=True),
        sa.Column("version_id", sa.Uuid, primary_key=True),
        sa.Column("blob_key", sa.Text, nullable=False),
        sa.Column("byte_count", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("byte_count > 0", name="marked_copy_bytes_positive"),
        sa.ForeignKeyConstraint(
            ["agreement_id"], ["contracts.agreement.id"], name="marked_copy_agreement_fk"
        ),
        schema="contracts",
    )
    append_only(op, "contracts.marked_copy")


def downgrade() -> None:
    op.drop_table("marked_copy", schema="contracts")
