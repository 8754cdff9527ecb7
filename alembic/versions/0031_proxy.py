"""The proxy: upstreams, sealed secrets, kept answers, violations."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_SCHEMA = "contracts"


def upgrade() -> None:
    _upstream()
    grant(
        op,
        "contracts.upstream",
        "select, insert, update (base_url, secret, operations, status, revision, updated_at, "
        "retired_at)",
    )
    op.create_table(
        "upstream_secret",
        sa.Column(
            "upstream_id",
            sa.Uuid,
            sa.ForeignKey("contracts.upstream.id", name="upstream_secret_upstream_fk"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        _moment("set_at"),
        sa.CheckConstraint("number > 0", name="upstream_secret_number_positive"),
        schema=_SCHEMA,
    )
    op.create_index("upstream_secret_key", "upstream_secret", ["key_id"], schema=_SCHEMA)
    grant(op, "contracts.upstream_secret", "select, insert, update, delete")
    op.create_table(
        "proxy_answer",
        sa.Column("grant_id", sa.Uuid, primary_key=True),
        sa.Column("delivery_key", sa.Text, primary_key=True),
        sa.Column("query_sha256", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        _moment("kept_until"),
        sa.CheckConstraint("octet_length(body) <= 1048576", name="proxy_answer_bounded"),
        schema=_SCHEMA,
    )
    op.create_index("proxy_answer_until", "proxy_answer", ["kept_until"], schema=_SCHEMA)
    # UPDATE only for the row locks of the job that deletes what is over.
    grant(op, "contracts.proxy_answer", "select, insert, delete, update (kept_until)")
    _violation()
    append_only(op, "contracts.proxy_violation")


def downgrade() -> None:
    for table in ("proxy_violation", "proxy_answer", "upstream_secret", "upstream"):
        op.drop_table(table, schema=_SCHEMA)


def _moment(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _upstream() -> None:
    op.create_table(
        "upstream",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("owner_id", sa.Uuid, nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("secret", JSONB, nullable=True),
        sa.Column("operations", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        _moment("retired_at", nullable=True),
        sa.CheckConstraint("status IN ('active', 'retired')", name="upstream_status_known"),
        sa.CheckConstraint(
            "(status = 'retired') = (retired_at IS NOT NULL)", name="upstream_retired"
        ),
        sa.CheckConstraint("revision > 0", name="upstream_revision_positive"),
        schema=_SCHEMA,
    )
    op.create_index(
        "upstream_product",
        "upstream",
        ["product_id"],
        unique=True,
        schema=_SCHEMA,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index("upstream_owner", "upstream", ["owner_id", "id"], schema=_SCHEMA)


def _violation() -> None:
    op.create_table(
        "proxy_violation",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column(
            "agreement_id",
            sa.Uuid,
            sa.ForeignKey("contracts.agreement.id", name="proxy_violation_agreement_fk"),
            nullable=False,
        ),
        sa.Column("upstream_id", sa.Uuid, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("delivery_key", sa.Text, nullable=False),
        sa.Column("operation", JSONB, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("findings", JSONB, nullable=False),
        sa.Column("parameters_sha256", sa.Text, nullable=False),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column("byte_count", sa.BigInteger, nullable=False),
        _moment("happened_at"),
        sa.CheckConstraint("byte_count >= 0", name="proxy_violation_bytes"),
        schema=_SCHEMA,
    )
    op.create_index(
        "proxy_violation_agreement", "proxy_violation", ["agreement_id", "id"], schema=_SCHEMA
    )
