"""Usage records know their field set, the place of their page and the client's address."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[object]], ...] = (
    ("fields", JSONB()),
    ("page_sequence", sa.Text()),
    ("page_after", sa.BigInteger()),
    ("page_until", sa.BigInteger()),
    ("client_address", sa.Text()),
)


def upgrade() -> None:
    for name, type_ in _COLUMNS:
        op.add_column("delivery", sa.Column(name, type_), schema="contracts")
    op.create_index(
        "delivery_grant_time", "delivery", ["grant_id", "delivered_at"], schema="contracts"
    )
    op.create_index(
        "delivery_time",
        "delivery",
        ["delivered_at"],
        schema="contracts",
        postgresql_using="brin",
    )


def downgrade() -> None:
    op.drop_index("delivery_time", "delivery", schema="contracts")
    op.drop_index("delivery_grant_time", "delivery", schema="contracts")
    for name, _ in reversed(_COLUMNS):
        op.drop_column("delivery", name, schema="contracts")
