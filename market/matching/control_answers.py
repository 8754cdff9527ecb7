"""What an operator's decision is answered with: its subject as the same transaction leaves it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from market.kernel.db import UnitOfWork
from market.kernel.settings import Settings
from market.matching import call_auctions, instruments
from market.matching.commands import OF_A_PARTY, OF_THE_MARKET, Control, ControlAction, Reply


async def read(
    uow: UnitOfWork, settings: Settings, decided: Mapping[int, Control]
) -> dict[int, Reply]:
    """By command index: what the action is about, 201 for a new call auction, else 200."""
    replies: dict[int, Reply] = {}
    for index, command in decided.items():
        view = await _view(uow, settings, command)
        status = 201 if command.action is ControlAction.SCHEDULE_CALL else 200
        replies[index] = Reply.of(view.model_dump_json().encode(), status=status)
    return replies


async def _view(uow: UnitOfWork, settings: Settings, command: Control) -> BaseModel:
    if command.action in OF_A_PARTY:
        return await instruments.read_trading(uow, settings, command.subject_id)
    if command.action in OF_THE_MARKET:
        return await instruments.read_market(uow)
    if command.action is ControlAction.SCHEDULE_CALL:
        return await call_auctions.read_call(uow, command.control_id)
    if command.action is ControlAction.CANCEL_CALL:
        return await call_auctions.read_call(uow, command.subject_id)
    return await instruments.read_instrument(uow, command.subject_id)
