"""Money for every test, moved by the real ledger."""

import asyncio
import contextvars
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.db import DatabaseUnavailable
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Command, Hold, Result, Transfer
from settlement.verify import Report, verify_ledger

T = TypeVar("T")
FAR = timedelta(days=30)


async def fund(
    kernel: Kernel, party_id: UUID, amount_minor: int, currency: str = "CNY"
) -> AccountRef:
    """Credit a party's available balance from clearing, as a top-up does; returns the account."""
    account = available(party_id, currency)
    legs = (
        (AccountRef(AccountKind.CLEARING, None, currency), -amount_minor),
        (account, amount_minor),
    )
    async with kernel.unit_of_work() as uow:
        await ledger.post_strict(uow, [Transfer(f"test:fund:{new_id().hex}", "top_up", legs)])
    return account


async def escrowed(
    kernel: Kernel, agreement_id: UUID, amount_minor: int, currency: str = "CNY"
) -> AccountRef:
    """Put money into an agreement's escrow."""
    account = AccountRef(AccountKind.ESCROW, agreement_id, currency)
    source = await fund(kernel, new_id(), amount_minor, currency)
    await book(kernel, transfer(source, account, amount_minor))
    return account


def available(party_id: UUID, currency: str = "CNY") -> AccountRef:
    """A party's available balance."""
    return AccountRef(AccountKind.AVAILABLE, party_id, currency)


def transfer(
    source: AccountRef, target: AccountRef, amount: int, *, key: str | None = None
) -> Transfer:
    """A plain two-leg transfer."""
    legs = ((source, -amount), (target, amount))
    return Transfer(key or f"test:{new_id().hex}", "test", legs)


def hold(account: AccountRef, amount: int, expires_at: datetime, *, key: str | None = None) -> Hold:
    """A hold under a new id."""
    identity = new_id()
    return Hold(key or f"test:{identity.hex}", identity, account, amount, expires_at)


async def book(kernel: Kernel, *commands: Command) -> list[Result]:
    """Post in a unit of work of its own."""
    async with kernel.unit_of_work() as uow:
        return await ledger.post(uow, commands)


async def state(kernel: Kernel, ref: AccountRef) -> tuple[int, int, int]:
    """``(posted, held, seq)`` of an account; zeros if it does not exist."""
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT posted, held, seq FROM settlement.account WHERE id = $1", ref.id
        )
    return (0, 0, 0) if row is None else (row["posted"], row["held"], row["seq"])


async def count(kernel: Kernel, table: str) -> int:
    """Rows of a settlement table."""
    async with kernel.unit_of_work() as uow:
        rows: int = await (await uow.raw()).fetchval(f"SELECT count(*) FROM settlement.{table}")
    return rows


async def verified(kernel: Kernel) -> Report:
    """The ledger's own proof; fails the test when anything is wrong."""
    assert kernel.settings.database_url is not None
    report = await verify_ledger(kernel.settings.database_url)
    assert report.findings == []
    return report


async def together(*work: Coroutine[Any, Any, T]) -> list[T | BaseException]:
    """Run at once, each in a context of its own (units of work are guarded per context).

    Raises the first DatabaseUnavailable and what is no refusal of ours: a slow database and a bug
    are never among the outcomes in question.
    """
    tasks = [asyncio.create_task(item, context=contextvars.copy_context()) for item in work]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for answer in answers:
        refused = isinstance(answer, MarketError) and type(answer) is not DatabaseUnavailable
        if isinstance(answer, BaseException) and not refused:
            raise answer
    return answers


async def now(kernel: Kernel) -> datetime:
    """Market time."""
    async with kernel.unit_of_work() as uow:
        return uow.now


async def move_clock(kernel: Kernel, ahead: timedelta) -> None:
    """Move the sandbox clock forward."""
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE kernel.sandbox_clock SET ahead = ahead + $1 WHERE id = 1", ahead
        )
