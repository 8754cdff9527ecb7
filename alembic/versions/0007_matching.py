"""Matching: orders, trades, book checksums, the writer's lease."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OPEN = "status IN ('open', 'partially_filled')"
_CHANGING = (
    "filled_lots, filled_amount_minor, status, reason, hold_id, updated_at, closed_at, closed_seq"
)


def upgrade() -> None:
    create_schema(op, "matching")
    _order()
    _trade()
    _book()
    _lease()
    # Price, quantity, party and plan of an order are never updated, by any statement.
    grant(op, "matching.order", "select, insert")
    grant(op, "matching.order", f"update ({_CHANGING})")
    append_only(op, "matching.trade")
    grant(op, "matching.book", "select, insert, update")
    grant(op, "matching.lease", "select, update")
    op.execute(
        "CREATE FUNCTION matching.deny_closed_change() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION 'order % is closed', OLD.id "
        "USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        'CREATE TRIGGER order_closed_is_final BEFORE UPDATE ON matching."order" '
        "FOR EACH ROW WHEN (OLD.closed_at IS NOT NULL) "
        "EXECUTE FUNCTION matching.deny_closed_change()"
    )
    op.execute('ALTER TABLE matching."order" ENABLE ALWAYS TRIGGER order_closed_is_final')


def downgrade() -> None:
    for table in ("lease", "book", "trade", "order"):
        op.drop_table(table, schema="matching")
    op.execute("DROP FUNCTION matching.deny_closed_change()")
    drop_schema(op, "matching")


def _id(name: str, *, nullable: bool = False) -> sa.Column[sa.Uuid]:
    return sa.Column(name, sa.Uuid(), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[sa.Text]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _bigint(name: str, *, nullable: bool = False) -> sa.Column[sa.BigInteger]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _order() -> None:
    op.create_table(
        "order",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _bigint("seq"),
        _id("plan_id"),
        _id("listing_id"),
        _id("party_id"),
        _text("side"),
        _text("type"),
        _text("time_in_force"),
        sa.Column("post_only", sa.Boolean(), nullable=False),
        _bigint("price_minor"),
        _text("currency"),
        _bigint("lots", nullable=True),
        _bigint("filled_lots"),
        # A posted price can be filled without end: its total outgrows bigint.
        sa.Column("filled_amount_minor", sa.Numeric(30, 0), nullable=False),
        _text("status"),
        _text("reason", nullable=True),
        _id("hold_id", nullable=True),
        _text("client_order_id", nullable=True),
        _id("conflict_group"),
        _time("expires_at", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("closed_at", nullable=True),
        _bigint("closed_seq", nullable=True),
        *_order_checks(),
        schema="matching",
    )
    op.create_index("order_seq", "order", ["seq"], unique=True, schema="matching")
    op.create_index(
        "order_client_order_id",
        "order",
        ["party_id", "client_order_id"],
        unique=True,
        schema="matching",
        postgresql_where=sa.text("client_order_id IS NOT NULL"),
    )
    op.create_index(
        "order_book",
        "order",
        ["plan_id", "side", "price_minor", "seq"],
        schema="matching",
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index("order_party", "order", ["party_id", "id"], schema="matching")


def _order_checks() -> list[sa.CheckConstraint]:
    checks = {
        "order_side_known": "side IN ('buy', 'sell')",
        "order_type_known": "type IN ('limit', 'market')",
        "order_tif_known": "time_in_force IN ('gtc', 'ioc', 'fok')",
        "order_status_known": (
            "status IN ('open', 'partially_filled', 'filled', 'cancelled', 'rejected')"
        ),
        "order_price_range": "price_minor BETWEEN 1 AND 1000000000000000",
        "order_lots_range": "lots BETWEEN 1 AND 1000000000",
        "order_unlimited_sell": (
            "lots IS NOT NULL OR (side = 'sell' AND type = 'limit' AND time_in_force = 'gtc')"
        ),
        "order_not_overfilled": "filled_lots BETWEEN 0 AND lots",
        "order_filled_positive": "filled_lots >= 0 AND filled_amount_minor >= 0",
        "order_filled_when_full": (
            "(status = 'filled') = (lots IS NOT NULL AND filled_lots = lots)"
        ),
        "order_open_unfilled": "status <> 'open' OR filled_lots = 0",
        "order_partial_some": "status <> 'partially_filled' OR filled_lots > 0",
        "order_closed_when": f"({_OPEN}) = (closed_at IS NULL)",
        "order_closed_seq": "(closed_at IS NULL) = (closed_seq IS NULL)",
        "order_closed_reason": "(status IN ('cancelled', 'rejected')) = (reason IS NOT NULL)",
        "order_open_buy_held": f"(hold_id IS NOT NULL) = (side = 'buy' AND {_OPEN})",
        "order_only_gtc_rests": f"NOT ({_OPEN}) OR time_in_force = 'gtc'",
        "order_client_order_id_form": "client_order_id ~ '^[!-~]{1,64}$'",
    }
    return [sa.CheckConstraint(rule, name=name) for name, rule in checks.items()]


def _trade() -> None:
    op.create_table(
        "trade",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _id("plan_id"),
        _id("buy_order_id"),
        _id("sell_order_id"),
        _id("buyer_id"),
        _id("seller_id"),
        _text("taker_side"),
        _bigint("lots"),
        _bigint("price_minor"),
        _bigint("amount_minor"),
        _text("currency"),
        _id("agreement_id"),
        _time("traded_at"),
        sa.CheckConstraint("taker_side IN ('buy', 'sell')", name="trade_taker_side_known"),
        sa.CheckConstraint("lots BETWEEN 1 AND 1000000000", name="trade_lots_range"),
        sa.CheckConstraint("price_minor BETWEEN 1 AND 1000000000000000", name="trade_price_range"),
        sa.CheckConstraint("amount_minor = price_minor * lots", name="trade_amount_exact"),
        sa.CheckConstraint("buyer_id <> seller_id", name="trade_two_parties"),
        schema="matching",
    )
    op.create_index("trade_seq", "trade", ["seq"], unique=True, schema="matching")
    op.create_index("trade_agreement", "trade", ["agreement_id"], unique=True, schema="matching")
    for name, column in [
        ("plan", "plan_id"),
        ("buyer", "buyer_id"),
        ("seller", "seller_id"),
        ("buy_order", "buy_order_id"),
        ("sell_order", "sell_order_id"),
    ]:
        op.create_index(f"trade_{name}", "trade", [column, "seq"], schema="matching")


def _book() -> None:
    op.create_table(
        "book",
        sa.Column("plan_id", sa.Uuid(), primary_key=True),
        _bigint("sequence"),
        _bigint("checksum"),
        sa.Column("orders", sa.Integer(), nullable=False),
        _time("updated_at"),
        sa.CheckConstraint("sequence >= 1", name="book_sequence_positive"),
        sa.CheckConstraint("checksum >= 0", name="book_checksum_positive"),
        sa.CheckConstraint("orders >= 0", name="book_orders_positive"),
        schema="matching",
    )


def _lease() -> None:
    op.create_table(
        "lease",
        sa.Column("shard", sa.SmallInteger(), primary_key=True, autoincrement=False),
        _text("holder"),
        _bigint("term"),
        _time("expires_at"),
        _bigint("last_seq"),
        sa.CheckConstraint("term >= 0", name="lease_term_positive"),
        sa.CheckConstraint("last_seq >= 0", name="lease_last_seq_positive"),
        schema="matching",
    )
    op.execute(
        "INSERT INTO matching.lease (shard, holder, term, expires_at, last_seq) "
        "VALUES (0, '', 0, '-infinity', 0)"
    )
