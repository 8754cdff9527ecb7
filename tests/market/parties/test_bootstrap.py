"""Alone in its module: the database has no operator yet."""

import asyncio

from market.kernel.context import Kernel
from market.parties.errors import OperatorExists
from market.parties.registration import bootstrap_operator


async def test_parallel_first_starts_make_one_operator(kernel: Kernel) -> None:
    results = await asyncio.gather(
        *(bootstrap_operator(kernel, f"Exchange {n}") for n in range(6)), return_exceptions=True
    )
    assert len([r for r in results if isinstance(r, tuple)]) == 1
    assert len([r for r in results if isinstance(r, OperatorExists)]) == 5
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch("SELECT roles, status FROM parties.party")
    assert [(row["roles"], row["status"]) for row in rows] == [(["operator"], "verified")]
