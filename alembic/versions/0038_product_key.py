"""Declared keys of products."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from alembic import op
from market.kernel.migration import grant

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "product_key",
        sa.Column("product_id", sa.Uuid, primary_key=True),
        sa.Column("columns", ARRAY(sa.Text), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cardinality(columns) BETWEEN 1 AND 8", name="product_key_columns"),
        schema="contracts",
    )
    grant(op, "contracts.product_key", "select, insert, update (columns, updated_at), delete")


def downgrade() -> None:
    op.drop_table("product_key", schema="contracts")
