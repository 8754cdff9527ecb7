"""Settlement: postings move their accounts themselves; a batch names the format of its leaves."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import app_role

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# One posting statement must leave every transfer zero-sum per currency, continue every account's
# gapless seq and running balance, and moves the account rows accordingly: nobody else has to, and
# the application role may no longer. All legs of a transfer come in one statement. SECURITY
# DEFINER for that UPDATE only; it is checked in turn by account_follows_postings, which makes the
# last balance equal the account's and thereby, with each following from the one before, all.
# Only nested loops over indexes: the plan is cached while the tables are still small.
_BOOK_POSTINGS = """
CREATE FUNCTION settlement.book_postings() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE bad record; missed bigint;
BEGIN
    SELECT i.transfer_id, i.currency, i.total INTO bad FROM (
        SELECT transfer_id, currency, sum(amount) AS total FROM inserted
        GROUP BY transfer_id, currency
    ) i
    WHERE i.total <> 0
       OR (SELECT t.id FROM settlement.transfer t WHERE t.id = i.transfer_id) IS NULL
    LIMIT 1;
    IF FOUND AND bad.total <> 0 THEN
        RAISE EXCEPTION 'transfer % is not zero-sum in %', bad.transfer_id, bad.currency
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_zero_sum',
                  SCHEMA = 'settlement', TABLE = 'posting';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'posting of an unknown transfer %', bad.transfer_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'posting_transfer_known',
                  SCHEMA = 'settlement', TABLE = 'posting';
    END IF;
    SELECT p.account_id, p.seq INTO bad FROM (
        SELECT account_id, seq, amount, balance, currency, lag(seq) OVER w AS prev_seq,
               lag(balance) OVER w AS prev_balance, lag(currency) OVER w AS prev_currency
        FROM inserted WINDOW w AS (PARTITION BY account_id ORDER BY seq)
    ) p
    WHERE p.seq <> p.prev_seq + 1 OR p.balance <> p.prev_balance + p.amount
       OR p.currency <> p.prev_currency
    LIMIT 1;
    IF NOT FOUND THEN
        WITH step AS (
            SELECT account_id, count(*) AS steps, sum(amount)::bigint AS amount,
                   min(seq) AS seq, min(currency) AS currency
            FROM inserted GROUP BY account_id
        ), moved AS (
            UPDATE settlement.account a
            SET posted = a.posted + s.amount, seq = a.seq + s.steps
            FROM step s
            WHERE a.id = s.account_id AND a.seq = s.seq - 1 AND a.currency = s.currency
            RETURNING a.id
        )
        SELECT s.account_id, s.seq INTO bad FROM step s
        WHERE (SELECT count(*) FROM step) <> (SELECT count(*) FROM moved)
          AND NOT EXISTS (SELECT 1 FROM moved m WHERE m.id = s.account_id)
        LIMIT 1;
    END IF;
    IF FOUND THEN
        RAISE EXCEPTION 'posting (%, %) does not continue its account', bad.account_id, bad.seq
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_continuity',
                  SCHEMA = 'settlement', TABLE = 'posting';
    END IF;
    RETURN NULL;
END $$
"""

# Migration 0005's own, for the way back.
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


def upgrade() -> None:
    # Everything booked until now has leaves of format 1; the writer names its own from here on.
    op.add_column(
        "batch",
        sa.Column("format", sa.SmallInteger, nullable=False, server_default="1"),
        schema="settlement",
    )
    op.alter_column("batch", "format", server_default=None, schema="settlement")
    op.create_check_constraint("batch_format", "batch", "format IN (1, 2)", schema="settlement")
    _replace("posting_checked", "check_postings", "posting_booked", _BOOK_POSTINGS)
    op.execute(f"REVOKE UPDATE (posted, seq) ON settlement.account FROM {app_role()}")


def downgrade() -> None:
    op.execute(f"GRANT UPDATE (posted, seq) ON settlement.account TO {app_role()}")
    _replace("posting_booked", "book_postings", "posting_checked", _CHECK_POSTINGS)
    op.drop_column("batch", "format", schema="settlement")


def _replace(old_trigger: str, old_function: str, trigger: str, function: str) -> None:
    op.execute(f"DROP TRIGGER {old_trigger} ON settlement.posting")
    op.execute(f"DROP FUNCTION settlement.{old_function}()")
    op.execute(function)
    name = function.split("(")[0].split(".")[-1]
    op.execute(
        f"CREATE TRIGGER {trigger} AFTER INSERT ON settlement.posting "
        f"REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION settlement.{name}()"
    )
    # ALWAYS: session_replication_role = replica skips ordinary triggers.
    op.execute(f"ALTER TABLE settlement.posting ENABLE ALWAYS TRIGGER {trigger}")
