"""What the database itself refuses, to the application, its owner and (in replica mode) root."""

import uuid

import asyncpg
import pytest

from settlement.accounts import AccountRef
from tests.settlement.conftest import Guarded
from tests.settlement.factories import available, book, fund, hold, now, state, transfer, verified

APPEND_ONLY = (
    "batch",
    "command",
    "transfer",
    "posting",
    "hold",
    "hold_resolution",
    "checkpoint",
    "chain_link",
)


@pytest.fixture(scope="module")
async def account(guarded: Guarded) -> AccountRef:
    """An account with 1,000 posted in two postings and 100 held."""
    ref = await fund(guarded.kernel, uuid.uuid4(), 600)
    source = await fund(guarded.kernel, uuid.uuid4(), 400)
    later = (await now(guarded.kernel)).replace(year=2040)
    await book(guarded.kernel, transfer(source, ref, 400), hold(ref, 100, later))
    assert await state(guarded.kernel, ref) == (1_000, 100, 2)
    return ref


async def _attempt(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    finally:
        await connection.close()


async def refuse(
    url: str, *statements: str, error: type[Exception], match: str | None = None
) -> None:
    """Run the statements in one transaction; it must fail like this."""
    with pytest.raises(error, match=match):
        await _attempt(url, statements)


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_the_application_cannot_change_history(
    guarded: Guarded, account: AccountRef, table: str
) -> None:
    column = {"batch": "root", "checkpoint": "hash", "chain_link": "hash"}.get(table)
    column = column or {"command": "code", "hold_resolution": "outcome"}.get(table)
    column = column or ("kind" if table == "transfer" else "amount")
    for statement in (
        f"UPDATE settlement.{table} SET {column} = {column}",
        f"DELETE FROM settlement.{table}",
        f"TRUNCATE settlement.{table} CASCADE",
    ):
        await refuse(guarded.app_url, statement, error=asyncpg.InsufficientPrivilegeError)
        for url in (guarded.owner_url, guarded.superuser_url):
            await refuse(url, statement, error=asyncpg.RestrictViolationError, match="append-only")


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_replica_mode_does_not_open_history(
    guarded: Guarded, account: AccountRef, table: str
) -> None:
    for statement in (f"DELETE FROM settlement.{table}", f"TRUNCATE settlement.{table} CASCADE"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await guarded.run(statement, replica=True)


@pytest.mark.parametrize("table", ["chain_link", "chain_head"])
async def test_the_application_cannot_write_the_chain(guarded: Guarded, table: str) -> None:
    insert = {
        "chain_link": "(number, batch_id, prev_hash, hash) VALUES (999, gen_random_uuid(), '', '')",
        "chain_head": "(id, number, hash) VALUES (2, 1, '')",
    }[table]
    await refuse(
        guarded.app_url,
        f"INSERT INTO settlement.{table} {insert}",
        error=asyncpg.InsufficientPrivilegeError,
    )
    await refuse(
        guarded.app_url,
        f"UPDATE settlement.{table} SET hash = hash",
        error=asyncpg.InsufficientPrivilegeError,
    )


async def test_the_application_changes_only_the_balance_columns(
    guarded: Guarded, account: AccountRef
) -> None:
    for statement in (
        f"UPDATE settlement.account SET kind = 'clearing' WHERE id = '{account.id}'",
        f"UPDATE settlement.account SET owner = gen_random_uuid() WHERE id = '{account.id}'",
        f"DELETE FROM settlement.account WHERE id = '{account.id}'",
    ):
        await refuse(guarded.app_url, statement, error=asyncpg.InsufficientPrivilegeError)
    for url in (guarded.owner_url, guarded.superuser_url):
        await refuse(
            url,
            f"DELETE FROM settlement.account WHERE id = '{account.id}'",
            error=asyncpg.RestrictViolationError,
        )


def _transfer_sql(transfer_id: uuid.UUID) -> str:
    return (
        "INSERT INTO settlement.transfer (id, kind, event_at, booked_at) "
        f"VALUES ('{transfer_id}', 'forged', now(), now())"
    )


def _posting_sql(
    account: AccountRef, transfer_id: uuid.UUID, *legs: tuple[int, int, int, str]
) -> str:
    rows = ", ".join(
        f"('{account.id}', {seq}, '{transfer_id}', '{currency}', {amount}, {balance})"
        for seq, amount, balance, currency in legs
    )
    return (
        "INSERT INTO settlement.posting (account_id, seq, transfer_id, currency, amount, balance) "
        f"VALUES {rows}"
    )


# Each keeps to all rules but one. The account has 1,000 after posting 2.
FORGERIES: dict[str, tuple[tuple[tuple[int, int, int, str], ...], str]] = {
    "one leg": (((3, 5, 1_005, "CNY"),), "not zero-sum"),
    "cross-currency": (((3, 5, 1_005, "CNY"), (4, -5, 1_000, "USD")), "not zero-sum"),
    "gap": (((4, 5, 1_005, "CNY"), (5, -5, 1_000, "CNY")), "continue"),
    "gap inside": (((3, 5, 1_005, "CNY"), (5, -5, 1_000, "CNY")), "continue"),
    "from the start": (((1, 5, 5, "CNY"), (2, -5, 0, "CNY")), "posting_pkey"),
    "again": (((2, 5, 1_005, "CNY"), (3, -5, 1_000, "CNY")), "posting_pkey"),
    "wrong balance": (((3, 5, 1_006, "CNY"), (4, -5, 1_001, "CNY")), "without its posting"),
    "wrong first balance": (((3, 5, 1_006, "CNY"), (4, -5, 1_000, "CNY")), "continue"),
    "wrong last balance": (((3, 5, 1_005, "CNY"), (4, -5, 999, "CNY")), "continue"),
    "other currency": (((3, 5, 1_005, "USD"), (4, -5, 1_000, "USD")), "continue"),
    "currency inside": (
        ((3, 5, 1_005, "CNY"), (4, 5, 1_010, "USD"), (5, -5, 1_005, "CNY"), (6, -5, 1_000, "USD")),
        "continue",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_unsound_postings_are_refused_to_everyone(
    guarded: Guarded, account: AccountRef, name: str
) -> None:
    legs, match = FORGERIES[name]
    forged = uuid.uuid4()
    statements = (_transfer_sql(forged), _posting_sql(account, forged, *legs))
    before = await state(guarded.kernel, account)
    refused = (asyncpg.CheckViolationError, asyncpg.UniqueViolationError)
    for url in (guarded.app_url, guarded.owner_url):
        with pytest.raises(refused, match=match):
            await _attempt(url, statements)
    with pytest.raises(refused, match=match):
        await guarded.run(*statements, replica=True)
    assert await state(guarded.kernel, account) == before


@pytest.mark.parametrize("name", FORGERIES)
async def test_unsound_postings_cannot_be_copied_in(
    guarded: Guarded, account: AccountRef, name: str
) -> None:
    """COPY fires the same triggers; it is how large batches are written."""
    legs, match = FORGERIES[name]
    forged = uuid.uuid4()
    connection = await asyncpg.connect(guarded.app_url)
    refused = (asyncpg.CheckViolationError, asyncpg.UniqueViolationError)
    records = [(account.id, seq, forged, code, amount, bal) for seq, amount, bal, code in legs]
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(_transfer_sql(forged))
    try:
        with pytest.raises(refused, match=match):
            await connection.copy_records_to_table(
                "posting",
                schema_name="settlement",
                columns=("account_id", "seq", "transfer_id", "currency", "amount", "balance"),
                records=records,
            )
    finally:
        await transaction.rollback()
        await connection.close()
    assert await state(guarded.kernel, account) == (1_000, 100, 2)


async def test_postings_need_their_transfer_and_account_and_legs_come_together(
    guarded: Guarded, account: AccountRef
) -> None:
    forged = uuid.uuid4()
    legs = ((3, 5, 1_005, "CNY"), (4, -5, 1_000, "CNY"))
    for url in (guarded.app_url, guarded.owner_url):
        await refuse(
            url,
            _posting_sql(account, forged, *legs),
            error=asyncpg.ForeignKeyViolationError,
            match="unknown transfer",
        )
    await refuse(
        guarded.app_url,
        _transfer_sql(forged),
        _posting_sql(account, forged, legs[0]),
        _posting_sql(account, forged, legs[1]),
        error=asyncpg.CheckViolationError,
        match="not zero-sum",
    )
    nobody = available(uuid.uuid4())
    await refuse(
        guarded.app_url,
        _transfer_sql(forged),
        _posting_sql(nobody, forged, (1, 5, 5, "CNY"), (2, -5, 0, "CNY")),
        error=asyncpg.CheckViolationError,
        match="does not continue",
    )


async def test_the_application_cannot_write_a_balance(
    guarded: Guarded, account: AccountRef
) -> None:
    """Not even with its posting: the trigger on postings alone moves accounts."""
    for change in ("posted = posted + 1", "seq = seq + 1", "posted = posted"):
        statement = f"UPDATE settlement.account SET {change} WHERE id = '{account.id}'"
        await refuse(guarded.app_url, statement, error=asyncpg.InsufficientPrivilegeError)


async def test_a_balance_cannot_move_without_its_posting(
    guarded: Guarded, account: AccountRef
) -> None:
    for change in ("posted = posted + 1", "seq = seq + 1", "seq = 1, posted = 601"):
        statement = f"UPDATE settlement.account SET {change} WHERE id = '{account.id}'"
        await refuse(
            guarded.owner_url,
            statement,
            error=asyncpg.CheckViolationError,
            match="without its posting",
        )
        with pytest.raises(asyncpg.CheckViolationError, match="without its posting"):
            await guarded.run(statement, replica=True)
    forged = (
        "INSERT INTO settlement.account (id, kind, owner, currency, posted, created_at) "
        "VALUES (gen_random_uuid(), 'available', gen_random_uuid(), 'CNY', 5, now())"
    )
    await refuse(
        guarded.app_url, forged, error=asyncpg.CheckViolationError, match="does not start at zero"
    )


async def test_the_trigger_runs_as_its_owner_on_its_own_tables_only(guarded: Guarded) -> None:
    """SECURITY DEFINER: nobody may call it, or slip in tables of his own by the search path."""
    connection = await asyncpg.connect(guarded.superuser_url)
    settings = await connection.fetchval(
        "SELECT proconfig FROM pg_proc WHERE oid = 'settlement.book_postings'::regproc"
    )
    await connection.close()
    assert "search_path=pg_catalog, pg_temp" in settings
    await refuse(
        guarded.app_url,
        "SELECT settlement.book_postings()",
        error=asyncpg.FeatureNotSupportedError,
        match="trigger functions can only be called as triggers",
    )


async def test_a_protected_account_never_falls_below_zero(
    guarded: Guarded, account: AccountRef
) -> None:
    """The CHECK holds without any help of the rules: 1,000 posted, 100 held, 950 taken."""
    taker = await fund(guarded.kernel, uuid.uuid4(), 1)
    forged = uuid.uuid4()
    statement = (
        "INSERT INTO settlement.posting (account_id, seq, transfer_id, currency, amount, balance) "
        f"VALUES ('{account.id}', 3, '{forged}', 'CNY', -950, 50), "
        f"('{taker.id}', 2, '{forged}', 'CNY', 950, 951)"
    )
    await refuse(
        guarded.app_url,
        _transfer_sql(forged),
        statement,
        error=asyncpg.CheckViolationError,
        match="account_protected",
    )
    await refuse(
        guarded.app_url,
        f"UPDATE settlement.account SET held = 1001 WHERE id = '{account.id}'",
        error=asyncpg.CheckViolationError,
        match="account_protected",
    )
    await refuse(
        guarded.app_url,
        f"UPDATE settlement.account SET held = -1 WHERE id = '{account.id}'",
        error=asyncpg.CheckViolationError,
        match="account_held",
    )


async def test_every_guard_is_always_on(guarded: Guarded) -> None:
    connection = await asyncpg.connect(guarded.superuser_url)
    rows = await connection.fetch(
        "SELECT tgrelid::regclass::text AS on_table, tgname, tgenabled::text AS mode "
        "FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text LIKE 'settlement.%'"
    )
    await connection.close()
    assert {row["mode"] for row in rows} == {"A"}
    names = {row["tgname"] for row in rows}
    assert names >= {f"settlement_{table}_append_only" for table in APPEND_ONLY}
    assert names >= {"account_starts_at_zero", "account_follows_postings", "account_kept"}
    assert names >= {"posting_booked", "batch_chained"}


async def test_nothing_of_all_this_left_a_trace(guarded: Guarded, account: AccountRef) -> None:
    assert await state(guarded.kernel, account) == (1_000, 100, 2)
    report = await verified(guarded.kernel)
    assert report.head_number == report.links > 0
    assert await state(guarded.kernel, available(uuid.uuid4())) == (0, 0, 0)
