"""Kernel: outbox, idempotent answers, market time, the deny trigger of append-only tables."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import create_schema, drop_schema, grant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_schema(op, "kernel")
    _outbox()
    _idempotent_answers()
    _market_time()
    op.execute(
        "CREATE FUNCTION kernel.deny_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME "
        "USING ERRCODE = 'restrict_violation'; END $$"
    )
    # Events are pruned by age, answers too; neither is ever changed.
    grant(op, "kernel.outbox", "select, insert, delete")
    grant(op, "kernel.idempotent_answer", "select, insert, delete")
    grant(op, "kernel.sandbox_clock", "select, update")
    # Readiness compares the schema's revision with the code's.
    grant(op, "public.alembic_version", "select")


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column(
            "txid",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
        ),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Uuid(), nullable=False),
        sa.Column("parties", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        schema="kernel",
    )
    op.create_index("outbox_position", "outbox", ["txid", "seq"], schema="kernel")
    op.create_index(
        "outbox_parties", "outbox", ["parties"], schema="kernel", postgresql_using="gin"
    )


def _idempotent_answers() -> None:
    op.create_table(
        "idempotent_answer",
        sa.Column("scope", sa.Uuid(), primary_key=True),
        sa.Column("key_hash", sa.LargeBinary(), primary_key=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.CheckConstraint("octet_length(key_hash) = 32", name="idempotent_answer_key_hash"),
        sa.CheckConstraint(
            "octet_length(request_hash) = 32", name="idempotent_answer_request_hash"
        ),
        schema="kernel",
    )
    op.create_index(
        "idempotent_answer_created_at", "idempotent_answer", ["created_at"], schema="kernel"
    )


def _market_time() -> None:
    op.create_table(
        "sandbox_clock",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("ahead", sa.Interval(), nullable=False),
        sa.CheckConstraint("id = 1", name="sandbox_clock_single"),
        sa.CheckConstraint("ahead >= '00:00:00'::interval", name="sandbox_clock_forward"),
        schema="kernel",
    )
    op.execute("INSERT INTO kernel.sandbox_clock (id, ahead) VALUES (1, interval '0')")
    # STABLE: one market time per statement; now() is the transaction's start, so all statements
    # of a unit of work agree.
    op.execute(
        "CREATE FUNCTION kernel.market_now() RETURNS timestamptz LANGUAGE sql STABLE AS "
        "$$ SELECT now() + (SELECT ahead FROM kernel.sandbox_clock WHERE id = 1) $$"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION kernel.deny_change()")
    op.execute("DROP FUNCTION kernel.market_now()")
    for table in ("sandbox_clock", "idempotent_answer", "outbox"):
        op.drop_table(table, schema="kernel")
    drop_schema(op, "kernel")
