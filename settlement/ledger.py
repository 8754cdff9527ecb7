"""The ledger's one door: ``post`` books commands inside an open unit of work.

Order of locks in a unit of work: accounts by id, then (at commit) the head of the hash chain.
Call ``post`` once per unit of work where possible: a second call that touches further accounts
takes their locks out of order, and may be chosen as the victim of a deadlock (503, retry).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from market.kernel.db import UnitOfWork
from settlement import sql
from settlement.accounts import AccountRef
from settlement.commands import (
    Applied,
    Capture,
    Command,
    Expire,
    Hold,
    Linked,
    Refused,
    Result,
    Transfer,
    Void,
    single,
    touched,
)
from settlement.errors import LedgerKeyRace, error_of
from settlement.plan import Plan
from settlement.rules import AccountState, Books

if TYPE_CHECKING:
    from asyncpg import Connection

# One batch is one statement and one set of locks; more belongs into several units of work.
COMMANDS_MAX = 4_096


async def post(uow: UnitOfWork, commands: Sequence[Command | Linked]) -> list[Result]:
    """Book ``commands`` in order and answer each: ``Applied``, or ``Refused`` and unchanged.

    A ``Linked`` group is carried out as a whole or not at all; its members answer in its place.
    Effects: locks every touched account until the unit of work ends, writes transfers, holds
    and the memory of the keys. A key seen before gets its first answer again. Raises
    LedgerKeyRace (503) when another transaction is booking the same key on other accounts, and
    ValueError for more than 4,096 commands.
    """
    if not commands:
        return []
    named = single(commands)
    if len(named) > COMMANDS_MAX:
        raise ValueError(f"at most {COMMANDS_MAX} commands per post, not {len(named)}")
    plan = await settle(uow, commands)
    await write(uow, plan)
    return plan.results


async def settle(
    uow: UnitOfWork, commands: Sequence[Command | Linked], *, foreseen: Plan | None = None
) -> Plan:
    """Lock what ``commands`` touch and decide them, or find that ``foreseen`` did so rightly.

    Effects: the locks, held until the unit of work ends. The plan must be given to
    :func:`write` in the same unit of work.
    """
    await uow.session.flush()
    connection = await uow.raw()
    if foreseen is not None and await sql.lock_expected(connection, foreseen.before):
        memory, elapsed = await sql.read_memory(connection, [c.key for c in single(commands)])
        if not memory and foreseen.timely(uow.now + elapsed):
            foreseen.settled_at = uow.now + elapsed
            return foreseen
    books, elapsed = await _lock_and_read(connection, uow, single(commands))
    plan = Plan(books, uow.now + elapsed)
    plan.add(commands)
    plan.settled_at = plan.booked_at
    return plan


async def write(uow: UnitOfWork, plan: Plan) -> None:
    """Write what :func:`settle` found. Raises LedgerKeyRace (503), see :func:`post`."""
    if not plan.entries:
        return
    try:
        await sql.write(
            await uow.raw(),
            batch=plan.rows,
            entries=plan.entries,
            leaves=plan.leaves,
            before=plan.before,
            after=plan.after,
        )
    except asyncpg.UniqueViolationError as error:
        raise LedgerKeyRace("Another process is booking the same command.") from error


async def post_strict(uow: UnitOfWork, commands: Sequence[Command | Linked]) -> list[Applied]:
    """Like :func:`post`, but all or nothing: raises the first refusal as its MarketError.

    Of a refused group it is the culprit's: ``linked_refused`` is raised only where no other
    refusal of the list says why.

    The exception rolls the unit of work back, so the refusal is not remembered by the ledger
    (an HTTP request's own Idempotency-Key remembers it).
    """
    applied: list[Applied] = []
    refused: list[Refused] = []
    for result in await post(uow, commands):
        if isinstance(result, Refused):
            refused.append(result)
        else:
            applied.append(result)
    if refused:
        raise error_of(next((r for r in refused if r.code != "linked_refused"), refused[0]))
    return applied


async def recall(uow: UnitOfWork, key: str) -> Result | None:
    """What came of an earlier use of ``key``; None if it was never booked. Takes no lock."""
    memory, _ = await sql.read_memory(await uow.raw(), [key])
    return memory[key].result if key in memory else None


async def reverse(uow: UnitOfWork, key: str, transfer_id: UUID, *, memo_id: UUID | None) -> UUID:
    """Take a transfer back completely by a new one; returns the new transfer.

    Raises AlreadyReversed, ReversalRefused (unknown, or a reversal itself) and
    InsufficientFunds when a protected account has spent the money meanwhile.
    """
    legs = await sql.read_legs(await uow.raw(), transfer_id)
    if not legs:
        raise error_of(Refused(key, "transfer_not_found", "There is no such transfer."))
    mirrored = tuple((account, -amount) for account, amount in legs)
    command = Transfer(key, "reversal", mirrored, memo_id=memo_id, reverses=transfer_id)
    (done,) = await post_strict(uow, [command])
    assert done.transfer_id is not None
    return done.transfer_id


async def lock_balance(uow: UnitOfWork, ref: AccountRef) -> int:
    """The spendable balance (posted − held, minor units) of one account, locked.

    For amounts that must be decided from the balance. The account must be one that only its own
    business object touches (escrow, frozen): see the module note on lock order.
    """
    states = await sql.lock_accounts(await uow.raw(), [ref], at=uow.now)
    state = states[ref.id]
    return state.posted - state.held


async def read_balances(uow: UnitOfWork, refs: Sequence[AccountRef]) -> dict[UUID, int]:
    """Spendable minor units (posted − held) by account id, not locked; unknown ones are absent.

    For a first opinion on many accounts at once (the matching engine's batches): only ``post``
    decides.
    """
    if not refs:
        return {}
    return await sql.read_balances(await uow.raw(), [ref.id for ref in refs])


async def _lock_and_read(
    connection: Connection[Any], uow: UnitOfWork, commands: Sequence[Command]
) -> tuple[Books, Any]:
    refs = {ref.id: ref for command in commands for ref in touched(command)}
    hold_ids = _hold_ids(commands)
    if hold_ids:
        # Holds are immutable: their accounts can be read before they are locked.
        for hold in (await sql.read_holds(connection, hold_ids)).values():
            refs.setdefault(hold.account.id, hold.account)
    named = list(refs.values())
    accounts: dict[UUID, AccountState] = {}
    if named:
        accounts = await sql.lock_accounts(connection, named, at=uow.now)
    memory, elapsed = await sql.read_memory(connection, [command.key for command in commands])
    reversed_ids = [
        command.reverses
        for command in commands
        if isinstance(command, Transfer) and command.reverses is not None
    ]
    # Again, now under lock: somebody may have resolved them meanwhile.
    holds = await sql.read_holds(connection, hold_ids) if hold_ids else {}
    if any(hold.account.id not in accounts for hold in holds.values()):
        raise LedgerKeyRace("Another process has just made one of these holds.")
    books = Books(
        accounts=accounts,
        holds=holds,
        transfers=await sql.read_transfers(connection, reversed_ids) if reversed_ids else {},
        memory=memory,
    )
    return books, elapsed


def _hold_ids(commands: Sequence[Command]) -> list[UUID]:
    ids: dict[UUID, None] = {}
    for command in commands:
        if isinstance(command, Hold | Capture | Void | Expire):
            ids[command.hold_id] = None
        if isinstance(command, Capture) and command.rehold_id is not None:
            ids[command.rehold_id] = None
    return list(ids)
