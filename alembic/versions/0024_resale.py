"""Resale: units of a grant offered and resold, and the record of what moved where."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_SCHEMA = "contracts"
_GRANT = "access_grant"
_COUNTS = "reserved_units >= 0 AND settled_units >= 0 AND accrued_units >= 0 "
_BEFORE = {
    "access_grant_counts": _COUNTS + "AND accrued_units <= settled_units AND gen > 0",
    "access_grant_never_over": (
        "granted_units IS NULL OR reserved_units + settled_units <= granted_units"
    ),
}
_AFTER = {
    "access_grant_counts": (
        _COUNTS + "AND offered_units >= 0 AND resold_units >= 0 "
        "AND accrued_units <= settled_units + resold_units AND gen > 0"
    ),
    "access_grant_never_over": (
        "granted_units IS NULL OR reserved_units + settled_units + offered_units "
        "+ resold_units <= granted_units"
    ),
    "access_grant_resale_counted": (
        "granted_units IS NOT NULL OR offered_units + resold_units = 0"
    ),
}


def upgrade() -> None:
    for name in ("offered_units", "resold_units"):
        units = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        op.add_column(_GRANT, units, schema=_SCHEMA)
    op.add_column(_GRANT, sa.Column("resold_from", sa.Uuid(), nullable=True), schema=_SCHEMA)
    _check(_BEFORE, _AFTER)
    _index("settled_units + resold_units > accrued_units")
    grant(op, "contracts.access_grant", "update (offered_units, resold_units)")
    _resale()
    append_only(op, "contracts.resale")
    op.add_column("order", sa.Column("grant_id", sa.Uuid(), nullable=True), schema="matching")
    op.create_check_constraint(
        "order_resale_counted",
        "order",
        "grant_id IS NULL OR (side = 'sell' AND lots IS NOT NULL)",
        schema="matching",
    )


def downgrade() -> None:
    op.drop_constraint("order_resale_counted", "order", schema="matching", type_="check")
    op.drop_column("order", "grant_id", schema="matching")
    op.drop_table("resale", schema=_SCHEMA)
    _index("settled_units > accrued_units")
    _check(_AFTER, _BEFORE)
    for name in ("resold_from", "resold_units", "offered_units"):
        op.drop_column(_GRANT, name, schema=_SCHEMA)


def _check(old: dict[str, str], new: dict[str, str]) -> None:
    for name in old:
        op.drop_constraint(name, _GRANT, schema=_SCHEMA, type_="check")
    for name, condition in new.items():
        op.create_check_constraint(name, _GRANT, condition, schema=_SCHEMA)


def _index(unaccrued: str) -> None:
    op.drop_index("access_grant_unaccrued", _GRANT, schema=_SCHEMA)
    where = sa.text(unaccrued)
    op.create_index(
        "access_grant_unaccrued", _GRANT, ["id"], schema=_SCHEMA, postgresql_where=where
    )


def _ref(name: str, target: str, constraint: str) -> "sa.Column[sa.Uuid]":
    key = sa.ForeignKey(f"contracts.{target}.id", name=constraint)
    return sa.Column(name, sa.Uuid, key, nullable=False)


def _resale() -> None:
    op.create_table(
        "resale",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("trade_id", sa.Uuid, nullable=False),
        _ref("from_grant_id", _GRANT, "resale_from_grant_fk"),
        _ref("from_agreement_id", "agreement", "resale_from_agreement_fk"),
        _ref("to_grant_id", _GRANT, "resale_to_grant_fk"),
        _ref("to_agreement_id", "agreement", "resale_to_agreement_fk"),
        sa.Column("units", sa.BigInteger, nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("units > 0", name="resale_units_positive"),
        sa.CheckConstraint("from_grant_id <> to_grant_id", name="resale_two_grants"),
        sa.UniqueConstraint("trade_id", name="resale_trade"),
        sa.UniqueConstraint("to_agreement_id", name="resale_to_agreement"),
        schema=_SCHEMA,
    )
    op.create_index("resale_from_agreement", "resale", ["from_agreement_id", "id"], schema=_SCHEMA)
