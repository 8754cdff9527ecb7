"""Disputes: cases, evidence, offers, rulings, their reviews, acceptances, appeals, outcomes."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import append_only, grant

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "contracts"
_STATUSES = (
    "'open', 'evidence_required', 'under_review', 'ruled', 'appealed', 'final', 'settled', "
    "'withdrawn'"
)
_ACCESS = "'keep', 'revoke'"
_APPEND_ONLY = (
    "dispute_step",
    "evidence",
    "dispute_offer",
    "ruling",
    "ruling_review",
    "ruling_acceptance",
    "appeal",
    "dispute_outcome",
)
# The same table as contracts.dispute_states.TRANSITIONS; a test holds the two together.
_GUARD = """
CREATE FUNCTION contracts.guard_dispute() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'dispute % is closed', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.status <> OLD.status AND NOT (OLD.status || '>' || NEW.status = ANY (ARRAY[
        'open>evidence_required', 'open>settled', 'open>withdrawn',
        'evidence_required>under_review', 'evidence_required>ruled',
        'evidence_required>settled', 'evidence_required>withdrawn',
        'under_review>ruled', 'under_review>settled', 'under_review>withdrawn',
        'ruled>appealed', 'ruled>final', 'ruled>settled',
        'appealed>final', 'appealed>settled']))
    THEN
        RAISE EXCEPTION 'a dispute that is % cannot become %', OLD.status, NEW.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    _dispute()
    _dispute_indexes()
    _dispute_step()
    _evidence()
    _offer()
    _ruling()
    _ruling_review()
    _acceptance()
    _appeal()
    _outcome()
    # What was claimed, by whom and over how much is never updated by the application.
    grant(
        op,
        "contracts.dispute",
        "select, insert, update (status, round, deadline_at, turn, evidence_until, "
        "evidence_requests, respondent_answered, escalations, arbiter_id, assigned_at, "
        "barred_arbiter_id, proposal_id, ruling_id, updated_at, closed_at)",
    )
    for table in _APPEND_ONLY:
        append_only(op, f"contracts.{table}")
    op.execute(_GUARD)
    op.execute(
        "CREATE TRIGGER dispute_guard BEFORE UPDATE ON contracts.dispute "
        "FOR EACH ROW EXECUTE FUNCTION contracts.guard_dispute()"
    )
    op.execute("ALTER TABLE contracts.dispute ENABLE ALWAYS TRIGGER dispute_guard")


