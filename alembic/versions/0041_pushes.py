"""Pushes to buyers' targets."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _id(name: str, *constraints: sa.ForeignKey) -> sa.Column[sa.Uuid]:
    return sa.Column(name, sa.Uuid(), *constraints, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _large(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _targets() -> None:
    op.create_table(
        "push_target",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _id("party_id"),
        _text("kind"),
        _text("url"),
        sa.Column("place", JSONB(), nullable=False),
        _text("key_id"),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        _text("status"),
        _moment("created_at"),
        _moment("verified_at", nullable=True),
        sa.CheckConstraint("kind IN ('webhook', 's3')", name="push_target_kind_known"),
        sa.CheckConstraint(
            "status IN ('unverified', 'verified', 'retired')", name="push_target_status_known"
        ),
        sa.CheckConstraint("(status = 'retired') = (sealed IS NULL)", name="push_target_secret"),
        schema="contracts",
    )
    op.create_index("push_target_party", "push_target", ["party_id", "id"], schema="contracts")
    grant(
        op,
        "contracts.push_target",
        "select, insert, update (status, verified_at, key_id, sealed)",
    )


def _pushes() -> None:
    op.create_table(
        "push",
        sa.Column("id", sa.Uuid(), primary_key=True),
        _id("party_id"),
        _id("target_id", sa.ForeignKey("contracts.push_target.id", name="push_target_fk")),
        _id("grant_id", sa.ForeignKey("contracts.access_grant.id", name="push_grant_fk")),
        _id("token_id"),
        _number("version"),
        sa.Column("query", JSONB(), nullable=False),
        _text("status"),
        _number("parts"),
        *(_large(name) for name in ("rows", "bytes")),
        _text("next_after", nullable=True),
        sa.Column("all_sent", sa.Boolean(), nullable=False),
        *(_number(name) for name in ("breaks", "attempts")),
        _text("problem", nullable=True),
        _moment("next_at"),
        _moment("leased_until", nullable=True),
        _moment("created_at"),
        _moment("ended_at", nullable=True),
        sa.CheckConstraint(
            "status IN ('active', 'completed', 'exhausted', 'refused', 'dead', 'canceled')",
            name="push_status_known",
        ),
        sa.CheckConstraint(
            "parts >= 0 AND rows >= 0 AND bytes >= 0 AND attempts >= 0 AND breaks >= 0",
            name="push_counts",
        ),
        schema="contracts",
    )
    active = sa.text("status = 'active'")
    for name, columns, where in (
        ("push_due", ["next_at"], active),
        ("push_party", ["party_id", "id"], None),
        ("push_grant", ["grant_id"], active),
        ("push_target_of", ["target_id"], None),
    ):
        op.create_index(name, "push", columns, schema="contracts", postgresql_where=where)
    changed = (
        "status, parts, rows, bytes, next_after, all_sent, breaks, attempts, problem, next_at, "
        "leased_until, ended_at"
    )
    grant(op, "contracts.push", f"select, insert, update ({changed})")


def upgrade() -> None:
    _targets()
    _pushes()
    op.create_table(
        "push_part",
        sa.Column(
            "push_id",
            sa.Uuid(),
            sa.ForeignKey("contracts.push.id", name="push_part_push_fk"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer(), primary_key=True),
        _text("delivery_key"),
        _id("receipt_id"),
        *(_large(name) for name in ("rows", "bytes")),
        _text("sha256"),
        _moment("arrived_at"),
        sa.CheckConstraint("number > 0 AND rows >= 0 AND bytes >= 0", name="push_part_counts"),
        schema="contracts",
    )
    append_only(op, "contracts.push_part")


def downgrade() -> None:
    for name in ("push_part", "push", "push_target"):
        op.drop_table(name, schema="contracts")
