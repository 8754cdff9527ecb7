"""The invariants of the ledger as SQL over its tables: each query counts the rows that break one.

They know nothing of the code or of the shadow, only of the columns. Numbers are those of
docs/proving.md.
"""

_PROTECTED = "kind NOT IN ('clearing', 'receivable', 'losses', 'fx')"
_OPEN = "FROM settlement.hold h LEFT JOIN settlement.hold_resolution r ON r.hold_id = h.id"

_QUERIES = {
    "1 a transfer sums to zero in every currency": """
        SELECT 1 FROM settlement.posting GROUP BY transfer_id, currency HAVING sum(amount) <> 0
    """,
    "1 all balances of a currency sum to zero": """
        SELECT 1 FROM settlement.account GROUP BY currency HAVING sum(posted) <> 0
    """,
    "2 a balance is the sum of its postings": """
        SELECT 1 FROM settlement.account a WHERE posted <> (
            SELECT coalesce(sum(amount), 0) FROM settlement.posting WHERE account_id = a.id)
    """,
    "2 held is the sum of the open holds": f"""
        SELECT 1 FROM settlement.account a WHERE held < 0 OR held <> (
            SELECT coalesce(sum(h.amount), 0) {_OPEN}
            WHERE h.account_id = a.id AND r.hold_id IS NULL)
    """,
    "3 a protected account covers its holds": f"""
        SELECT 1 FROM settlement.account WHERE {_PROTECTED} AND posted - held < 0
    """,
    "3 a protected account was never below zero": f"""
        SELECT 1 FROM settlement.posting p JOIN settlement.account a ON a.id = p.account_id
        WHERE a.{_PROTECTED} AND p.balance < 0
    """,
    "4 seq has no gap and ends at the account's": """
        SELECT 1 FROM settlement.account a
        LEFT JOIN settlement.posting p ON p.account_id = a.id GROUP BY a.id, a.seq
        HAVING a.seq <> count(p.seq) OR a.seq <> coalesce(max(p.seq), 0)
    """,
    "4 each balance is the one before plus the amount": """
        SELECT 1 FROM (
            SELECT balance, amount,
                   lag(balance, 1, 0::bigint) OVER (PARTITION BY account_id ORDER BY seq) AS before
            FROM settlement.posting) AS p WHERE balance <> before + amount
    """,
    "5 a refusal names nothing that it did": """
        SELECT 1 FROM settlement.command WHERE code IS NOT NULL
        AND num_nonnulls(transfer_id, hold_id, resolved_hold_id) > 0
    """,
    "5 every transfer belongs to one command": """
        SELECT 1 FROM settlement.transfer t LEFT JOIN settlement.command c ON c.transfer_id = t.id
        GROUP BY t.id HAVING count(c.key) <> 1
    """,
    "7 every hold and every end of one belong to one command": """
        SELECT 1 FROM settlement.hold h
        LEFT JOIN settlement.command m ON m.hold_id = h.id
        LEFT JOIN settlement.command e ON e.resolved_hold_id = h.id
        LEFT JOIN settlement.hold_resolution r ON r.hold_id = h.id
        GROUP BY h.id, r.hold_id
        HAVING count(DISTINCT m.key) <> 1 OR count(DISTINCT e.key) <> count(r.hold_id)
    """,
    "7 a capture pays what its hold's account lost, at most the hold": """
        SELECT 1 FROM settlement.hold_resolution r
        JOIN settlement.hold h ON h.id = r.hold_id
        JOIN settlement.command c ON c.resolved_hold_id = h.id
        LEFT JOIN settlement.posting p
          ON p.transfer_id = c.transfer_id AND p.account_id = h.account_id
        LEFT JOIN settlement.hold kept ON kept.id = c.hold_id
        WHERE r.captured <> coalesce(-p.amount, 0)
           OR r.captured + coalesce(kept.amount, 0) > h.amount
    """,
    "8 a transfer is reversed once, a reversal never": """
        SELECT 1 FROM settlement.transfer b JOIN settlement.transfer t ON t.id = b.reverses
        WHERE t.reverses IS NOT NULL
           OR (SELECT count(*) FROM settlement.transfer o WHERE o.reverses = t.id) > 1
    """,
    "8 a reversal takes back every leg": """
        SELECT 1 FROM settlement.transfer b
        WHERE b.reverses IS NOT NULL AND EXISTS (
            SELECT account_id FROM settlement.posting WHERE transfer_id IN (b.id, b.reverses)
            GROUP BY account_id HAVING sum(amount) <> 0 OR count(*) <> 2)
    """,
    "8 an agreement pays out at most what was paid in": """
        SELECT 1 FROM settlement.posting p JOIN settlement.account a ON a.id = p.account_id
        WHERE a.kind IN ('escrow', 'frozen') GROUP BY a.id HAVING sum(p.amount) < 0
    """,
    "11 every batch is one link of an unbroken chain": """
        SELECT 1 FROM settlement.batch b FULL JOIN settlement.chain_link l ON l.batch_id = b.id
        LEFT JOIN settlement.chain_link o ON o.number = l.number - 1
        WHERE b.id IS NULL OR l.batch_id IS NULL
           OR (l.number > 1 AND o.hash IS DISTINCT FROM l.prev_hash)
    """,
}

VIOLATIONS = "SELECT " + ",\n".join(
    f'(SELECT count(*) FROM ({query}) AS q) AS "{name}"' for name, query in _QUERIES.items()
)
