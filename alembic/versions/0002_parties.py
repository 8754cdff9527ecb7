"""Parties: organizations, credentials, identity decisions, accepted rules."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_schema(op, "parties")
    _party()
    _credential()
    _decision()
    _rules_acceptance()
    # Ids, roles and birth dates are never updated: a role cannot be gained by any statement of
    # the application, nor can a credential move to another party or get another secret.
    grant(op, "parties.party", "select, insert")
    grant(
        op,
        "parties.party",
        "update (name, kind, jurisdiction, tax_number, status, affiliate_group, contact_name, "
        "contact_email, contact_phone, version, updated_at, verified_at, suspended_at)",
    )
    grant(op, "parties.credential", "select, insert, update (revoked_at, revoked_by)")
    append_only(op, "parties.decision")
    append_only(op, "parties.rules_acceptance")


def downgrade() -> None:
    for table in ("rules_acceptance", "decision", "credential", "party"):
        op.drop_table(table, schema="parties")
    drop_schema(op, "parties")


def _time(name: str, *, nullable: bool = False) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _party() -> None:
    op.create_table(
        "party",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("jurisdiction", sa.Text(), nullable=False),
        sa.Column("tax_number", sa.Text()),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("affiliate_group", sa.Uuid()),
        sa.Column("contact_name", sa.Text()),
        sa.Column("contact_email", sa.Text()),
        sa.Column("contact_phone", sa.Text()),
        sa.Column("version", sa.Integer(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        _time("verified_at", nullable=True),
        _time("suspended_at", nullable=True),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name="party_name_length"),
        sa.CheckConstraint("jurisdiction ~ '^[A-Z]{2}$'", name="party_jurisdiction_form"),
        sa.CheckConstraint(
            "kind IN ('company', 'public_body', 'association', 'research_institute', "
            "'sole_trader')",
            name="party_kind_known",
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'verified', 'suspended')", name="party_status_known"
        ),
        sa.CheckConstraint(
            "cardinality(roles) >= 1 AND (roles <@ ARRAY['seller', 'buyer']::text[] "
            "OR roles <@ ARRAY['operator', 'arbiter', 'regulator']::text[])",
            name="party_roles_separate",
        ),
        sa.CheckConstraint(
            "status <> 'verified' OR verified_at IS NOT NULL", name="party_verified_when"
        ),
        sa.CheckConstraint("version >= 1", name="party_version_positive"),
        schema="parties",
    )
    op.create_index("party_status_id", "party", ["status", "id"], schema="parties")
    op.create_index(
        "party_identity",
        "party",
        ["jurisdiction", "tax_number"],
        schema="parties",
        unique=True,
        postgresql_where=sa.text("verified_at IS NOT NULL AND tax_number IS NOT NULL"),
    )
    op.create_index("party_roles", "party", ["roles"], schema="parties", postgresql_using="gin")
    op.create_index(
        "party_affiliate_group",
        "party",
        ["affiliate_group"],
        schema="parties",
        postgresql_where=sa.text("affiliate_group IS NOT NULL"),
    )


def _credential() -> None:
    op.create_table(
        "credential",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "party_id",
            sa.Uuid(),
            sa.ForeignKey("parties.party.id", name="credential_party"),
            nullable=False,
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        _time("created_at"),
        _time("revoked_at", nullable=True),
        sa.Column("revoked_by", sa.Uuid()),
        sa.CheckConstraint("secret_hash LIKE '$argon2id$%'", name="credential_hash_argon2id"),
        sa.CheckConstraint("cardinality(roles) >= 1", name="credential_roles_some"),
        sa.CheckConstraint("length(label) BETWEEN 1 AND 200", name="credential_label_length"),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL)", name="credential_revoked_by_someone"
        ),
        schema="parties",
    )
    op.create_index("credential_party_id", "credential", ["party_id", "id"], schema="parties")


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "party_id",
            sa.Uuid(),
            sa.ForeignKey("parties.party.id", name="decision_party"),
            nullable=False,
        ),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("evidence", postgresql.JSONB(), nullable=False),
        _time("decided_at"),
        sa.CheckConstraint("kind IN ('verify', 'suspend')", name="decision_kind_known"),
        sa.CheckConstraint("jsonb_typeof(evidence) = 'array'", name="decision_evidence_array"),
        sa.CheckConstraint(
            "kind <> 'verify' OR jsonb_array_length(evidence) >= 1", name="decision_verify_proven"
        ),
        sa.CheckConstraint(
            "kind <> 'suspend' OR reason IS NOT NULL", name="decision_suspend_reasoned"
        ),
        schema="parties",
    )
    op.create_index("decision_party_id", "decision", ["party_id", "id"], schema="parties")


def _rules_acceptance() -> None:
    op.create_table(
        "rules_acceptance",
        sa.Column(
            "party_id",
            sa.Uuid(),
            sa.ForeignKey("parties.party.id", name="rules_acceptance_party"),
            primary_key=True,
        ),
        sa.Column("rules_version", sa.Text(), primary_key=True),
        _time("accepted_at"),
        schema="parties",
    )
