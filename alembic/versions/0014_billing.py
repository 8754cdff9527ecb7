"""Billing: fee schedules, intermediaries, tax declarations, release records, invoices."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_MAX = "1000000000000000"
_ADDS_UP = (
    "without_tax_minor >= 0 AND tax_minor >= 0 AND total_minor > 0 "
    "AND without_tax_minor + tax_minor = total_minor"
)
# The owner's rights: the application never writes a series, so it cannot skip or reuse a number.
# The corrected invoice is locked so that two credit notes cannot both take its rest.
_NUMBER = """
CREATE FUNCTION settlement.number_invoice() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$ BEGIN
    IF NEW.year <> extract(year FROM NEW.issued_at AT TIME ZONE 'UTC') THEN
        RAISE EXCEPTION 'an invoice belongs to the year of its issue'
        USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.corrects IS NOT NULL THEN
        PERFORM 1 FROM settlement.invoice i WHERE i.id = NEW.corrects AND i.kind = 'invoice'
            AND i.issuer_id = NEW.issuer_id AND i.recipient_id = NEW.recipient_id
            AND i.currency = NEW.currency AND i.supply = NEW.supply FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'a credit note corrects an invoice of the same parties'
            USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    INSERT INTO settlement.invoice_series AS s (issuer_id, year, last_number)
    VALUES (NEW.issuer_id, NEW.year, 1)
    ON CONFLICT (issuer_id, year) DO UPDATE SET last_number = s.last_number + 1
    RETURNING s.last_number INTO NEW.number;
    RETURN NEW;
END $$
"""
_CHECK = """
CREATE FUNCTION settlement.check_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE head settlement.invoice; BEGIN
    IF TG_TABLE_NAME = 'invoice' THEN head := NEW;
    ELSE SELECT * INTO head FROM settlement.invoice WHERE id = NEW.invoice_id; END IF;
    IF (head.without_tax_minor, head.tax_minor, head.total_minor) IS DISTINCT FROM
        (SELECT (sum(l.without_tax_minor)::bigint, sum(l.tax_minor)::bigint,
                 sum(l.total_minor)::bigint)
         FROM settlement.invoice_line l WHERE l.invoice_id = head.id) THEN
        RAISE EXCEPTION 'the lines do not add up to their invoice'
        USING ERRCODE = 'check_violation';
    END IF;
    IF head.corrects IS NOT NULL AND EXISTS (
        SELECT 1 FROM settlement.invoice_line n
        LEFT JOIN settlement.invoice_line o
            ON o.invoice_id = head.corrects AND o.position = n.position
        WHERE n.invoice_id = head.id AND (
            o.total_minor IS NULL OR o.tax_ppm <> n.tax_ppm OR o.agreement_id <> n.agreement_id
            OR (SELECT sum(c.total_minor) FROM settlement.invoice_line c
                JOIN settlement.invoice i ON i.id = c.invoice_id
                WHERE i.corrects = head.corrects AND c.position = n.position) > o.total_minor)
    ) THEN
        RAISE EXCEPTION 'credit notes exceed what they correct'
        USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    _fee_schedule()
    _pricing()
    _release_record()
    _adjustment()
    _billing_profile()
    _invoices()
    for table in (
        "settlement.fee_schedule",
        "settlement.invoice",
        "settlement.invoice_line",
        "pricing.intermediary",
        "pricing.tax_declaration",
        "contracts.release_record",
    ):
        append_only(op, table)
    grant(op, "settlement.invoice_series", "select")
    grant(
        op,
        "settlement.billing_profile",
        "select, insert, update (title, tax_number, address, phone, bank_name, bank_account, "
        "updated_at)",
    )
    grant(op, "contracts.adjustment", "select, insert, update (status, answered_at)")


def downgrade() -> None:
    for schema, table in (
        ("settlement", "invoice_line"),
        ("settlement", "invoice"),
        ("settlement", "invoice_series"),
        ("settlement", "billing_profile"),
        ("contracts", "adjustment"),
        ("contracts", "release_record"),
        ("pricing", "tax_declaration"),
        ("pricing", "intermediary"),
        ("settlement", "fee_schedule"),
    ):
        op.drop_table(table, schema=schema)
    op.execute("DROP FUNCTION settlement.check_invoice()")
    op.execute("DROP FUNCTION settlement.number_invoice()")


def _uuid(name: str, *args: object, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.Uuid(), *args, nullable=nullable)  # type: ignore[arg-type]


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _currency() -> "sa.Column[str]":
    return sa.Column("currency", sa.String(3), nullable=False)


