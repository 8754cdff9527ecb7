"""Market controls: the log of operators' decisions, blocked parties."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _control()
    op.create_table(
        "trading_block",
        _id("party_id"),
        _time("since"),
        sa.PrimaryKeyConstraint("party_id"),
        schema="parties",
    )
    append_only(op, "matching.control")
    grant(op, "parties.trading_block", "select, insert, delete")


def downgrade() -> None:
    op.drop_table("trading_block", schema="parties")
    op.drop_table("control", schema="matching")


def _id(name: str, *, nullable: bool = False) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid, nullable=nullable)


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False)


def _time(name: str) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _control() -> None:
    op.create_table(
        "control",
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False),
        _text("topic"),
        _id("subject_id"),
        _text("action"),
        sa.Column("data", JSONB, nullable=False),
        _text("reason"),
        _id("actor_id", nullable=True),
        _id("credential_id", nullable=True),
        _time("at"),
        sa.PrimaryKeyConstraint("seq"),
        sa.CheckConstraint(
            "topic IN ('rules', 'halt', 'call', 'block', 'quota')", name="control_topic_known"
        ),
        sa.CheckConstraint("seq >= 1", name="control_seq_positive"),
        sa.CheckConstraint("length(reason) BETWEEN 1 AND 200", name="control_reason_length"),
        schema="matching",
    )
    op.create_index("control_subject", "control", ["topic", "subject_id", "seq"], schema="matching")