def downgrade() -> None:
    for table in (*reversed(_APPEND_ONLY), "dispute"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("DROP FUNCTION contracts.guard_dispute()")


def _uuid(name: str, *, nullable: bool = False, primary_key: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Uuid(), nullable=nullable, primary_key=primary_key)


def _ref(
    name: str, target: str, constraint: str, *, primary_key: bool = False
) -> sa.Column[object]:
    key = sa.ForeignKey(f"contracts.{target}.id", name=constraint)
    return sa.Column(name, sa.Uuid(), key, nullable=False, primary_key=primary_key)


def _word(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.String(24), nullable=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _small(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.SmallInteger(), nullable=False)


def _flag(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _checks(rules: dict[str, str]) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(rule, name=name) for name, rule in rules.items()]


def _dispute() -> None:
    op.create_table(
        "dispute",
        _uuid("id", primary_key=True),
        _ref("agreement_id", "agreement", "dispute_agreement_fk"),
        _uuid("buyer_id"),
        _uuid("seller_id"),
        _uuid("claimant_id"),
        _uuid("respondent_id"),
        sa.Column("interested", postgresql.ARRAY(sa.Uuid()), nullable=False),
        _text("currency"),
        sa.Column("frozen_minor", sa.BigInteger(), nullable=False),
        _flag("two_person"),
        _word("reason"),
        _text("claim_statement"),
        _int("claim_buyer_ppm"),
        _word("claim_access"),
        _flag("escalate_on_expiry"),
        _time("opened_at"),
        _word("status"),
        _small("round"),
        _time("deadline_at", nullable=True),
        _word("turn"),
        _time("evidence_until", nullable=True),
        _int("evidence_requests"),
        _flag("respondent_answered"),
        _int("escalations"),
        _uuid("arbiter_id", nullable=True),
        _time("assigned_at", nullable=True),
        _uuid("barred_arbiter_id", nullable=True),
        _uuid("proposal_id", nullable=True),
        _uuid("ruling_id", nullable=True),
        _time("updated_at"),
        _time("closed_at", nullable=True),
        *_dispute_checks(),
        schema=SCHEMA,
    )


def _dispute_checks() -> list[sa.CheckConstraint]:
    return _checks(
        {
            "dispute_status_known": f"status IN ({_STATUSES})",
            "dispute_turn_known": "turn IN ('none', 'claimant', 'respondent', 'both')",
            "dispute_reason_known": (
                "reason IN ('not_delivered', 'incomplete', 'quality', 'schema_mismatch', "
                "'not_as_described', 'rights', 'policy_breach', 'billing', 'other')"
            ),
            "dispute_claim_access_known": f"claim_access IN ({_ACCESS})",
            "dispute_claim_ppm": "claim_buyer_ppm BETWEEN 0 AND 1000000",
            "dispute_frozen_not_negative": "frozen_minor >= 0",
            "dispute_round_known": "round IN (1, 2)",
            "dispute_sides_are_parties": (
                "(claimant_id = buyer_id AND respondent_id = seller_id) "
                "OR (claimant_id = seller_id AND respondent_id = buyer_id)"
            ),
            "dispute_two_parties": "buyer_id <> seller_id",
            "dispute_closed_when": (
                "(status IN ('final', 'settled', 'withdrawn')) = (closed_at IS NOT NULL)"
            ),
            "dispute_deadline_always": "(deadline_at IS NULL) = (closed_at IS NOT NULL)",
            "dispute_ruled_by_ruling": (
                "status NOT IN ('ruled', 'appealed', 'final') OR ruling_id IS NOT NULL"
            ),
            "dispute_proposal_in_review": (
                "proposal_id IS NULL OR status IN ('under_review', 'appealed')"
            ),
            "dispute_appeal_second_round": "status <> 'appealed' OR round = 2",
        }
    )


def _dispute_indexes() -> None:
    active = sa.text("closed_at IS NULL")
    op.create_index(
        "dispute_one_active",
        "dispute",
        ["agreement_id"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=active,
    )
    op.create_index(
        "dispute_due", "dispute", ["deadline_at", "id"], schema=SCHEMA, postgresql_where=active
    )
    for column in ("agreement", "claimant", "respondent"):
        op.create_index(f"dispute_{column}", "dispute", [f"{column}_id", "id"], schema=SCHEMA)


def _dispute_step() -> None:
    op.create_table(
        "dispute_step",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        _ref("dispute_id", "dispute", "dispute_step_dispute_fk"),
        _text("kind"),
        _uuid("actor_id", nullable=True),
        _word("status"),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        _time("at"),
        *_checks({"dispute_step_status_known": f"status IN ({_STATUSES})"}),
        schema=SCHEMA,
    )
    op.create_index("dispute_step_dispute", "dispute_step", ["dispute_id", "seq"], schema=SCHEMA)


def _evidence() -> None:
    op.create_table(
        "evidence",
        _uuid("id", primary_key=True),
        _ref("dispute_id", "dispute", "evidence_dispute_fk"),
        _int("number"),
        _word("side"),
        _uuid("submitted_by", nullable=True),
        _small("round"),
        _word("kind"),
        _text("title"),
        _text("media_type"),
        _int("byte_count"),
        _text("sha256"),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        _text("blob_key", nullable=True),
        _time("submitted_at"),
        *_checks(
            {
                "evidence_kind_known": (
                    "kind IN ('statement', 'sample', 'schema_diff', 'quality_report', "
                    "'correspondence', 'license_terms', 'other', 'agreement_terms', "
                    "'delivery_receipts', 'usage_total')"
                ),
                "evidence_side_known": "side IN ('claimant', 'respondent', 'system')",
                "evidence_submitted_by_someone": "(side = 'system') = (submitted_by IS NULL)",
                "evidence_title_length": "length(title) BETWEEN 1 AND 200",
                "evidence_counts": "number > 0 AND byte_count > 0",
                "evidence_sha256_form": "sha256 ~ '^[0-9a-f]{64}$'",
                "evidence_one_place": "(content IS NULL) <> (blob_key IS NULL)",
                "evidence_hash_true": (
                    "content IS NULL OR (octet_length(content) = byte_count "
                    "AND byte_count <= 65536 AND encode(sha256(content), 'hex') = sha256)"
                ),
            }
        ),
        sa.UniqueConstraint("dispute_id", "number", name="evidence_number"),
        schema=SCHEMA,
    )


def _offer() -> None:
    op.create_table(
        "dispute_offer",
        _ref("dispute_id", "dispute", "dispute_offer_dispute_fk", primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        _uuid("offered_by"),
        _int("buyer_ppm"),
        _word("access"),
        _text("message", nullable=True),
        _uuid("ruling_id", nullable=True),
        _time("offered_at"),
        _time("expires_at"),
        *_checks(
            {
                "dispute_offer_ppm": "buyer_ppm BETWEEN 0 AND 1000000",
                "dispute_offer_access_known": f"access IN ({_ACCESS})",
                "dispute_offer_number_positive": "number > 0",
                "dispute_offer_lives": "expires_at > offered_at",
            }
        ),
        schema=SCHEMA,
    )


def _ruling() -> None:
    op.create_table(
        "ruling",
        _uuid("id", primary_key=True),
        _ref("dispute_id", "dispute", "ruling_dispute_fk"),
        _small("round"),
        _word("source"),
        _uuid("arbiter_id", nullable=True),
        _int("buyer_ppm"),
        _word("access"),
        _text("reasons"),
        sa.Column("clauses", postgresql.JSONB(), nullable=False),
        _text("evidence_sha256"),
        _flag("needs_approval"),
        _time("ruled_at"),
        *_checks(
            {
                "ruling_source_known": "source IN ('arbiter', 'default')",
                "ruling_access_known": f"access IN ({_ACCESS})",
                "ruling_ppm": "buyer_ppm BETWEEN 0 AND 1000000",
                "ruling_round_known": "round IN (1, 2)",
                "ruling_by_whom": "(source = 'arbiter') = (arbiter_id IS NOT NULL)",
                "ruling_default_below_limit": "source = 'arbiter' OR NOT needs_approval",
                "ruling_clauses_array": "jsonb_typeof(clauses) = 'array'",
            }
        ),
        sa.UniqueConstraint("id", "arbiter_id", name="ruling_author"),
        schema=SCHEMA,
    )
    op.create_index("ruling_dispute", "ruling", ["dispute_id", "id"], schema=SCHEMA)
    op.create_index(
        "ruling_once",
        "ruling",
        ["dispute_id", "round"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("NOT needs_approval"),
    )


def _ruling_review() -> None:
    op.create_table(
        "ruling_review",
        _uuid("ruling_id", primary_key=True),
        _uuid("proposed_by"),
        _ref("dispute_id", "dispute", "ruling_review_dispute_fk"),
        _small("round"),
        _uuid("reviewed_by"),
        _word("decision"),
        _text("comment"),
        _time("reviewed_at"),
        *_checks(
            {
                "ruling_review_decision_known": "decision IN ('approve', 'reject')",
                "ruling_review_two_persons": "reviewed_by <> proposed_by",
            }
        ),
        sa.ForeignKeyConstraint(
            ["ruling_id", "proposed_by"],
            ["contracts.ruling.id", "contracts.ruling.arbiter_id"],
            name="ruling_review_ruling_fk",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "ruling_review_one_approval",
        "ruling_review",
        ["dispute_id", "round"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("decision = 'approve'"),
    )


def _acceptance() -> None:
    op.create_table(
        "ruling_acceptance",
        _ref("ruling_id", "ruling", "ruling_acceptance_ruling_fk", primary_key=True),
        _uuid("party_id", primary_key=True),
        _time("accepted_at"),
        schema=SCHEMA,
    )


def _appeal() -> None:
    op.create_table(
        "appeal",
        _ref("dispute_id", "dispute", "appeal_dispute_fk", primary_key=True),
        _ref("ruling_id", "ruling", "appeal_ruling_fk"),
        _uuid("appellant_id"),
        _ref("evidence_id", "evidence", "appeal_evidence_fk"),
        _text("reasons"),
        _time("appealed_at"),
        schema=SCHEMA,
    )


def _outcome() -> None:
    op.create_table(
        "dispute_outcome",
        _ref("dispute_id", "dispute", "dispute_outcome_dispute_fk", primary_key=True),
        _word("kind"),
        _uuid("ruling_id", nullable=True),
        _int("offer_number", nullable=True),
        sa.Column("amounts", postgresql.JSONB(), nullable=False),
        _text("jws", nullable=True),
        _time("closed_at"),
        *_checks(
            {
                "dispute_outcome_kind_known": (
                    "kind IN ('ruling', 'settlement', 'withdrawn', 'lapsed')"
                ),
                "dispute_outcome_by_ruling": "(kind = 'ruling') = (ruling_id IS NOT NULL)",
                "dispute_outcome_by_offer": "(kind = 'settlement') = (offer_number IS NOT NULL)",
                "dispute_outcome_signed": (
                    "(kind IN ('ruling', 'settlement')) = (jws IS NOT NULL)"
                ),
            }
        ),
        schema=SCHEMA,
    )
