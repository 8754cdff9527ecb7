"""Usage records that a fault left without proof, on seller-safe agreements."""

import sqlalchemy as sa

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "delivery",
        sa.Column("assumed", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        schema="contracts",
    )


def downgrade() -> None:
    op.drop_column("delivery", "assumed", schema="contracts")
