"""Settlement: ledger tables, the triggers that keep their invariants, hash chain, rails."""

from typing import Any

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import app_role, append_only, create_schema, drop_schema, grant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_AMOUNT = "amount_minor BETWEEN 1 AND 1000000000000000"

# One posting statement must leave every transfer zero-sum per currency, every account's seq
# gapless, every balance running, and the account row equal to its last posting. All legs of a
# transfer come in one statement. enable_seqscan is off because the plan is cached while the
# tables are still small; scalar subqueries because an EXISTS may be turned into a full hash.
_CHECK_POSTINGS = """
CREATE FUNCTION settlement.check_postings() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE bad record;
BEGIN
    SELECT transfer_id, currency INTO bad FROM inserted
    GROUP BY transfer_id, currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % is not zero-sum in %', bad.transfer_id, bad.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_zero_sum',
                  SCHEMA = 'settlement', TABLE = 'posting';
    END IF;
    SELECT p.account_id, p.seq INTO bad FROM (
        SELECT account_id, seq, amount, balance, currency,
               lag(seq) OVER w AS prev_seq, lag(balance) OVER w AS prev_balance,
               lag(currency) OVER w AS prev_currency, lead(seq) OVER w AS next_seq
        FROM inserted WINDOW w AS (PARTITION BY account_id ORDER BY seq)
    ) p
    WHERE CASE
        WHEN p.prev_seq IS NOT NULL THEN
            p.seq <> p.prev_seq + 1 OR p.balance <> p.prev_balance + p.amount
            OR p.currency <> p.prev_currency
        WHEN p.seq = 1 THEN p.balance <> p.amount
        ELSE (SELECT q.balance + p.amount FROM settlement.posting q
              WHERE q.account_id = p.account_id AND q.seq = p.seq - 1
             ) IS DISTINCT FROM p.balance
    END OR (p.next_seq IS NULL AND (
        SELECT a.seq = p.seq AND a.posted = p.balance AND a.currency = p.currency
        FROM settlement.account a WHERE a.id = p.account_id) IS NOT TRUE)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'posting (%, %) does not continue its account', bad.account_id, bad.seq
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_continuity',
                  SCHEMA = 'settlement', TABLE = 'posting';
    END IF;
    SELECT i.transfer_id INTO bad FROM (SELECT DISTINCT transfer_id FROM inserted) i
    WHERE (SELECT t.id FROM settlement.transfer t WHERE t.id = i.transfer_id) IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'posting of an unknown transfer %', bad.transfer_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_transfer_known',
                  SCHEMA = 'settlement', TABLE = 'posting';
    END IF;
    RETURN NULL;
END $$
"""

# The other direction: a balance may not move without its posting.
_CHECK_BALANCES = """
CREATE FUNCTION settlement.check_balances() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE bad record;
BEGIN
    SELECT n.id INTO bad FROM after_update n
    WHERE (n.seq > 0 OR n.posted <> 0) AND (
        SELECT p.balance FROM settlement.posting p WHERE p.account_id = n.id AND p.seq = n.seq
    ) IS DISTINCT FROM n.posted
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'balance of account % moved without its posting', bad.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'account_follows_postings',
                  SCHEMA = 'settlement', TABLE = 'account';
    END IF;
    RETURN NULL;
END $$
"""

# A new account starts at zero, whoever makes it.
_CHECK_NEW_ACCOUNT = """
CREATE FUNCTION settlement.check_new_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.posted <> 0 OR NEW.held <> 0 OR NEW.seq <> 0 THEN
        RAISE EXCEPTION 'account % does not start at zero', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'account_starts_at_zero',
                  SCHEMA = 'settlement', TABLE = 'account';
    END IF;
    RETURN NEW;
END $$
"""

# Deferred to COMMIT: the head's lock comes after all others and is held for one write only, so
# it can neither deadlock nor be waited for through somebody's unit of work. SECURITY DEFINER:
# the application itself may not write the chain. The hash equals settlement.chain.link_hash.
_EXTEND_CHAIN = """
CREATE FUNCTION settlement.extend_chain() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE head record; next_hash bytea;
BEGIN
    SELECT number, hash INTO STRICT head FROM settlement.chain_head WHERE id = 1 FOR UPDATE;
    next_hash := sha256(head.hash || int8send(head.number + 1) || NEW.root);
    UPDATE settlement.chain_head SET number = head.number + 1, hash = next_hash WHERE id = 1;
    INSERT INTO settlement.chain_link (number, batch_id, prev_hash, hash)
    VALUES (head.number + 1, NEW.id, head.hash, next_hash);
    RETURN NULL;
END $$
"""

