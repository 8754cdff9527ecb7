"""Announcing versions to those who follow a product."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

_SCHEMA = "contracts"


def upgrade() -> None:
    op.create_table(
        "version_news",
        sa.Column("version_id", sa.Uuid, primary_key=True),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("certified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_through", sa.Uuid, nullable=True),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("number >= 1", name="version_news_number_positive"),
        schema=_SCHEMA,
    )
    op.create_index("version_news_certified", "version_news", ["certified_at"], schema=_SCHEMA)
    op.create_index(
        "version_news_untold",
        "version_news",
        ["certified_at"],
        schema=_SCHEMA,
        postgresql_where=sa.text("told_at IS NULL"),
    )
    grant(op, "contracts.version_news", "select, insert, update (told_through, told_at)")
    op.create_index("access_grant_product", "access_grant", ["product_id", "id"], schema=_SCHEMA)
    op.create_index("certificate_issued", "certificate", ["issued_at"], schema="listings")


def downgrade() -> None:
    op.drop_index("certificate_issued", "certificate", schema="listings")
    op.drop_index("access_grant_product", "access_grant", schema=_SCHEMA)
    op.drop_table("version_news", schema=_SCHEMA)
