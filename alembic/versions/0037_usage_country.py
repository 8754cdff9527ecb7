"""Use from a new country: alerts and holds."""

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

_SUSPICIONS = "'usage_spike', 'usage_scraping', 'usage_address'"
_RULES = (
    "'affiliated_trade', 'circular_trading', 'cancelled_pressure', "
    f"'price_jump', 'price_off_valuation', 'concentration', {_SUSPICIONS}"
)
_NEW = "'usage_country'"


def upgrade() -> None:
    _know(f"{_RULES}, {_NEW}", f"{_SUSPICIONS}, {_NEW}")


def downgrade() -> None:
    # The older code does not know these alerts.
    op.execute("ALTER TABLE surveillance.alert DISABLE TRIGGER alert_frozen")
    op.execute(f"DELETE FROM surveillance.alert WHERE rule = {_NEW}")
    op.execute("ALTER TABLE surveillance.alert ENABLE ALWAYS TRIGGER alert_frozen")
    op.execute(
        f"UPDATE contracts.usage_guard SET hold_on = array_remove(hold_on, {_NEW}) "
        f"WHERE {_NEW} = ANY (hold_on)"
    )
    # The same suspicion, seen from the older rule.
    op.execute(
        f"UPDATE contracts.usage_hold SET suspicion = 'usage_address' WHERE suspicion = {_NEW}"
    )
    _know(_RULES, _SUSPICIONS)


def _know(rules: str, suspicions: str) -> None:
    for schema, table, name, condition in (
        ("surveillance", "alert", "alert_rule_known", f"rule IN ({rules})"),
        ("contracts", "usage_guard", "usage_guard_known", f"hold_on <@ ARRAY[{suspicions}]"),
        (
            "contracts",
            "usage_hold",
            "usage_hold_suspicion_known",
            f"suspicion IN ({suspicions})",
        ),
    ):
        op.drop_constraint(name, table, schema=schema, type_="check")
        op.create_check_constraint(name, table, condition, schema=schema)
