"""Reconciliation, chargebacks, cases for operators, payout schedules and runs, given-up debts."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_SCHEMA = "settlement"
_TABLES = (
    "rail_movement",
    "reconciliation",
    "rail_case",
    "chargeback",
    "payout_schedule",
    "payout_run",
    "payout_run_line",
    "write_off",
    "operator_action",
)


def upgrade() -> None:
    _rail_movement()
    _reconciliation()
    _rail_case()
    _chargeback()
    _payout_schedule()
    _payout_run()
    _payout_run_line()
    _write_off()
    _operator_action()
    _grants()


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table, schema=_SCHEMA)


def _grants() -> None:
    grant(op, "settlement.rail_movement", "select, insert, update (reconciled_on)")
    append_only(op, "settlement.reconciliation")
    grant(
        op,
        "settlement.rail_case",
        "select, insert, update (ledger_minor, rail_minor, detail, state, seen_at, closed_at, "
        "closed_by, resolution, reason)",
    )
    grant(
        op,
        "settlement.chargeback",
        "select, insert, update (amount_minor, party_minor, steps, postings, outcome, hold_id, "
        "checked_at, updated_at)",
    )
    grant(
        op,
        "settlement.payout_schedule",
        "select, insert, update (interval, minimum_minor, keep_minor, destination, next_on, "
        "updated_at)",
    )
    grant(op, "settlement.payout_run", "select, insert, update (finished_at)")
    append_only(op, "settlement.payout_run_line")
    grant(op, "settlement.write_off", "select, insert, update (recovered_minor)")
    append_only(op, "settlement.operator_action")


def _rail_movement() -> None:
    op.create_table(
        "rail_movement",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rail", sa.Text, nullable=False),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=True),
        sa.Column("key", sa.Uuid, nullable=True),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("fee_minor", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reconciled_on", sa.Date, nullable=True),
        sa.PrimaryKeyConstraint("id", name="rail_movement_pkey"),
        sa.UniqueConstraint("rail", "position", name="rail_movement_name"),
        schema=_SCHEMA,
    )
    op.create_index("rail_movement_key", "rail_movement", ["key"], schema=_SCHEMA)
    op.create_index(
        "rail_movement_open",
        "rail_movement",
        ["rail", "moved_at"],
        schema=_SCHEMA,
        postgresql_where=sa.text("reconciled_on IS NULL"),
    )
    op.create_index("rail_movement_source", "rail_movement", ["source"], schema=_SCHEMA)


def _reconciliation() -> None:
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rail", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("movement_count", sa.Integer, nullable=False),
        sa.Column("subject_count", sa.Integer, nullable=False),
        sa.Column("in_flight_count", sa.Integer, nullable=False),
        sa.Column("difference_count", sa.Integer, nullable=False),
        sa.Column("totals", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("since < until", name="reconciliation_span"),
        sa.PrimaryKeyConstraint("id", name="reconciliation_pkey"),
        schema=_SCHEMA,
    )
    op.create_index("reconciliation_until", "reconciliation", ["rail", "until"], schema=_SCHEMA)


def _rail_case() -> None:
    op.create_table(
        "rail_case",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rail", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Uuid, nullable=False),
        sa.Column("party_id", sa.Uuid, nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("ledger_minor", sa.BigInteger, nullable=False),
        sa.Column("rail_minor", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Uuid, nullable=True),
        sa.Column("resolution", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL) "
            "AND (closed_at IS NULL) = (reason IS NULL) "
            "AND (closed_at IS NULL) = (resolution IS NULL)",
            name="rail_case_closing",
        ),
        sa.CheckConstraint(
            "kind IN ('missing_here', 'missing_there', 'amount_differs', 'fee_differs', "
            "'chargeback', 'refused', 'transfer_reversed')",
            name="rail_case_kind",
        ),
        sa.CheckConstraint(
            "resolution IN ('explained', 'booked_to_losses', 'agrees')", name="rail_case_resolution"
        ),
        sa.CheckConstraint("state IN ('open', 'closed')", name="rail_case_state"),
        sa.PrimaryKeyConstraint("id", name="rail_case_pkey"),
        schema=_SCHEMA,
    )
    op.create_index(
        "rail_case_open",
        "rail_case",
        ["rail", "kind", "subject_id", "currency"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("state = 'open'"),
    )


def _chargeback() -> None:
    op.create_table(
        "chargeback",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rail", sa.Text, nullable=False),
        sa.Column("dispute", sa.Text, nullable=False),
        sa.Column("top_up_id", sa.Uuid, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("party_minor", sa.BigInteger, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("postings", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("hold_id", sa.Uuid, nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("outcome IN ('open', 'won', 'lost')", name="chargeback_outcome"),
        sa.CheckConstraint(
            "party_minor BETWEEN 0 AND amount_minor AND steps >= 0 AND postings >= 0",
            name="chargeback_figures",
        ),
        sa.PrimaryKeyConstraint("id", name="chargeback_pkey"),
        sa.UniqueConstraint("rail", "dispute", name="chargeback_name"),
        schema=_SCHEMA,
    )
    op.create_index(
        "chargeback_open",
        "chargeback",
        ["checked_at"],
        schema=_SCHEMA,
        postgresql_where=sa.text("outcome = 'open'"),
    )
    op.create_index("chargeback_top_up", "chargeback", ["top_up_id"], schema=_SCHEMA)


def _payout_schedule() -> None:
    op.create_table(
        "payout_schedule",
        sa.Column("party_id", sa.Uuid, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("interval", sa.Text, nullable=False),
        sa.Column("minimum_minor", sa.BigInteger, nullable=False),
        sa.Column("keep_minor", sa.BigInteger, nullable=False),
        sa.Column("destination", sa.Text, nullable=True),
        sa.Column("next_on", sa.Date, nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "\"interval\" IN ('manual', 'daily', 'weekly', 'monthly')",
            name="payout_schedule_interval",
        ),
        sa.CheckConstraint(
            "(\"interval\" = 'manual') = (next_on IS NULL)", name="payout_schedule_next"
        ),
        sa.CheckConstraint(
            "minimum_minor >= 1 AND keep_minor >= 0", name="payout_schedule_amounts"
        ),
        sa.PrimaryKeyConstraint("party_id", "currency", name="payout_schedule_pkey"),
        schema=_SCHEMA,
    )
    op.create_index(
        "payout_schedule_due",
        "payout_schedule",
        ["next_on"],
        schema=_SCHEMA,
        postgresql_where=sa.text("next_on IS NOT NULL"),
    )


def _payout_run() -> None:
    op.create_table(
        "payout_run",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("rail", sa.Text, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("trigger IN ('schedule', 'operator')", name="payout_run_trigger"),
        sa.PrimaryKeyConstraint("id", name="payout_run_pkey"),
        schema=_SCHEMA,
    )
    op.create_index(
        "payout_run_open",
        "payout_run",
        ["rail", "trigger"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("finished_at IS NULL"),
    )


def _payout_run_line() -> None:
    op.create_table(
        "payout_run_line",
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("party_id", sa.Uuid, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("payout_id", sa.Uuid, nullable=True),
        sa.Column("skipped", sa.Text, nullable=True),
        sa.Column("balance_minor", sa.BigInteger, nullable=False),
        sa.Column("netted_minor", sa.BigInteger, nullable=False),
        sa.Column("held_back_minor", sa.BigInteger, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(payout_id IS NULL) = (skipped IS NOT NULL)", name="payout_run_line_outcome"
        ),
        sa.PrimaryKeyConstraint("run_id", "party_id", "currency", name="payout_run_line_pkey"),
        schema=_SCHEMA,
    )


def _write_off() -> None:
    op.create_table(
        "write_off",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("party_id", sa.Uuid, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("recovered_minor", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount_minor BETWEEN 1 AND 1000000000000000", name="write_off_amount"),
        sa.CheckConstraint(
            "recovered_minor BETWEEN 0 AND amount_minor", name="write_off_recovered"
        ),
        sa.PrimaryKeyConstraint("id", name="write_off_pkey"),
        schema=_SCHEMA,
    )
    op.create_index("write_off_party", "write_off", ["party_id", "currency"], schema=_SCHEMA)


def _operator_action() -> None:
    op.create_table(
        "operator_action",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("via", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Uuid, nullable=True),
        sa.Column("credential_id", sa.Uuid, nullable=True),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject_id", sa.Uuid, nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("via IN ('api', 'cli')", name="operator_action_via"),
        sa.PrimaryKeyConstraint("id", name="operator_action_pkey"),
        schema=_SCHEMA,
    )
    op.create_index("operator_action_subject", "operator_action", ["subject_id"], schema=_SCHEMA)
