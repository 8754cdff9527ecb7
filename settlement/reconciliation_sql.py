"""Queries of reconciliation. A subject is a top-up, refund or payout of ours, or the movement or
transfer itself where none is known.

Amounts are as seen from the rail: positive is money that came in there, so the ledger's side is
minus its clearing postings. The ledger is asked by keys, which are indexed and follow from ids.
"""

INSERT_MOVEMENT = """
INSERT INTO settlement.rail_movement
    (id, rail, position, kind, source, key, amount_minor, fee_minor, currency, moved_at, read_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (rail, position) DO NOTHING RETURNING id
"""

# Movements of one interval, and older ones that were in flight when they were last looked at.
MOVED_SUBJECTS = """
SELECT m.id AS movement_id, coalesce(
    c.top_up_id,
    k.subject_id,
    CASE WHEN EXISTS (SELECT 1 FROM settlement.top_up x WHERE x.id = m.key)
           OR EXISTS (SELECT 1 FROM settlement.refund x WHERE x.id = m.key)
           OR EXISTS (SELECT 1 FROM settlement.payout x WHERE x.id = m.key)
         THEN m.key END,
    m.id) AS subject_id
FROM settlement.rail_movement m
LEFT JOIN settlement.chargeback c ON c.rail = m.rail AND c.dispute = m.source
LEFT JOIN settlement.stripe_command k ON k.key = m.key AND k.kind = 'reversal'
WHERE m.rail = $1 AND m.moved_at < $3 AND (m.reconciled_on IS NULL OR m.moved_at >= $2)
"""
POSTED_SUBJECTS = """
SELECT DISTINCT CASE WHEN t.memo_id IS NOT NULL AND t.kind = ANY($4) THEN t.memo_id
                     ELSE t.id END AS subject_id
FROM settlement.posting p JOIN settlement.transfer t ON t.id = p.transfer_id
WHERE p.account_id = $1 AND p.seq > $2 AND p.seq <= $3 AND t.kind <> ALL($5)
"""
OPEN_SUBJECTS = """
SELECT DISTINCT subject_id FROM settlement.rail_case
WHERE rail = $1 AND state = 'open' AND kind = ANY($2)
"""
CLEARING_ACCOUNTS = """
SELECT id, currency, posted FROM settlement.account WHERE kind = 'clearing' ORDER BY currency
"""
# Subjects of another rail, and those whose outcome is still due (but not for ever).
STATES = """
SELECT id, rail, status IN ('pending', 'submitted') AND created_at > $2 AS in_flight, party_id
FROM settlement.payout WHERE id = ANY($1::uuid[])
UNION ALL
SELECT id, rail, status = 'pending' AND created_at > $2, party_id
FROM settlement.refund WHERE id = ANY($1::uuid[])
UNION ALL
SELECT id, rail, status = 'pending' AND created_at > $2, party_id
FROM settlement.top_up WHERE id = ANY($1::uuid[])
"""
RAIL_SIDE = """
SELECT s.id AS subject_id, m.currency, sum(m.amount_minor)::bigint AS amount_minor,
       sum(m.fee_minor)::bigint AS fee_minor, coalesce(sum(f.fee_minor), 0)::bigint AS booked_minor,
       string_agg(DISTINCT m.kind, ', ' ORDER BY m.kind) AS kinds
FROM unnest($1::uuid[]) AS s(id)
CROSS JOIN LATERAL (
    SELECT m.* FROM settlement.rail_movement m WHERE m.key = s.id
    UNION
    SELECT m.* FROM settlement.stripe_command k
    JOIN settlement.rail_movement m ON m.key = k.key
    WHERE k.subject_id = s.id AND k.kind = 'reversal'
    UNION
    SELECT m.* FROM settlement.chargeback c
    JOIN settlement.rail_movement m ON m.source = c.dispute AND m.rail = c.rail
    WHERE c.top_up_id = s.id
    UNION
    SELECT m.* FROM settlement.rail_movement m WHERE m.id = s.id
) m
LEFT JOIN LATERAL (
    SELECT p.amount AS fee_minor FROM settlement.command d
    JOIN settlement.posting p ON p.transfer_id = d.transfer_id
    JOIN settlement.account a ON a.id = p.account_id AND a.kind = 'clearing'
    WHERE d.key = 'rail_fee:' || replace(m.id::text, '-', '')
) f ON true
WHERE m.rail = $2
GROUP BY s.id, m.currency
"""
LEDGER_SIDE = """
WITH s AS (
    SELECT id, replace(id::text, '-', '') AS hex FROM unnest($1::uuid[]) AS s(id)
), keyed AS (
    SELECT s.id, pattern.head || s.hex || pattern.tail AS key
    FROM s CROSS JOIN (VALUES
        ('top_up:', ':credit'), ('top_up:', ':chargeback'), ('top_up:', ':reinstate'),
        ('refund:', ':done'), ('refund:', ':returned'),
        ('payout:', ':paid'), ('payout:', ':returned')) AS pattern(head, tail)
    UNION ALL
    SELECT s.id, 'chargeback:' || replace(c.id::text, '-', '') || ':' || n
    FROM s JOIN settlement.chargeback c ON c.top_up_id = s.id
    CROSS JOIN LATERAL generate_series(1, c.postings) AS n
    UNION ALL
    SELECT s.id, 'rail_case:' || replace(r.id::text, '-', '')
    FROM s JOIN settlement.rail_case r
      ON r.subject_id = s.id AND r.resolution = 'booked_to_losses'
), moved AS (
    SELECT keyed.id, d.transfer_id FROM keyed JOIN settlement.command d ON d.key = keyed.key
    UNION
    SELECT s.id, s.id FROM s
)
SELECT moved.id AS subject_id, p.currency, (-sum(p.amount))::bigint AS amount_minor
FROM moved
JOIN settlement.posting p ON p.transfer_id = moved.transfer_id
JOIN settlement.account a ON a.id = p.account_id AND a.kind = 'clearing'
GROUP BY moved.id, p.currency
"""
RECONCILED = """
UPDATE settlement.rail_movement SET reconciled_on = $2
WHERE id = ANY($1::uuid[]) AND reconciled_on IS NULL
"""
RAIL_TOTALS = """
SELECT currency, sum(amount_minor - fee_minor)::bigint AS total_minor
FROM settlement.rail_movement WHERE rail = $1 GROUP BY currency
"""
LAST_RUN = "SELECT max(until) FROM settlement.reconciliation WHERE rail = $1"
INSERT_RUN = """
INSERT INTO settlement.reconciliation
    (id, rail, since, until, movement_count, subject_count, in_flight_count, difference_count,
     totals, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10)
"""