def _fee_schedule() -> None:
    op.create_table(
        "fee_schedule",
        _uuid("id"),
        _text("category", nullable=True),
        _currency(),
        _int("fee_ppm"),
        _big("minimum_minor"),
        _big("cap_minor", nullable=True),
        _int("vat_ppm"),
        _time("effective_from"),
        _text("reason"),
        _uuid("set_by"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="fee_schedule_pkey"),
        sa.CheckConstraint("fee_ppm BETWEEN 0 AND 999999", name="fee_schedule_rate"),
        sa.CheckConstraint("vat_ppm BETWEEN 0 AND 999999", name="fee_schedule_vat"),
        sa.CheckConstraint(
            "minimum_minor >= 0 AND (cap_minor IS NULL OR cap_minor >= minimum_minor) "
            f"AND coalesce(cap_minor, minimum_minor) <= {_MAX}",
            name="fee_schedule_bounds",
        ),
        sa.CheckConstraint("effective_from >= created_at", name="fee_schedule_not_backdated"),
        schema="settlement",
    )
    op.create_index(
        "fee_schedule_in_force",
        "fee_schedule",
        ["currency", "category", "effective_from", "id"],
        schema="settlement",
    )


def _pricing() -> None:
    op.create_table(
        "intermediary",
        _uuid("listing_id"),
        _int("version"),
        _uuid("party_id", nullable=True),
        _int("ppm", nullable=True),
        _uuid("set_by"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("listing_id", "version", name="intermediary_pkey"),
        sa.CheckConstraint("version >= 1", name="intermediary_version_positive"),
        sa.CheckConstraint(
            "(party_id IS NULL) = (ppm IS NULL) AND (ppm IS NULL OR ppm BETWEEN 1 AND 999999)",
            name="intermediary_rate",
        ),
        sa.CheckConstraint("party_id <> set_by", name="intermediary_not_seller"),
        schema="pricing",
    )
    op.create_table(
        "tax_declaration",
        _uuid("id"),
        _uuid("seller_id"),
        _uuid("plan_id", nullable=True),
        _text("category", nullable=True),
        _int("rate_ppm"),
        _uuid("declared_by"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="tax_declaration_pkey"),
        sa.CheckConstraint("rate_ppm BETWEEN 0 AND 999999", name="tax_declaration_rate"),
        sa.CheckConstraint("plan_id IS NULL OR category IS NULL", name="tax_declaration_scope"),
        schema="pricing",
    )
    op.create_index(
        "tax_declaration_seller",
        "tax_declaration",
        ["seller_id", "plan_id", "category", "id"],
        schema="pricing",
    )


def _release_record() -> None:
    op.create_table(
        "release_record",
        _uuid("id"),
        _uuid(
            "agreement_id",
            sa.ForeignKey("contracts.agreement.id", name="release_record_agreement_fk"),
        ),
        _uuid("buyer_id"),
        _uuid("seller_id"),
        _currency(),
        _uuid("transfer_id"),
        _big("amount_minor"),
        _big("fee_minor"),
        _big("released_before_minor"),
        _big("fee_before_minor"),
        _time("released_at"),
        sa.PrimaryKeyConstraint("id", name="release_record_pkey"),
        sa.CheckConstraint(
            "amount_minor > 0 AND fee_minor BETWEEN 0 AND amount_minor "
            "AND released_before_minor >= 0 AND fee_before_minor >= 0",
            name="release_record_amounts",
        ),
        sa.UniqueConstraint("transfer_id", name="release_record_transfer"),
        schema="contracts",
    )
    op.create_index("release_record_month", "release_record", ["released_at"], schema="contracts")
    op.create_index(
        "release_record_agreement", "release_record", ["agreement_id", "id"], schema="contracts"
    )


def _adjustment() -> None:
    op.create_table(
        "adjustment",
        _uuid(
            "agreement_id", sa.ForeignKey("contracts.agreement.id", name="adjustment_agreement_fk")
        ),
        _int("number"),
        _uuid("proposed_by"),
        _big("release_minor"),
        _big("refund_minor"),
        _text("reason"),
        _text("status"),
        _time("created_at"),
        _time("answered_at", nullable=True),
        sa.PrimaryKeyConstraint("agreement_id", "number", name="adjustment_pkey"),
        sa.CheckConstraint("number >= 1", name="adjustment_number"),
        sa.CheckConstraint(
            "release_minor >= 0 AND refund_minor >= 0 AND release_minor + refund_minor > 0",
            name="adjustment_amounts",
        ),
        sa.CheckConstraint(
            "status IN ('open', 'accepted', 'declined', 'withdrawn')", name="adjustment_status"
        ),
        sa.CheckConstraint(
            "(status = 'open') = (answered_at IS NULL)", name="adjustment_answered_when"
        ),
        schema="contracts",
    )
    op.create_index(
        "adjustment_one_open",
        "adjustment",
        ["agreement_id"],
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
        schema="contracts",
    )


def _billing_profile() -> None:
    op.create_table(
        "billing_profile",
        _uuid("party_id"),
        _text("title"),
        _text("tax_number", nullable=True),
        _text("address", nullable=True),
        _text("phone", nullable=True),
        _text("bank_name", nullable=True),
        _text("bank_account", nullable=True),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("party_id", name="billing_profile_pkey"),
        schema="settlement",
    )


def _invoices() -> None:
    op.create_table(
        "invoice_series",
        _uuid("issuer_id"),
        _int("year"),
        _big("last_number"),
        sa.PrimaryKeyConstraint("issuer_id", "year", name="invoice_series_pkey"),
        sa.CheckConstraint("last_number >= 1", name="invoice_series_positive"),
        schema="settlement",
    )
    _invoice()
    _invoice_line()
    op.execute(_NUMBER)
    op.execute("REVOKE ALL ON FUNCTION settlement.number_invoice() FROM PUBLIC")
    op.execute(
        "CREATE TRIGGER invoice_number_given BEFORE INSERT ON settlement.invoice "
        "FOR EACH ROW EXECUTE FUNCTION settlement.number_invoice()"
    )
    op.execute("ALTER TABLE settlement.invoice ENABLE ALWAYS TRIGGER invoice_number_given")
    op.execute(_CHECK)
    for table in ("invoice", "invoice_line"):
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {table}_checked AFTER INSERT ON settlement.{table} "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
            "EXECUTE FUNCTION settlement.check_invoice()"
        )
        op.execute(f"ALTER TABLE settlement.{table} ENABLE ALWAYS TRIGGER {table}_checked")