# Table, name, when, how.
_TRIGGERS = (
    ("account", "account_starts_at_zero", "BEFORE INSERT", "EACH ROW", "check_new_account"),
    ("account", "account_follows_postings", "AFTER UPDATE", "EACH STATEMENT", "check_balances"),
    ("posting", "posting_checked", "AFTER INSERT", "EACH STATEMENT", "check_postings"),
)
_TRANSITION = {"account_follows_postings": "after_update", "posting_checked": "inserted"}
_TABLES = """
account batch command transfer posting hold hold_resolution chain_head chain_link checkpoint
top_up payout job_cursor sandbox_charge sandbox_payout
"""
_APPEND_ONLY = ("batch", "command", "transfer", "posting", "hold", "hold_resolution", "checkpoint")


def upgrade() -> None:
    create_schema(op, "settlement")
    _accounts()
    _commands()
    _transfers()
    _holds()
    _chain()
    _top_ups()
    _payouts()
    _sandbox()
    for function in (_CHECK_POSTINGS, _CHECK_BALANCES, _CHECK_NEW_ACCOUNT, _EXTEND_CHAIN):
        op.execute(function)
    _triggers()
    _privileges()


def downgrade() -> None:
    for table in reversed(_TABLES.split()):
        op.drop_table(table, schema="settlement")
    for function in ("check_postings", "check_balances", "check_new_account", "extend_chain"):
        op.execute(f"DROP FUNCTION settlement.{function}()")
    drop_schema(op, "settlement")


def _triggers() -> None:
    for table, name, when, each, function in _TRIGGERS:
        rows = f"REFERENCING NEW TABLE AS {_TRANSITION[name]} " if name in _TRANSITION else ""
        op.execute(
            f"CREATE TRIGGER {name} {when} ON settlement.{table} {rows}FOR {each} "
            f"EXECUTE FUNCTION settlement.{function}()"
        )
    op.execute(
        "CREATE TRIGGER account_kept BEFORE DELETE OR TRUNCATE ON settlement.account "
        "FOR EACH STATEMENT EXECUTE FUNCTION kernel.deny_change()"
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER batch_chained AFTER INSERT ON settlement.batch "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION settlement.extend_chain()"
    )
    named = [(table, name) for table, name, *_ in _TRIGGERS]
    for table, name in [*named, ("account", "account_kept"), ("batch", "batch_chained")]:
        # ALWAYS: session_replication_role = replica skips ordinary triggers.
        op.execute(f"ALTER TABLE settlement.{table} ENABLE ALWAYS TRIGGER {name}")


def _privileges() -> None:
    # FOR NO KEY UPDATE needs UPDATE on a column, and balances are what may change.
    grant(op, "settlement.account", "select, insert, update (posted, held, seq)")
    for table in _APPEND_ONLY:
        append_only(op, f"settlement.{table}")
    append_only(op, "settlement.chain_link")
    op.execute(f"REVOKE INSERT ON settlement.chain_link FROM {app_role()}")
    grant(op, "settlement.chain_head", "select")
    progress = "status, failure_code, next_attempt_at, updated_at"
    grant(op, "settlement.top_up", f"select, insert, update ({progress})")
    grant(op, "settlement.payout", f"select, insert, update ({progress}, attempts)")
    grant(op, "settlement.job_cursor", "select, insert, update (position)")
    grant(op, "settlement.sandbox_charge", "select, insert")
    grant(op, "settlement.sandbox_payout", "select, insert")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _uuid(name: str, *, nullable: bool = False, primary_key: bool = False) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid(), nullable=nullable, primary_key=primary_key)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[sa.Text]":
    return sa.Column(name, sa.Text(), nullable=nullable)


def _bigint(name: str, *, zero: bool = False) -> "sa.Column[sa.BigInteger]":
    default = sa.text("0") if zero else None
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=default)


