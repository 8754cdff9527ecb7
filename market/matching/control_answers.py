"""What an operator's decision is answered with: its subject as the same transaction leaves it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from market.kernel.db import UnitOfWork
from market.kernel.settings import Settings
from market.matching import instruments
from market.matching.commands import OF_A_PARTY, OF_THE_MARKET, Control, Reply


async def read(
    uow: UnitOfWork, settings: Settings, decided: Mapping[int, Control]
) -> dict[int, Reply]:
    """By command index: an InstrumentView, a MarketView or a TradingView (200)."""
    replies: dict[int, Reply] = {}
    for index, command in decided.items():
        view = await _view(uow, settings, command)
        replies[index] = Reply.of(view.model_dump_json().encode(), status=200)
    return replies


async def _view(uow: UnitOfWork, settings: Settings, command: Control) -> BaseModel:
    if command.action in OF_A_PARTY:
        return await instruments.read_trading(uow, settings, command.subject_id)
    if command.action in OF_THE_MARKET:
        return await instruments.read_market(uow)
    return await instruments.read_instrument(uow, command.subject_id)