def _invoice() -> None:
    op.create_table(
        "invoice",
        _uuid("id"),
        _text("kind"),
        _text("supply"),
        _uuid("issuer_id"),
        _uuid("recipient_id"),
        _int("year"),
        _big("number"),
        _currency(),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        _big("without_tax_minor"),
        _big("tax_minor"),
        _big("total_minor"),
        sa.Column("issuer", JSONB(), nullable=False),
        sa.Column("recipient", JSONB(), nullable=False),
        _uuid(
            "corrects",
            sa.ForeignKey("settlement.invoice.id", name="invoice_corrects_fk"),
            nullable=True,
        ),
        _text("reason", nullable=True),
        _uuid("transfer_id", nullable=True),
        _time("issued_at"),
        sa.PrimaryKeyConstraint("id", name="invoice_pkey"),
        sa.CheckConstraint("kind IN ('invoice', 'credit_note')", name="invoice_kind"),
        sa.CheckConstraint("supply IN ('data', 'fee')", name="invoice_supply"),
        sa.CheckConstraint(_ADDS_UP, name="invoice_adds_up"),
        sa.CheckConstraint("issuer_id <> recipient_id", name="invoice_two_parties"),
        sa.CheckConstraint("period_start < period_end", name="invoice_period"),
        sa.CheckConstraint(
            "(kind = 'credit_note') = (corrects IS NOT NULL) "
            "AND (kind = 'credit_note') = (reason IS NOT NULL) "
            "AND (kind = 'credit_note') = (transfer_id IS NOT NULL)",
            name="invoice_correction",
        ),
        sa.UniqueConstraint("issuer_id", "year", "number", name="invoice_number"),
        schema="settlement",
    )
    op.create_index("invoice_issuer", "invoice", ["issuer_id", "id"], schema="settlement")
    op.create_index("invoice_recipient", "invoice", ["recipient_id", "id"], schema="settlement")
    op.create_index("invoice_corrects", "invoice", ["corrects"], schema="settlement")


def _invoice_line() -> None:
    op.create_table(
        "invoice_line",
        _uuid("invoice_id", sa.ForeignKey("settlement.invoice.id", name="invoice_line_invoice_fk")),
        _int("position"),
        _uuid("agreement_id"),
        sa.Column("item", JSONB(), nullable=False),
        _int("tax_ppm"),
        _big("without_tax_minor"),
        _big("tax_minor"),
        _big("total_minor"),
        _text("source_key", nullable=True),
        sa.PrimaryKeyConstraint("invoice_id", "position", name="invoice_line_pkey"),
        sa.CheckConstraint("position >= 1", name="invoice_line_position"),
        sa.CheckConstraint("tax_ppm BETWEEN 0 AND 999999", name="invoice_line_rate"),
        sa.CheckConstraint(_ADDS_UP, name="invoice_line_adds_up"),
        sa.UniqueConstraint("source_key", name="invoice_line_source"),
        schema="settlement",
    )
