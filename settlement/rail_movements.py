"""Reading the rail's balance transactions, once each, and booking the fees that they name."""

from __future__ import annotations

from collections.abc import Sequence

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from settlement import cursors, ledger, reconciliation_sql as sql
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Command, Transfer
from settlement.errors import RailUnavailable
from settlement.rails.base import BalanceTransaction, RailRefused
from settlement.rails.choice import rail_of

MOVEMENTS_PER_PAGE = 100
PAGES_PER_RUN = 200
# Stripe's reporting categories that are nothing but fees: all of the amount is the fee.
FEE_KINDS = frozenset({"fee", "network_cost", "tax", "stripe_fee", "stripe_fx_fee", "tax_fee"})


async def read_movements(kernel: Kernel) -> int:
    """Read what is new at the rail, and post its fees: losses → clearing. Returns how many.

    At most ``PAGES_PER_RUN`` pages; the next run goes on. Raises RailUnavailable, also when the
    rail refuses to go on from where the last run ended.
    """
    rail = rail_of(kernel)
    name = f"movements:{rail.name}"
    done = 0
    for _ in range(PAGES_PER_RUN):
        position = await cursors.read(kernel, name)
        try:
            page = await rail.list_balance_transactions(position, MOVEMENTS_PER_PAGE)
        except RailRefused as refusal:
            raise RailUnavailable(
                f"The payment provider does not list its movements: {refusal.code}."
            ) from refusal
        if not page:
            break
        async with kernel.unit_of_work() as uow:
            fees = await _store(uow, rail.name, page)
            await cursors.write_in(uow, name, page[-1].position)
            await ledger.post_strict(uow, fees)
        done += len(page)
    return done


async def _store(
    uow: UnitOfWork, rail_name: str, page: Sequence[BalanceTransaction]
) -> list[Command]:
    connection = await uow.raw()
    fees: list[Command] = []
    for movement in page:
        amount, fee = movement.amount_minor, movement.fee_minor
        if movement.kind in FEE_KINDS:
            amount, fee = 0, fee - amount
        movement_id = await connection.fetchval(
            sql.INSERT_MOVEMENT,
            new_id(),
            rail_name,
            movement.position,
            movement.kind,
            movement.source,
            movement.key,
            amount,
            fee,
            movement.currency,
            movement.created_at,
            uow.now,
        )
        if movement_id is None or fee == 0:
            continue
        legs = (
            (AccountRef(AccountKind.CLEARING, None, movement.currency), fee),
            (AccountRef(AccountKind.LOSSES, None, movement.currency), -fee),
        )
        key = f"rail_fee:{movement_id.hex}"
        fees.append(Transfer(key, "rail_fee", legs, memo_id=movement_id))
    return fees
