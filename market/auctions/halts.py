"""Halts of the market stop auctions as they stop books: nothing is added, nothing is decided."""

from __future__ import annotations

from uuid import UUID

from market.kernel.db import UnitOfWork
from market.matching import control_sql
from market.matching.control_errors import InstrumentHalted, MarketHalted
from market.matching.control_models import MARKET, Topic


async def require_no_halt(uow: UnitOfWork, plan_id: UUID) -> None:
    """Raises MarketHalted or InstrumentHalted (409) while operators have halted one of them."""
    subjects = [(Topic.HALT, MARKET), (Topic.HALT, plan_id)]
    found = await control_sql.in_force(await uow.raw(), subjects)
    for subject, error in zip(subjects, (MarketHalted, InstrumentHalted), strict=True):
        if subject in found and found[subject].data["on"]:
            raise error(found[subject].reason)
