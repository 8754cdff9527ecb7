"""Parties that may not trade: the operators' kill switch, as far as every market asks for it.

The matching engine keeps the table, in the transaction that also cancels the party's orders
(`market.matching.control_desk`).
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, DateTime, Uuid
from sqlmodel import Field, SQLModel, col, select

from market.kernel.db import UnitOfWork
from market.parties.errors import TradingBlocked


class TradingBlock(SQLModel, table=True):
    """A party whose kill switch is on; lifting it deletes the row."""

    __tablename__ = "trading_block"
    __table_args__ = ({"schema": "parties"},)

    party_id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    since: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


async def require_trading(uow: UnitOfWork, *party_ids: UUID) -> None:
    """Raises TradingBlocked (403) when the kill switch of one of ``party_ids`` is on."""
    statement = select(TradingBlock.party_id).where(col(TradingBlock.party_id).in_(party_ids))
    if (await uow.session.exec(statement)).first() is not None:
        raise TradingBlocked


async def blocked_of(uow: UnitOfWork, party_ids: Iterable[UUID]) -> set[UUID]:
    """Those of ``party_ids`` whose kill switch is on."""
    statement = select(TradingBlock.party_id).where(col(TradingBlock.party_id).in_(set(party_ids)))
    return set((await uow.session.exec(statement)).all())


async def block_trading(uow: UnitOfWork, party_id: UUID) -> None:
    """Note the party. No effect when it is noted already."""
    await (await uow.raw()).execute(
        "INSERT INTO parties.trading_block (party_id, since) VALUES ($1, $2)"
        " ON CONFLICT (party_id) DO NOTHING",
        party_id,
        uow.now,
    )


async def unblock_trading(uow: UnitOfWork, party_id: UUID) -> None:
    """Forget the party."""
    await (await uow.raw()).execute(
        "DELETE FROM parties.trading_block WHERE party_id = $1", party_id
    )
