"""Commands from other processes to the matching engine's owner."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("sender", sa.Uuid, nullable=False),
        sa.Column("command", sa.LargeBinary, nullable=False),
        sa.Column("good_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("body", sa.LargeBinary),
        sa.Column("headers", sa.Text),
        sa.Column("replayed", sa.Boolean),
        sa.Column("raised", sa.Boolean),
        sa.Column("answered_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="inbox_pkey"),
        sa.CheckConstraint(
            "num_nulls(status, body, headers, replayed, raised, answered_at) IN (0, 6)",
            name="inbox_answer_whole",
        ),
        schema="matching",
        prefixes=["UNLOGGED"],
    )
    for name, column, rows in (
        ("inbox_waiting", "seq", "answered_at IS NULL"),
        ("inbox_answered", "sender", "answered_at IS NOT NULL"),
    ):
        op.create_index(name, "inbox", [column], schema="matching", postgresql_where=sa.text(rows))
    grant(
        op,
        "matching.inbox",
        "select, insert, update (status, body, headers, replayed, raised, answered_at), delete",
    )


def downgrade() -> None:
    op.drop_table("inbox", schema="matching")
