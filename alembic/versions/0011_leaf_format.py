"""Settlement: a batch says which format its leaves have."""

import sqlalchemy as sa

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Everything booked until now has leaves of format 1; the writer names its own from here on.
    op.add_column(
        "batch",
        sa.Column("format", sa.SmallInteger, nullable=False, server_default="1"),
        schema="settlement",
    )
    op.alter_column("batch", "format", server_default=None, schema="settlement")
    op.create_check_constraint("batch_format", "batch", "format IN (1, 2)", schema="settlement")


def downgrade() -> None:
    op.drop_column("batch", "format", schema="settlement")
