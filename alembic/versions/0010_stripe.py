"""Rails: Stripe commands, payout accounts, refunds, webhooks; the sandbox's 3-D Secure step."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import grant

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SCHEMA = "settlement"
_AMOUNT = "amount_minor BETWEEN 1 AND 1000000000000000"
_TABLES = ("sandbox_refund", "webhook_event", "refund", "payout_account", "stripe_command")


def upgrade() -> None:
    op.add_column("top_up", sa.Column("redirect_url", sa.Text), schema=_SCHEMA)
    grant(op, "settlement.top_up", "update (redirect_url)")
    op.add_column("sandbox_charge", sa.Column("authentication", sa.Text), schema=_SCHEMA)
    op.create_check_constraint(
        "sandbox_charge_authentication",
        "sandbox_charge",
        "authentication IN ('approved', 'refused')",
        schema=_SCHEMA,
    )
    op.add_column(
        "sandbox_charge", sa.Column("authenticated_at", sa.DateTime(timezone=True)), schema=_SCHEMA
    )
    grant(op, "settlement.sandbox_charge", "update (authentication, authenticated_at)")
    _sandbox_refunds()
    _commands()
    _payout_accounts()
    _refunds()
    _webhook_events()
    grant(op, "settlement.stripe_command", "select, insert, update (object_id, failure_code)")
    grant(
        op,
        "settlement.payout_account",
        "select, insert, update (details_submitted, payouts_enabled, due, disabled_reason, "
        "updated_at)",
    )
    grant(
        op,
        "settlement.refund",
        "select, insert, update (status, failure_code, attempts, next_attempt_at, updated_at)",
    )
    grant(
        op,
        "settlement.webhook_event",
        "select, insert, update (state, detail, attempts, next_attempt_at, processed_at)",
    )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table, schema=_SCHEMA)
    op.drop_column("sandbox_charge", "authenticated_at", schema=_SCHEMA)
    op.drop_column("sandbox_charge", "authentication", schema=_SCHEMA)
    op.drop_column("top_up", "redirect_url", schema=_SCHEMA)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _commands() -> None:
    op.create_table(
        "stripe_command",
        sa.Column("key", sa.Uuid, nullable=False),
        _text("kind"),
        sa.Column("subject_id", sa.Uuid, nullable=False),
        _text("account", nullable=True),
        _text("object_id", nullable=True),
        _text("failure_code", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("key", name="stripe_command_pkey"),
        sa.CheckConstraint(
            "kind IN ('customer', 'checkout', 'payment_intent', 'refund', 'account', 'schedule', "
            "'transfer', 'payout', 'reversal')",
            name="stripe_command_kind",
        ),
        sa.CheckConstraint(
            "object_id IS NULL OR failure_code IS NULL", name="stripe_command_outcome"
        ),
        schema=_SCHEMA,
    )
    op.create_index(
        "stripe_command_subject", "stripe_command", ["subject_id", "kind"], schema=_SCHEMA
    )


def _payout_accounts() -> None:
    op.create_table(
        "payout_account",
        sa.Column("party_id", sa.Uuid, nullable=False),
        _text("rail"),
        _text("account"),
        sa.Column("details_submitted", sa.Boolean, nullable=False),
        sa.Column("payouts_enabled", sa.Boolean, nullable=False),
        sa.Column("due", JSONB, nullable=False),
        _text("disabled_reason", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("party_id", "rail", name="payout_account_pkey"),
        sa.UniqueConstraint("rail", "account", name="payout_account_name"),
        schema=_SCHEMA,
    )


def _refunds() -> None:
    op.create_table(
        "refund",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("top_up_id", sa.Uuid, nullable=False),
        sa.Column("party_id", sa.Uuid, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        _text("rail"),
        _text("status"),
        _text("failure_code", nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        _time("next_attempt_at"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="refund_pkey"),
        sa.CheckConstraint(_AMOUNT, name="refund_amount"),
        sa.CheckConstraint("status IN ('pending', 'succeeded', 'failed')", name="refund_status"),
        sa.CheckConstraint(
            "(status = 'failed') = (failure_code IS NOT NULL)", name="refund_failure"
        ),
        sa.CheckConstraint("attempts >= 0", name="refund_attempts"),
        schema=_SCHEMA,
    )
    op.create_index("refund_top_up_id", "refund", ["top_up_id"], schema=_SCHEMA)
    op.create_index(
        "refund_due",
        "refund",
        ["next_attempt_at"],
        postgresql_where=sa.text("status = 'pending'"),
        schema=_SCHEMA,
    )


def _sandbox_refunds() -> None:
    op.create_table(
        "sandbox_refund",
        sa.Column("key", sa.Uuid, nullable=False),
        sa.Column("charge_key", sa.Uuid, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("key", name="sandbox_refund_pkey"),
        sa.CheckConstraint(_AMOUNT, name="sandbox_refund_amount"),
        schema=_SCHEMA,
    )
    op.create_index("sandbox_refund_charge", "sandbox_refund", ["charge_key"], schema=_SCHEMA)
    grant(op, "settlement.sandbox_refund", "select, insert")


def _webhook_events() -> None:
    op.create_table(
        "webhook_event",
        sa.Column("id", sa.Uuid, nullable=False),
        _text("source"),
        _text("event_id"),
        _text("type"),
        _text("object_id"),
        _text("account", nullable=True),
        sa.Column("livemode", sa.Boolean, nullable=False),
        _text("state"),
        _text("detail", nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        _time("next_attempt_at"),
        _time("created_at"),
        _time("processed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="webhook_event_pkey"),
        sa.CheckConstraint(
            "state IN ('received', 'done', 'ignored', 'quarantined', 'dead')",
            name="webhook_event_state",
        ),
        sa.CheckConstraint("attempts >= 0", name="webhook_event_attempts"),
        sa.UniqueConstraint("source", "event_id", name="webhook_event_name"),
        schema=_SCHEMA,
    )
    op.create_index(
        "webhook_event_due",
        "webhook_event",
        ["next_attempt_at"],
        postgresql_where=sa.text("state = 'received'"),
        schema=_SCHEMA,
    )
