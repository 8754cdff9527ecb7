"""Matching: minimum quantity, self-trade modes, good till date, auction orders, amendments."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import grant

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_TABLE = 'matching."order"'
_OPEN = "status IN ('open', 'partially_filled')"
_MODES = "'cancel_newest', 'cancel_oldest', 'cancel_both', 'decrement'"
_NEW = {
    "order_tif_known": "time_in_force IN ('gtc', 'gtd', 'ioc', 'fok', 'auction')",
    "order_gtd_expires": "time_in_force <> 'gtd' OR expires_at IS NOT NULL",
    "order_unlimited_sell": (
        "lots IS NOT NULL OR (side = 'sell' AND type = 'limit' AND time_in_force IN ('gtc', 'gtd'))"
    ),
    "order_tif_rests": f"NOT ({_OPEN}) OR time_in_force IN ('gtc', 'gtd', 'auction')",
    "order_min_lots_range": "min_lots BETWEEN 1 AND 1000000000",
    "order_self_trade_mode_known": f"self_trade_mode IN ({_MODES})",
    "order_rank_later": "rank > seq",
    "order_amendments_positive": "amendments >= 0",
}
_OLD = {
    "order_tif_known": "time_in_force IN ('gtc', 'ioc', 'fok')",
    "order_unlimited_sell": (
        "lots IS NOT NULL OR (side = 'sell' AND type = 'limit' AND time_in_force = 'gtc')"
    ),
    "order_only_gtc_rests": f"NOT ({_OPEN}) OR time_in_force = 'gtc'",
}
_COLUMNS = ("rank", "min_lots", "self_trade_mode", "amendments")
# What an amendment changes; closed orders stay final by trigger.
_AMENDED = "price_minor, lots, rank, post_only, expires_at, amendments"


def upgrade() -> None:
    # Nullable or with a constant default: no row is rewritten, and older code can still insert.
    op.execute(
        f"ALTER TABLE {_TABLE} ADD rank bigint, ADD min_lots bigint,"
        " ADD self_trade_mode text NOT NULL DEFAULT 'cancel_newest',"
        " ADD amendments integer NOT NULL DEFAULT 0"
    )
    _replace(_OLD, _NEW)
    op.create_index(
        "order_priority",
        "order",
        ["plan_id", sa.text("(COALESCE(rank, seq))")],
        schema="matching",
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    grant(op, "matching.order", f"update ({_AMENDED})")


def downgrade() -> None:
    """Fails while there are orders of the new kinds."""
    op.drop_index("order_priority", "order", schema="matching")
    _replace(_NEW, _OLD)
    for column in _COLUMNS:
        op.drop_column("order", column, schema="matching")


def _replace(gone: dict[str, str], come: dict[str, str]) -> None:
    """In two steps: NOT VALID needs no scan under the exclusive lock."""
    for name in gone:
        op.execute(f"ALTER TABLE {_TABLE} DROP CONSTRAINT {name}")
    for name, rule in come.items():
        op.execute(f"ALTER TABLE {_TABLE} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID")
        op.execute(f"ALTER TABLE {_TABLE} VALIDATE CONSTRAINT {name}")
