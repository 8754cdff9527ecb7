"""Limits of delivery tokens."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "delivery_token",
        sa.Column("limits", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        schema="contracts",
    )


def downgrade() -> None:
    op.drop_column("delivery_token", "limits", schema="contracts")
