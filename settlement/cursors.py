"""How far a job has read a list that only grows."""

from __future__ import annotations

from uuid import UUID, uuid5

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork

# Fixed for ever: open cases carry identities made of it.
_NAMESPACE = UUID("8d5cf6cf-5c0f-5b61-9f0f-7b8f8a4f2b11")

_READ = "SELECT position FROM settlement.job_cursor WHERE name = $1"
_WRITE = (
    "INSERT INTO settlement.job_cursor (name, position) VALUES ($1, $2) "
    "ON CONFLICT (name) DO UPDATE SET position = excluded.position"
)


async def read(kernel: Kernel, name: str) -> str:
    """The position of a job; ``""`` before its first run."""
    async with kernel.unit_of_work() as uow:
        return await read_in(uow, name)


async def write(kernel: Kernel, name: str, position: str) -> None:
    """Remember a position."""
    async with kernel.unit_of_work() as uow:
        await write_in(uow, name, position)


async def read_in(uow: UnitOfWork, name: str) -> str:
    """:func:`read` inside a unit of work."""
    position: str | None = await (await uow.raw()).fetchval(_READ, name)
    return position or ""


async def write_in(uow: UnitOfWork, name: str, position: str) -> None:
    """:func:`write` inside a unit of work."""
    await (await uow.raw()).execute(_WRITE, name, position)


def identity(name: str) -> UUID:
    """A stable id for something that has only a name."""
    return uuid5(_NAMESPACE, name)
