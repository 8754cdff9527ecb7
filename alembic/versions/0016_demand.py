"""Demand: requests for data, invitations, quotes with rounds, awards, alerts."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None

_SCHEMA = "demand"
_PRICE = "price_minor BETWEEN 1 AND 1000000000000000"
_LOTS = "lots BETWEEN 1 AND 1000000000"
_TABLES = ("reading", "alert", "step", "award", "proposal", "quote", "invitation", "request")


def upgrade() -> None:
    create_schema(op, _SCHEMA)
    _requests()
    _quotes()
    _proposals()
    _awards()
    _steps()
    _alerts()
    _reading()
    _freeze_closed()
    grant(
        op,
        "demand.request",
        "select, insert, update (status, title, text, category, constraints, visibility, "
        "standing, revision, expires_at, updated_at, opened_at, closed_at)",
    )
    grant(op, "demand.invitation", "select, insert, delete")
    grant(
        op,
        "demand.quote",
        "select, insert, update (status, turn, round, price_minor, lots, valid_until, "
        "agreement_id, updated_at, closed_at)",
    )
    grant(op, "demand.alert", "select, insert, update (read_at)")
    grant(op, "demand.reading", "select, update (txid, seq, request_id)")
    for table in ("proposal", "award", "step"):
        append_only(op, f"demand.{table}")


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table, schema=_SCHEMA)
    op.execute("DROP FUNCTION demand.freeze_closed()")
    drop_schema(op, _SCHEMA)


def _id(name: str, *, nullable: bool = False) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid, nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _big(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False)


def _of_request(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["request_id"], ["demand.request.id"], name=name)


def _requests() -> None:
    op.create_table(
        "request",
        _id("id"),
        _id("buyer_id"),
        _text("status"),
        _text("title"),
        _text("text"),
        _text("category", nullable=True),
        sa.Column("constraints", JSONB, nullable=False),
        _text("visibility"),
        sa.Column("standing", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        _time("expires_at"),
        _time("created_at"),
        _time("updated_at"),
        _time("opened_at", nullable=True),
        _time("closed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="request_pkey"),
        sa.CheckConstraint(
            "status IN ('draft', 'open', 'matched', 'closed', 'expired')",
            name="request_status_known",
        ),
        sa.CheckConstraint("visibility IN ('all', 'invited')", name="request_visibility_known"),
        sa.CheckConstraint(
            "(status IN ('draft', 'open')) = (closed_at IS NULL)", name="request_closed_when"
        ),
        sa.CheckConstraint(
            "status NOT IN ('open', 'matched', 'expired') OR opened_at IS NOT NULL",
            name="request_opened_when",
        ),
        sa.CheckConstraint("revision >= 1", name="request_revision_positive"),
        schema=_SCHEMA,
    )
    op.create_index("request_buyer", "request", ["buyer_id", "id"], schema=_SCHEMA)
    for name, column, rows in (
        ("request_open", "id", "status = 'open'"),
        ("request_standing", "id", "status = 'open' AND standing"),
        ("request_due", "expires_at", "status = 'open'"),
    ):
        op.create_index(name, "request", [column], postgresql_where=sa.text(rows), schema=_SCHEMA)
    op.create_table(
        "invitation",
        _id("request_id"),
        _id("party_id"),
        sa.PrimaryKeyConstraint("request_id", "party_id", name="invitation_pkey"),
        _of_request("invitation_request"),
        schema=_SCHEMA,
    )
    op.create_index("invitation_party", "invitation", ["party_id", "request_id"], schema=_SCHEMA)


def _quotes() -> None:
    op.create_table(
        "quote",
        _id("id"),
        _id("request_id"),
        sa.Column("request_revision", sa.Integer, nullable=False),
        _id("buyer_id"),
        _id("seller_id"),
        _id("listing_id"),
        _id("plan_id"),
        _text("currency"),
        _text("status"),
        _text("turn"),
        sa.Column("round", sa.SmallInteger, nullable=False),
        _big("price_minor"),
        _big("lots"),
        _time("valid_until"),
        _id("agreement_id", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("closed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="quote_pkey"),
        _of_request("quote_request_fk"),
        *_quote_checks(),
        schema=_SCHEMA,
    )
    for name, columns, unique, rows in (
        ("quote_open_plan", ["request_id", "plan_id"], True, "status = 'open'"),
        ("quote_one_winner", ["request_id"], True, "status = 'accepted'"),
        ("quote_due", ["valid_until"], False, "status = 'open'"),
    ):
        op.create_index(
            name,
            "quote",
            columns,
            unique=unique,
            postgresql_where=sa.text(rows),
            schema=_SCHEMA,
        )
    op.create_index("quote_request", "quote", ["request_id", "id"], schema=_SCHEMA)
    op.create_index("quote_seller", "quote", ["seller_id", "id"], schema=_SCHEMA)


def _quote_checks() -> list[sa.CheckConstraint]:
    checks = {
        "quote_status_known": (
            "status IN ('open', 'accepted', 'declined', 'withdrawn', 'expired', 'lapsed')"
        ),
        "quote_turn_known": "turn IN ('buyer', 'seller')",
        "quote_round_range": "round BETWEEN 1 AND 10",
        "quote_price_range": _PRICE,
        "quote_lots_range": _LOTS,
        "quote_total_range": "price_minor::numeric * lots <= 1000000000000000",
        "quote_closed_when": "(status = 'open') = (closed_at IS NULL)",
        "quote_accepted_agreement": "(status = 'accepted') = (agreement_id IS NOT NULL)",
        "quote_two_parties": "buyer_id <> seller_id",
    }
    return [sa.CheckConstraint(rule, name=name) for name, rule in checks.items()]


def _proposals() -> None:
    op.create_table(
        "proposal",
        _id("quote_id"),
        sa.Column("round", sa.SmallInteger, nullable=False),
        _text("side"),
        _big("price_minor"),
        _big("lots"),
        _time("valid_until"),
        _text("note", nullable=True),
        _time("at"),
        sa.PrimaryKeyConstraint("quote_id", "round", name="proposal_pkey"),
        sa.ForeignKeyConstraint(["quote_id"], ["demand.quote.id"], name="proposal_quote"),
        sa.CheckConstraint("side IN ('buyer', 'seller')", name="proposal_side_known"),
        sa.CheckConstraint("round BETWEEN 1 AND 10", name="proposal_round_range"),
        sa.CheckConstraint(_PRICE, name="proposal_price_range"),
        sa.CheckConstraint(_LOTS, name="proposal_lots_range"),
        schema=_SCHEMA,
    )


def _awards() -> None:
    op.create_table(
        "award",
        _id("id"),
        _id("request_id"),
        _id("quote_id"),
        _id("plan_id"),
        _id("listing_id"),
        _id("buyer_id"),
        _id("seller_id"),
        _big("lots"),
        _big("price_minor"),
        _big("amount_minor"),
        _text("currency"),
        _id("agreement_id"),
        _text("accepted_by"),
        _time("at"),
        sa.PrimaryKeyConstraint("id", name="award_pkey"),
        _of_request("award_request_fk"),
        sa.ForeignKeyConstraint(["quote_id"], ["demand.quote.id"], name="award_quote_fk"),
        sa.UniqueConstraint("request_id", name="award_request"),
        sa.UniqueConstraint("quote_id", name="award_quote"),
        sa.UniqueConstraint("agreement_id", name="award_agreement"),
        sa.CheckConstraint(_PRICE, name="award_price_range"),
        sa.CheckConstraint(_LOTS, name="award_lots_range"),
        sa.CheckConstraint("amount_minor = price_minor * lots", name="award_amount_exact"),
        sa.CheckConstraint("buyer_id <> seller_id", name="award_two_parties"),
        sa.CheckConstraint("accepted_by IN ('buyer', 'seller')", name="award_accepted_by_known"),
        schema=_SCHEMA,
    )


def _steps() -> None:
    op.create_table(
        "step",
        _id("id"),
        _text("subject"),
        _id("subject_id"),
        _text("action"),
        _text("status"),
        _id("actor_id", nullable=True),
        _id("credential_id", nullable=True),
        _time("at"),
        sa.PrimaryKeyConstraint("id", name="step_pkey"),
        sa.CheckConstraint("subject IN ('request', 'quote')", name="step_subject_known"),
        schema=_SCHEMA,
    )
    op.create_index("step_subject", "step", ["subject_id", "id"], schema=_SCHEMA)


def _alerts() -> None:
    op.create_table(
        "alert",
        _id("id"),
        _id("request_id"),
        _id("buyer_id"),
        _id("listing_id"),
        _id("version_id"),
        _text("reason"),
        _big("cost_minor"),
        _text("currency", nullable=True),
        _time("created_at"),
        _time("read_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="alert_pkey"),
        _of_request("alert_request"),
        sa.UniqueConstraint(
            "request_id", "listing_id", "version_id", "cost_minor", name="alert_told_once"
        ),
        sa.CheckConstraint("reason IN ('published', 'price_fell')", name="alert_reason_known"),
        sa.CheckConstraint("cost_minor >= 0", name="alert_cost_positive"),
        sa.CheckConstraint("(cost_minor = 0) = (currency IS NULL)", name="alert_cost_currency"),
        schema=_SCHEMA,
    )
    op.create_index("alert_buyer", "alert", ["buyer_id", "id"], schema=_SCHEMA)


def _reading() -> None:
    op.create_table(
        "reading",
        sa.Column("id", sa.SmallInteger, nullable=False, autoincrement=False),
        _big("txid"),
        _big("seq"),
        _id("request_id", nullable=True),
        sa.PrimaryKeyConstraint("id", name="reading_pkey"),
        sa.CheckConstraint("id = 1", name="reading_single"),
        schema=_SCHEMA,
    )
    op.execute("INSERT INTO demand.reading (id, txid, seq) VALUES (1, 0, 0)")


def _freeze_closed() -> None:
    op.execute(
        "CREATE FUNCTION demand.freeze_closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'DELETE' OR OLD.closed_at IS NOT NULL THEN "
        "RAISE EXCEPTION 'a closed % does not change', TG_TABLE_NAME "
        "USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $$"
    )
    for table in ("request", "quote"):
        op.execute(
            f"CREATE TRIGGER {table}_frozen BEFORE UPDATE OR DELETE ON demand.{table} "
            "FOR EACH ROW EXECUTE FUNCTION demand.freeze_closed()"
        )
        op.execute(f"ALTER TABLE demand.{table} ENABLE ALWAYS TRIGGER {table}_frozen")
