"""Units of plans: MiB, queries, compute seconds; agreements count bytes and milliseconds."""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_BEFORE = ("row", "call")
_PLANS = (*_BEFORE, "mib", "query", "compute_second")
_COUNTED = (*_BEFORE, "byte", "query", "millisecond")


def upgrade() -> None:
    _known(_PLANS, _COUNTED)
    # Rows are no longer the only units of which a part of a file costs a part.
    op.alter_column("share_query", "by_row", new_column_name="in_parts", schema="contracts")


def downgrade() -> None:
    op.alter_column("share_query", "in_parts", new_column_name="by_row", schema="contracts")
    # Fails while something is sold in the new units: they have no older meaning.
    _known(_BEFORE, _BEFORE)


def _known(plans: tuple[str, ...], counted: tuple[str, ...]) -> None:
    _replace(
        "pricing.plan",
        "plan_kind_unit",
        f"(kind = 'metered' AND unit IN ({_words(plans)})) "
        "OR (kind = 'license' AND unit = 'license' AND lot_units = 1)",
    )
    for table, name in (
        ("agreement", "agreement_unit_known"),
        ("access_grant", "access_grant_unit_known"),
    ):
        _replace(f"contracts.{table}", name, f"unit IN ({_words((*counted, 'license'))})")


def _replace(table: str, name: str, condition: str) -> None:
    schema, bare = table.split(".")
    op.drop_constraint(name, bare, schema=schema)
    op.create_check_constraint(name, bare, condition, schema=schema)


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)
