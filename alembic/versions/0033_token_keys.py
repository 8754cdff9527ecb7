"""Opaque delivery keys, and rotation of delivery tokens."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery_token", sa.Column("secret_sha256", sa.Text), schema="contracts")
    op.add_column(
        "delivery_token", sa.Column("ends_at", sa.DateTime(timezone=True)), schema="contracts"
    )
    op.create_unique_constraint(
        "delivery_token_secret", "delivery_token", ["secret_sha256"], schema="contracts"
    )
    grant(op, "contracts.delivery_token", "update (ends_at)")


def downgrade() -> None:
    # A key's text proves nothing to a market that has no hash of it: its token ends here.
    op.execute(
        "UPDATE contracts.delivery_token SET revoked_at = kernel.market_now() "
        "WHERE revoked_at IS NULL AND (secret_sha256 IS NOT NULL OR ends_at IS NOT NULL)"
    )
    op.drop_constraint("delivery_token_secret", "delivery_token", schema="contracts")
    op.drop_column("delivery_token", "ends_at", schema="contracts")
    op.drop_column("delivery_token", "secret_sha256", schema="contracts")
