"""Holds on access because of unusual use, and the alerts that they follow."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from alembic import op
from market.kernel.migration import grant

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_SUSPICIONS = "'usage_spike', 'usage_scraping', 'usage_address'"
_RULES = (
    "'affiliated_trade', 'circular_trading', 'cancelled_pressure', "
    "'price_jump', 'price_off_valuation', 'concentration'"
)


def upgrade() -> None:
    _know(f"{_RULES}, {_SUSPICIONS}")
    op.create_table(
        "usage_guard",
        sa.Column("agreement_id", sa.Uuid, nullable=False),
        sa.Column("hold_on", ARRAY(sa.Text), nullable=False),
        sa.Column("set_by", sa.Uuid, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("agreement_id", name="usage_guard_pkey"),
        _agreement("usage_guard_agreement_fk"),
        sa.CheckConstraint(f"hold_on <@ ARRAY[{_SUSPICIONS}]", name="usage_guard_known"),
        schema="contracts",
    )
    op.create_table(
        "usage_hold",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("agreement_id", sa.Uuid, nullable=False),
        sa.Column("suspicion", sa.Text, nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True)),
        sa.Column("released_by", sa.Uuid),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="usage_hold_pkey"),
        _agreement("usage_hold_agreement_fk"),
        sa.CheckConstraint(f"suspicion IN ({_SUSPICIONS})", name="usage_hold_suspicion_known"),
        sa.CheckConstraint(
            "num_nulls(released_at, released_by, reason) IN (0, 3)", name="usage_hold_whole"
        ),
        schema="contracts",
    )
    op.create_index(
        "usage_hold_one_open",
        "usage_hold",
        ["agreement_id"],
        unique=True,
        schema="contracts",
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_index(
        "usage_hold_agreement", "usage_hold", ["agreement_id", "id"], schema="contracts"
    )
    grant(op, "contracts.usage_guard", "select, insert, update (hold_on, set_by, updated_at)")
    grant(op, "contracts.usage_hold", "select, insert, update (released_at, released_by, reason)")


def downgrade() -> None:
    op.drop_table("usage_hold", schema="contracts")
    op.drop_table("usage_guard", schema="contracts")
    # The older code does not know these alerts.
    op.execute("ALTER TABLE surveillance.alert DISABLE TRIGGER alert_frozen")
    op.execute(f"DELETE FROM surveillance.alert WHERE rule IN ({_SUSPICIONS})")
    op.execute("ALTER TABLE surveillance.alert ENABLE ALWAYS TRIGGER alert_frozen")
    _know(_RULES)


def _know(words: str) -> None:
    op.drop_constraint("alert_rule_known", "alert", schema="surveillance", type_="check")
    op.create_check_constraint(
        "alert_rule_known", "alert", f"rule IN ({words})", schema="surveillance"
    )


def _agreement(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["agreement_id"], ["contracts.agreement.id"], name=name)
