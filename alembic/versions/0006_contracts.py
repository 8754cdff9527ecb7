"""Agreements, grants, delivery tokens, the meter's truth, receipts."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "contracts"
STATES = (
    "'formed', 'active', 'delivered', 'accepted', 'settled', 'objected', 'disputed', 'ruled', "
    "'terminated'"
)


def upgrade() -> None:
    create_schema(op, SCHEMA)
    _agreement()
    _agreement_indexes()
    _agreement_step()
    _access_grant()
    _access_grant_indexes()
    _delivery_token()
    _lease()
    _delivery()
    _receipt()
    # The terms of a deal, its parties and its amounts are never updated by any statement of the
    # application: it may only record progress.
    grant(
        op,
        "contracts.agreement",
        "select, insert, update (status, delivered_at, accepted_at, closed_at, released_minor, "
        "refunded_minor, disputed_minor, ending, ending_reason)",
    )
    grant(
        op,
        "contracts.access_grant",
        "select, insert, update (reserved_units, settled_units, accrued_units, delivery_count, "
        "receipt_head, gen, status, ended_at, closed_out_at)",
    )
    grant(op, "contracts.delivery_token", "select, insert, update (revoked_at)")
    grant(
        op,
        "contracts.lease",
        "select, insert, update (units, settled_units, state, touched_at, drain_until)",
    )
    append_only(op, "contracts.agreement_step")
    append_only(op, "contracts.delivery")
    append_only(op, "contracts.receipt")


def downgrade() -> None:
    for table in (
        "receipt",
        "delivery",
        "lease",
        "delivery_token",
        "access_grant",
        "agreement_step",
        "agreement",
    ):
        op.drop_table(table, schema=SCHEMA)
    drop_schema(op, SCHEMA)


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.Uuid(), primary_key=True)


def _uuid(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Uuid(), nullable=nullable)


def _ref(name: str, target: str, constraint: str) -> sa.Column[object]:
    key = sa.ForeignKey(f"contracts.{target}.id", name=constraint)
    return sa.Column(name, sa.Uuid(), key, nullable=False)


def _big(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _word(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.String(16), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _agreement() -> None:
    op.create_table(
        "agreement",
        _id(),
        _uuid("trade_id"),
        _uuid("buy_order_id", nullable=True),
        _uuid("sell_order_id", nullable=True),
        _uuid("listing_id"),
        _uuid("product_id"),
        _uuid("version_id"),
        _uuid("plan_id"),
        _uuid("certificate_id", nullable=True),
        _uuid("buyer_id"),
        _uuid("seller_id"),
        _word("kind"),
        _word("status"),
        _big("lots"),
        _big("price_minor"),
        _big("total_minor"),
        _text("currency"),
        _word("unit"),
        _big("lot_units"),
        _big("granted_units", nullable=True),
        sa.Column("fee_ppm", sa.Integer(), nullable=False),
        sa.Column("terms", postgresql.JSONB(), nullable=False),
        _text("terms_sha256"),
        _text("jws"),
        _time("formed_at"),
        _time("acceptance_due_at"),
        _time("expires_at"),
        _time("delivered_at", nullable=True),
        _time("accepted_at", nullable=True),
        _time("closed_at", nullable=True),
        _big("released_minor"),
        _big("refunded_minor"),
        _big("disputed_minor"),
        _word("ending", nullable=True),
        _text("ending_reason", nullable=True),
        *_agreement_checks(),
        sa.UniqueConstraint("trade_id", name="agreement_trade"),
        schema=SCHEMA,
    )


def _agreement_checks() -> list[sa.CheckConstraint]:
    gone = "released_minor + refunded_minor + disputed_minor"
    checks = {
        "agreement_status_known": f"status IN ({STATES})",
        "agreement_kind_known": "kind IN ('metered', 'license')",
        "agreement_unit_known": "unit IN ('row', 'call', 'license')",
        "agreement_ending_known": "ending IN ('expired', 'terminated')",
        "agreement_kind_unit": "(kind = 'license') = (unit = 'license')",
        "agreement_positive": "lots > 0 AND price_minor > 0",
        "agreement_total": "total_minor = lots * price_minor",
        "agreement_units": "kind <> 'metered' OR granted_units = lots * lot_units",
        "agreement_fee": "fee_ppm >= 0 AND fee_ppm < 1000000",
        "agreement_two_parties": "buyer_id <> seller_id",
        "agreement_escrow_bounds": (
            "released_minor >= 0 AND refunded_minor >= 0 AND disputed_minor >= 0 "
            f"AND {gone} <= total_minor"
        ),
        "agreement_closed_escrow_zero": (
            f"status NOT IN ('settled', 'terminated') OR {gone} = total_minor"
        ),
        "agreement_closed_when": (
            "(status IN ('settled', 'terminated')) = (closed_at IS NOT NULL)"
        ),
    }
    return [sa.CheckConstraint(condition, name=name) for name, condition in checks.items()]


def _agreement_indexes() -> None:
    op.create_index("agreement_buyer", "agreement", ["buyer_id", "id"], schema=SCHEMA)
    op.create_index("agreement_seller", "agreement", ["seller_id", "id"], schema=SCHEMA)
    op.create_index(
        "agreement_window",
        "agreement",
        ["acceptance_due_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("kind = 'license' AND status IN ('active', 'delivered')"),
    )


def _agreement_step() -> None:
    op.create_table(
        "agreement_step",
        _id(),
        _ref("agreement_id", "agreement", "agreement_step_agreement_fk"),
        _word("status"),
        _text("reason"),
        _time("at"),
        sa.CheckConstraint(f"status IN ({STATES})", name="agreement_step_status_known"),
        schema=SCHEMA,
    )
    op.create_index(
        "agreement_step_agreement", "agreement_step", ["agreement_id", "id"], schema=SCHEMA
    )


def _access_grant() -> None:
    op.create_table(
        "access_grant",
        _id(),
        _ref("agreement_id", "agreement", "access_grant_agreement_fk"),
        _uuid("buyer_id"),
        _uuid("seller_id"),
        _uuid("product_id"),
        _uuid("product_version_id"),
        _word("unit"),
        _big("granted_units", nullable=True),
        _big("reserved_units"),
        _big("settled_units"),
        _big("accrued_units"),
        _big("delivery_count"),
        _text("receipt_head"),
        _big("gen"),
        _word("status"),
        _time("created_at"),
        _time("expires_at"),
        _time("ended_at", nullable=True),
        _time("closed_out_at", nullable=True),
        sa.CheckConstraint(
            "status IN ('active', 'suspended', 'revoked', 'exhausted', 'expired')",
            name="access_grant_status_known",
        ),
        sa.CheckConstraint("unit IN ('row', 'call', 'license')", name="access_grant_unit_known"),
        sa.CheckConstraint(
            "reserved_units >= 0 AND settled_units >= 0 AND accrued_units >= 0 "
            "AND accrued_units <= settled_units AND gen > 0",
            name="access_grant_counts",
        ),
        sa.CheckConstraint(
            "granted_units IS NULL OR reserved_units + settled_units <= granted_units",
            name="access_grant_never_over",
        ),
        sa.UniqueConstraint("agreement_id", name="access_grant_agreement"),
        schema=SCHEMA,
    )


def _access_grant_indexes() -> None:
    op.create_index("access_grant_buyer", "access_grant", ["buyer_id", "id"], schema=SCHEMA)
    op.create_index("access_grant_seller", "access_grant", ["seller_id", "id"], schema=SCHEMA)
    for name, column, where in (
        ("access_grant_unaccrued", "id", "settled_units > accrued_units"),
        ("access_grant_expiring", "expires_at", "status IN ('active', 'suspended', 'exhausted')"),
        (
            "access_grant_to_close",
            "id",
            "closed_out_at IS NULL AND status IN ('expired', 'revoked')",
        ),
    ):
        op.create_index(
            name, "access_grant", [column], schema=SCHEMA, postgresql_where=sa.text(where)
        )


def _delivery_token() -> None:
    op.create_table(
        "delivery_token",
        _id(),
        _ref("grant_id", "access_grant", "delivery_token_grant_fk"),
        _uuid("party_id"),
        _uuid("credential_id"),
        _text("label"),
        _text("purpose", nullable=True),
        _time("created_at"),
        _time("expires_at"),
        _time("revoked_at", nullable=True),
        sa.CheckConstraint("expires_at > created_at", name="delivery_token_lives"),
        schema=SCHEMA,
    )
    op.create_index("delivery_token_grant", "delivery_token", ["grant_id", "id"], schema=SCHEMA)


def _lease() -> None:
    op.create_table(
        "lease",
        _id(),
        _ref("grant_id", "access_grant", "lease_grant_fk"),
        _text("nonce"),
        _big("units"),
        _big("settled_units"),
        _word("state"),
        _time("opened_at"),
        _time("touched_at"),
        _time("drain_until", nullable=True),
        sa.CheckConstraint("state IN ('active', 'draining', 'closed')", name="lease_state_known"),
        sa.CheckConstraint(
            "settled_units >= 0 AND settled_units <= units", name="lease_never_over"
        ),
        sa.CheckConstraint(
            "(state = 'draining') = (drain_until IS NOT NULL)", name="lease_drain_until"
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "lease_one_active",
        "lease",
        ["grant_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'active'"),
    )
    for name, column in (("lease_open", "touched_at"), ("lease_grant", "grant_id")):
        op.create_index(
            name, "lease", [column], schema=SCHEMA, postgresql_where=sa.text("state <> 'closed'")
        )


def _delivery() -> None:
    op.create_table(
        "delivery",
        _id(),
        _ref("grant_id", "access_grant", "delivery_grant_fk"),
        _uuid("agreement_id"),
        _uuid("lease_id"),
        _uuid("token_id"),
        _uuid("receipt_id"),
        _text("delivery_key"),
        _text("query_sha256"),
        _text("format"),
        _big("units"),
        _big("row_count"),
        _big("byte_count"),
        _text("body_sha256"),
        sa.Column("complete", sa.Boolean(), nullable=False),
        _time("delivered_at"),
        sa.CheckConstraint(
            "units >= 0 AND row_count >= 0 AND byte_count >= 0", name="delivery_counts"
        ),
        sa.UniqueConstraint("grant_id", "delivery_key", name="delivery_once"),
        schema=SCHEMA,
    )
    op.create_index("delivery_grant", "delivery", ["grant_id", "id"], schema=SCHEMA)


def _receipt() -> None:
    op.create_table(
        "receipt",
        _id(),
        _uuid("agreement_id"),
        _ref("delivery_id", "delivery", "receipt_delivery_fk"),
        _big("seq"),
        _text("prev_sha256"),
        _text("sha256"),
        _text("jws"),
        _time("issued_at"),
        sa.CheckConstraint("seq > 0", name="receipt_seq_positive"),
        sa.CheckConstraint("(seq = 1) = (prev_sha256 = '')", name="receipt_chain_start"),
        sa.UniqueConstraint("agreement_id", "seq", name="receipt_chain"),
        sa.UniqueConstraint("delivery_id", name="receipt_delivery"),
        schema=SCHEMA,
    )
