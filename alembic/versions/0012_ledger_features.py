"""Settlement: currency exchange, corrections, and the indexes that proofs and statements read."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_SCHEMA = "settlement"
_AMOUNT = "amount_minor BETWEEN 1 AND 1000000000000000"
_KINDS = "'available', 'receivable', 'escrow', 'frozen', 'fees', 'losses', 'clearing', 'in_transit'"
_TABLES = ("correction_approval", "correction", "exchange_conversion", "exchange_quote")


def upgrade() -> None:
    _account_checks(f"{_KINDS}, 'fx'", "'clearing', 'receivable', 'losses', 'fx'")
    op.create_index("batch_booked_at", "batch", ["booked_at"], schema=_SCHEMA)
    # Few transfers happened at another time than they were booked; only those are in it.
    op.create_index(
        "transfer_moved",
        "transfer",
        ["event_at"],
        schema=_SCHEMA,
        postgresql_where=sa.text("event_at <> booked_at"),
    )
    _exchange()
    _corrections()
    append_only(op, "settlement.exchange_rate")
    for table in _TABLES:
        append_only(op, f"settlement.{table}")


def downgrade() -> None:
    for table in (*_TABLES, "exchange_rate"):
        op.drop_table(table, schema=_SCHEMA)
    op.drop_index("transfer_moved", "transfer", schema=_SCHEMA)
    op.drop_index("batch_booked_at", "batch", schema=_SCHEMA)
    # Fails while there are exchange accounts: their money cannot be unbooked.
    _account_checks(_KINDS, "'clearing', 'receivable', 'losses'")


def _account_checks(kinds: str, unprotected: str) -> None:
    """Widened in two steps: NOT VALID needs no scan under the exclusive lock."""
    checks = {
        "account_kind": f"kind IN ({kinds})",
        "account_protected": f"kind IN ({unprotected}) OR posted - held >= 0",
    }
    for name, condition in checks.items():
        op.execute(f"ALTER TABLE settlement.account DROP CONSTRAINT {name}")
        op.execute(
            f"ALTER TABLE settlement.account ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
        )
        op.execute(f"ALTER TABLE settlement.account VALIDATE CONSTRAINT {name}")


def _uuid(name: str, *, nullable: bool = False, primary_key: bool = False) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid(), nullable=nullable, primary_key=primary_key)


def _bigint(name: str) -> "sa.Column[sa.BigInteger]":
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _currency(name: str) -> "sa.Column[sa.String]":
    return sa.Column(name, sa.String(3), nullable=False)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _exchange() -> None:
    op.create_table(
        "exchange_rate",
        _uuid("id", primary_key=True),
        _currency("source"),
        _currency("target"),
        _bigint("numerator"),
        _bigint("denominator"),
        sa.Column("spread_bps", sa.Integer(), nullable=False),
        _time("valid_from"),
        _time("valid_until"),
        _uuid("set_by"),
        _time("created_at"),
        sa.CheckConstraint("source <> target", name="exchange_rate_pair"),
        sa.CheckConstraint(
            "numerator BETWEEN 1 AND 1000000000000 AND denominator BETWEEN 1 AND 1000000000000",
            name="exchange_rate_ratio",
        ),
        sa.CheckConstraint("spread_bps BETWEEN 0 AND 5000", name="exchange_rate_spread"),
        sa.CheckConstraint("valid_until > valid_from", name="exchange_rate_validity"),
        schema=_SCHEMA,
    )
    op.create_index(
        "exchange_rate_pair_id", "exchange_rate", ["source", "target", "id"], schema=_SCHEMA
    )
    op.create_table(
        "exchange_quote",
        _uuid("id", primary_key=True),
        _uuid("party_id"),
        _uuid("rate_id"),
        _bigint("amount_minor"),
        _currency("source"),
        _bigint("gross_minor"),
        _bigint("fee_minor"),
        _currency("target"),
        _time("expires_at"),
        _time("created_at"),
        sa.CheckConstraint(_AMOUNT, name="exchange_quote_amount"),
        sa.CheckConstraint("fee_minor >= 0 AND gross_minor > fee_minor", name="exchange_quote_fee"),
        sa.ForeignKeyConstraint(
            ["rate_id"], ["settlement.exchange_rate.id"], name="exchange_quote_rate_id_fkey"
        ),
        schema=_SCHEMA,
    )
    op.create_index("exchange_quote_party_id", "exchange_quote", ["party_id", "id"], schema=_SCHEMA)
    op.create_table(
        "exchange_conversion",
        _uuid("quote_id", primary_key=True),
        _uuid("transfer_id"),
        _time("converted_at"),
        sa.ForeignKeyConstraint(
            ["quote_id"], ["settlement.exchange_quote.id"], name="exchange_conversion_quote_id_fkey"
        ),
        sa.UniqueConstraint("transfer_id", name="exchange_conversion_transfer_id"),
        schema=_SCHEMA,
    )


def _corrections() -> None:
    op.create_table(
        "correction",
        _uuid("id", primary_key=True),
        _uuid("reverses", nullable=True),
        sa.Column("legs", JSONB, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _time("event_at", nullable=True),
        _uuid("proposed_by"),
        _time("created_at"),
        schema=_SCHEMA,
    )
    op.create_table(
        "correction_approval",
        _uuid("correction_id", primary_key=True),
        _uuid("transfer_id"),
        _uuid("proposed_by"),
        _uuid("approved_by"),
        _time("approved_at"),
        sa.CheckConstraint("approved_by <> proposed_by", name="correction_approval_two_operators"),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["settlement.correction.id"],
            name="correction_approval_correction_id_fkey",
        ),
        sa.UniqueConstraint("transfer_id", name="correction_approval_transfer_id"),
        schema=_SCHEMA,
    )
