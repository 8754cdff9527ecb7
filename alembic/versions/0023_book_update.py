"""The journal of the books."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "book_update",
        sa.Column("plan_id", sa.Uuid, nullable=False),
        *(
            sa.Column(name, kind, autoincrement=False, nullable=False)
            for name, kind in (
                ("sequence", sa.BigInteger),
                ("checksum", sa.BigInteger),
                ("orders", sa.Integer),
                ("first_seq", sa.BigInteger),
                ("last_seq", sa.BigInteger),
            )
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.Column(name, sa.LargeBinary, nullable=False)
            for name in ("steps", "levels", "digest")
        ),
        sa.PrimaryKeyConstraint("plan_id", "sequence", name="book_update_pkey"),
        sa.CheckConstraint("sequence >= 1", name="book_update_sequence_positive"),
        sa.CheckConstraint("first_seq BETWEEN 1 AND last_seq", name="book_update_seq_order"),
        sa.CheckConstraint("length(digest) = 16", name="book_update_digest_length"),
        schema="matching",
    )
    # Packed numbers hardly shrink, and every one of them would cost the writer's time.
    for name in ("steps", "levels"):
        op.execute(f"ALTER TABLE matching.book_update ALTER COLUMN {name} SET STORAGE EXTERNAL")
    append_only(op, "matching.book_update")
    # Candles and tickers read the trades of a time.
    op.create_index("trade_time", "trade", ["plan_id", "traded_at", "seq"], schema="matching")


def downgrade() -> None:
    op.drop_index("trade_time", "trade", schema="matching")
    op.drop_table("book_update", schema="matching")