def _accounts() -> None:
    op.create_table(
        "account",
        _uuid("id", primary_key=True),
        _text("kind"),
        _uuid("owner", nullable=True),
        sa.Column("currency", sa.String(3), nullable=False),
        _bigint("posted", zero=True),
        _bigint("held", zero=True),
        _bigint("seq", zero=True),
        _time("created_at"),
        sa.CheckConstraint("held >= 0", name="account_held"),
        sa.CheckConstraint("seq >= 0", name="account_seq"),
        sa.CheckConstraint(
            "kind IN ('clearing', 'receivable', 'losses') OR posted - held >= 0",
            name="account_protected",
        ),
        sa.CheckConstraint(
            "kind IN ('available', 'receivable', 'escrow', 'frozen', 'fees', 'losses', "
            "'clearing', 'in_transit')",
            name="account_kind",
        ),
        sa.CheckConstraint(
            "(owner IS NOT NULL) = (kind IN ('available', 'receivable', 'escrow', 'frozen'))",
            name="account_owner",
        ),
        sa.UniqueConstraint(
            "owner", "kind", "currency", name="account_name", postgresql_nulls_not_distinct=True
        ),
        schema="settlement",
    )
    # Room on the page: every balance update of a hot account stays a HOT update.
    op.execute("ALTER TABLE settlement.account SET (fillfactor = 50)")


def _commands() -> None:
    op.create_table(
        "batch",
        _uuid("id", primary_key=True),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("command_count", sa.Integer(), nullable=False),
        _time("booked_at"),
        sa.CheckConstraint("octet_length(root) = 32", name="batch_root"),
        sa.CheckConstraint("command_count > 0", name="batch_command_count"),
        schema="settlement",
    )
    op.create_table(
        "command",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        _uuid("batch_id"),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        _text("type"),
        _uuid("transfer_id", nullable=True),
        _uuid("hold_id", nullable=True),
        _uuid("resolved_hold_id", nullable=True),
        _text("code", nullable=True),
        _text("detail", nullable=True),
        sa.CheckConstraint("octet_length(body_hash) = 32", name="command_body_hash"),
        sa.CheckConstraint("octet_length(leaf_hash) = 32", name="command_leaf_hash"),
        sa.CheckConstraint(
            "type IN ('transfer', 'hold', 'capture', 'void', 'expire')", name="command_type"
        ),
        sa.CheckConstraint(
            "(code IS NULL) = (detail IS NULL) AND (code IS NULL OR "
            "(transfer_id IS NULL AND hold_id IS NULL AND resolved_hold_id IS NULL))",
            name="command_refusal",
        ),
        sa.UniqueConstraint("batch_id", "ordinal", name="command_place"),
        schema="settlement",
    )


