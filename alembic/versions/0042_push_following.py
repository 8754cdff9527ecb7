"""Pushes of changes, and pushes that go on with later versions."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

_TABLE = "push"
_SCHEMA = "contracts"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("since", sa.Integer(), nullable=True), schema=_SCHEMA)
    op.add_column(_TABLE, sa.Column("follow", sa.Text(), nullable=True), schema=_SCHEMA)
    op.add_column(_TABLE, sa.Column("previous_id", sa.Uuid(), nullable=True), schema=_SCHEMA)
    op.create_check_constraint(
        "push_follow_known", _TABLE, "follow IN ('all', 'changes')", schema=_SCHEMA
    )
    op.create_check_constraint("push_since_before", _TABLE, "since <= version", schema=_SCHEMA)
    op.create_unique_constraint("push_previous", _TABLE, ["previous_id"], schema=_SCHEMA)
    op.create_index(
        "push_following",
        _TABLE,
        ["next_at"],
        schema=_SCHEMA,
        postgresql_where=sa.text("status = 'completed' AND follow IS NOT NULL"),
    )
    grant(op, "contracts.push", "update (follow)")


def downgrade() -> None:
    op.drop_index("push_following", table_name=_TABLE, schema=_SCHEMA)
    for name in ("previous_id", "follow", "since"):
        op.drop_column(_TABLE, name, schema=_SCHEMA)