def _transfers() -> None:
    op.create_table(
        "transfer",
        _uuid("id", primary_key=True),
        _text("kind"),
        _uuid("memo_id", nullable=True),
        _uuid("reverses", nullable=True),
        _time("event_at"),
        _time("booked_at"),
        schema="settlement",
    )
    op.create_index(
        "transfer_reverses",
        "transfer",
        ["reverses"],
        unique=True,
        schema="settlement",
        postgresql_where=sa.text("reverses IS NOT NULL"),
    )
    op.create_table(
        "posting",
        _uuid("account_id", primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        _uuid("transfer_id"),
        sa.Column("currency", sa.String(3), nullable=False),
        _bigint("amount"),
        _bigint("balance"),
        sa.CheckConstraint("amount <> 0", name="posting_amount"),
        sa.CheckConstraint("seq > 0", name="posting_seq"),
        schema="settlement",
    )
    op.create_index("posting_transfer_id", "posting", ["transfer_id"], schema="settlement")


def _holds() -> None:
    op.create_table(
        "hold",
        _uuid("id", primary_key=True),
        sa.Column(
            "account_id",
            sa.Uuid(),
            sa.ForeignKey("settlement.account.id", name="hold_account_id_fkey"),
            nullable=False,
        ),
        _bigint("amount"),
        _time("expires_at"),
        _uuid("memo_id", nullable=True),
        _time("created_at"),
        sa.CheckConstraint("amount > 0", name="hold_amount"),
        schema="settlement",
    )
    op.create_index("hold_account_id", "hold", ["account_id"], schema="settlement")
    op.create_index("hold_expires_at", "hold", ["expires_at"], schema="settlement")
    op.create_table(
        "hold_resolution",
        sa.Column(
            "hold_id",
            sa.Uuid(),
            sa.ForeignKey("settlement.hold.id", name="hold_resolution_hold_id_fkey"),
            primary_key=True,
        ),
        _text("outcome"),
        _bigint("captured"),
        _time("resolved_at"),
        sa.CheckConstraint(
            "outcome IN ('captured', 'voided', 'expired')", name="hold_resolution_outcome"
        ),
        sa.CheckConstraint(
            "captured >= 0 AND (captured > 0) = (outcome = 'captured')",
            name="hold_resolution_captured",
        ),
        schema="settlement",
    )


def _chain() -> None:
    op.create_table(
        "chain_head",
        sa.Column("id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        _bigint("number"),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name="chain_head_single"),
        schema="settlement",
    )
    op.execute(
        "INSERT INTO settlement.chain_head (id, number, hash) "
        "VALUES (1, 0, decode(repeat('00', 32), 'hex'))"
    )
    op.create_table(
        "chain_link",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        _uuid("batch_id"),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(hash) = 32", name="chain_link_hash_length"),
        sa.UniqueConstraint("batch_id", name="chain_link_batch_id"),
        sa.UniqueConstraint("prev_hash", name="chain_link_prev_hash"),
        schema="settlement",
    )
    op.create_table(
        "checkpoint",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        _text("jws"),
        _time("created_at"),
        sa.CheckConstraint("octet_length(hash) = 32", name="checkpoint_hash"),
        schema="settlement",
    )


def _money() -> "list[sa.Column[Any]]":
    return [_bigint("amount_minor"), sa.Column("currency", sa.String(3), nullable=False)]


def _top_ups() -> None:
    op.create_table(
        "top_up",
        _uuid("id", primary_key=True),
        _uuid("party_id"),
        *_money(),
        _text("card"),
        _text("rail"),
        sa.Column("request_key", sa.LargeBinary(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        _text("status"),
        _text("failure_code", nullable=True),
        _time("next_attempt_at"),
        _time("created_at"),
        _time("updated_at"),
        sa.CheckConstraint(_AMOUNT, name="top_up_amount"),
        sa.CheckConstraint(
            "status IN ('pending', 'succeeded', 'failed', 'charged_back')", name="top_up_status"
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (failure_code IS NOT NULL)", name="top_up_failure"
        ),
        sa.CheckConstraint("octet_length(request_hash) = 32", name="top_up_request_hash"),
        sa.UniqueConstraint("party_id", "request_key", name="top_up_request"),
        schema="settlement",
    )
    op.create_index("top_up_party_id", "top_up", ["party_id", "id"], schema="settlement")
    op.create_index(
        "top_up_due",
        "top_up",
        ["next_attempt_at"],
        schema="settlement",
        postgresql_where=sa.text("status = 'pending'"),
    )


def _payouts() -> None:
    op.create_table(
        "payout",
        _uuid("id", primary_key=True),
        _uuid("party_id"),
        *_money(),
        _text("destination"),
        _text("rail"),
        _text("status"),
        _text("failure_code", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _time("next_attempt_at"),
        _time("created_at"),
        _time("updated_at"),
        sa.CheckConstraint(_AMOUNT, name="payout_amount"),
        sa.CheckConstraint(
            "status IN ('pending', 'submitted', 'paid', 'failed')", name="payout_status"
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (failure_code IS NOT NULL)", name="payout_failure"
        ),
        sa.CheckConstraint("attempts >= 0", name="payout_attempts"),
        schema="settlement",
    )
    op.create_index("payout_party_id", "payout", ["party_id", "id"], schema="settlement")
    op.create_index(
        "payout_due",
        "payout",
        ["next_attempt_at"],
        schema="settlement",
        postgresql_where=sa.text("status IN ('pending', 'submitted')"),
    )


def _sandbox() -> None:
    op.create_table(
        "job_cursor",
        sa.Column("name", sa.Text(), primary_key=True),
        _text("position"),
        schema="settlement",
    )
    op.create_table(
        "sandbox_charge",
        _uuid("key", primary_key=True),
        *_money(),
        _text("card"),
        _time("created_at"),
        _time("charged_back_at", nullable=True),
        sa.CheckConstraint(_AMOUNT, name="sandbox_charge_amount"),
        schema="settlement",
    )
    op.create_index(
        "sandbox_charge_chargeback",
        "sandbox_charge",
        ["charged_back_at", "key"],
        schema="settlement",
        postgresql_where=sa.text("charged_back_at IS NOT NULL"),
    )
    op.create_table(
        "sandbox_payout",
        _uuid("key", primary_key=True),
        *_money(),
        _text("destination"),
        _time("created_at"),
        sa.CheckConstraint(_AMOUNT, name="sandbox_payout_amount"),
        schema="settlement",
    )
