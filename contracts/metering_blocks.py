"""Sub-leases: a block of a grant's units that this process meters by itself.

A block is a hold in Valkey under an id of its own. The process takes reservations out of it
without asking anybody, for at most ``VALID_S`` after Valkey last confirmed it; a change of access
waits that long before it commits, so that it stays immediate. Units leave the block when their
records are durable. What a process may lose at a crash is therefore what the block held, never
more than its size (docs/metering.md).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from uuid import UUID, uuid4

from contracts import metering_scripts as scripts
from contracts.errors import MeterUnavailable
from contracts.metering_cache import MeterCache
from contracts.metering_records import Fact
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger

VALID_S = 1.0
SYNC_S = 0.12
# Without use for this long, the units go back.
IDLE_S = 2.0
# After a block was refused, deliveries are metered one by one for this long.
PAUSE_S = 1.0
REFUSED_MAX = 10_000
RETRY_S = 0.02
CLOSE_S = 2.0

_log = get_logger("contracts.metering")

Recheck = Callable[[str, str], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Block:
    """``held`` is what Valkey knows: ``free`` + ``open`` (reserved, or settled and not durable)
    + ``done`` (durable, Valkey not yet told). Times are ``time.monotonic`` seconds.
    """

    grant_id: UUID
    token_id: UUID
    size: int
    hold_s: float
    recheck: Recheck
    key: str = field(default_factory=lambda: f"~{uuid4().hex}")
    owner: str = field(default_factory=lambda: uuid4().hex)
    lease_id: UUID | None = None
    held: int = 0
    free: int = 0
    open: int = 0
    done: int = 0
    rest: int | None = None
    seq: int = 0
    synced_at: float = 0.0
    used_at: float = field(default_factory=time.monotonic)
    retired: bool = False

    def serves(self, token_id: UUID) -> bool:
        """Whether reservations of ``token_id`` may come out of it now."""
        return (
            not self.retired
            and self.token_id == token_id
            and time.monotonic() < self.synced_at + VALID_S
        )

    def take(self, units: int) -> None:
        """Reserve ``units`` of those that are free."""
        self.free -= units
        self.open += units
        self.used_at = time.monotonic()

    def give_back(self, units: int) -> None:
        """Reserved ``units`` were not used."""
        self.open -= units
        self.free += units

    @property
    def remaining(self) -> int | None:
        """The grant's units that can still be had, as far as this process knows."""
        return None if self.rest is None else self.rest + self.free

    @property
    def deadline(self) -> float:
        """When Valkey would end the hold, should it hear nothing more."""
        return self.synced_at + self.hold_s


class Blocks:
    """This process's blocks: at most one per grant, for the token that came first."""

    def __init__(self, cache: MeterCache) -> None:
        self._cache = cache
        self._blocks: dict[UUID, Block] = {}
        self._of_fact: dict[str, Block] = {}
        self._refused: OrderedDict[UUID, float] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def serves(self, grant_id: UUID, token_id: UUID) -> bool:
        """Whether the token's next reservation need not ask anybody."""
        block = self._blocks.get(grant_id)
        return block is not None and block.serves(token_id) and block.free > 0

    def take(self, grant_id: UUID, token_id: UUID, units: int) -> Block | None:
        """A block with ``units`` reserved in it, or None: then reserve in Valkey."""
        block = self._blocks.get(grant_id)
        if block is None or not block.serves(token_id) or block.free < units:
            return None
        block.take(units)
        return block

    def want(
        self, grant_id: UUID, token_id: UUID, *, size: int, hold_s: float, recheck: Recheck
    ) -> None:
        """Get the grant a block of ``size`` units in the background, if it has none here."""
        if grant_id not in self._blocks and time.monotonic() >= self._refused.get(grant_id, 0.0):
            self._open(Block(grant_id, token_id, size, hold_s, recheck))

    def settled(self, block: Block, units: int, fact: Fact) -> None:
        """``units`` were reserved for ``fact``; they stay open until :meth:`recorded`."""
        block.give_back(units - fact.units)
        self._of_fact[fact.key] = block

    def recorded(self, facts: Iterable[Fact]) -> list[Fact]:
        """``facts`` are durable; gives those that did not come out of a block."""
        others = []
        for fact in facts:
            block = self._of_fact.pop(fact.key, None)
            if block is None:
                others.append(fact)
            else:
                block.open -= fact.units
                block.done += fact.units
        return others

    async def close(self) -> None:
        """Give free units back, as far as Valkey answers. Call after the last flush."""
        for block in self._blocks.values():
            block.retired = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()

    def _open(self, block: Block) -> None:
        self._blocks[block.grant_id] = block
        # A context of its own: the block outlives the request that wanted it.
        task = asyncio.create_task(self._keep(block), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, block: Block) -> None:
        """Confirm the block again and again; when it is over, shrink it to nothing."""
        try:
            await self._serve(block)
            block.free = 0
            for _ in range(ceil(2 * block.hold_s / SYNC_S)):
                if not await self._sync(block, grow=False) or not block.held:
                    return
                await asyncio.sleep(SYNC_S)
            _log.warning("block_kept", grant_id=block.grant_id.hex, units=block.held)
        finally:
            block.retired = True
            self._refused[block.grant_id] = time.monotonic() + PAUSE_S
            self._refused.move_to_end(block.grant_id)
            if len(self._refused) > REFUSED_MAX:
                self._refused.popitem(last=False)
            del self._blocks[block.grant_id]

    async def _serve(self, block: Block) -> None:
        try:
            while not block.retired:
                current = await self._sync(block, grow=True)
                await asyncio.sleep(SYNC_S if current else RETRY_S)
                if time.monotonic() > block.used_at + IDLE_S:
                    block.retired = True
        except (MarketError, OSError) as error:
            _log.info("block_refused", grant_id=block.grant_id.hex, error=str(error))
            block.retired = True

    async def _sync(self, block: Block, *, grow: bool) -> bool:
        """Tell Valkey what became durable, ask for more or give back; False when it did not
        confirm the block.

        Raises the refusal of a grant that no longer delivers.
        """
        block.seq += 1
        done, block.done = block.done, 0
        size = block.size if grow else block.open
        before = time.monotonic()
        word, *rest = await self._ask(block, done, size, grow=grow)
        if word == "GONE":
            block.retired = True
            return False
        held = int(rest[0])
        if grow:
            block.free += held - (block.held - done)
        block.held = held
        if word == "OK":
            block.lease_id = UUID(rest[1])
            block.rest = None if int(rest[3]) < 0 else int(rest[3])
            block.synced_at = before
        elif word == "CHECK" and grow:
            await block.recheck(rest[2], rest[1])
            return False
        else:
            block.retired = True
        return True

    async def _ask(self, block: Block, done: int, size: int, *, grow: bool) -> list[str]:
        """The same question until it is answered: its number lets Valkey count it once."""
        while True:
            try:
                return await self._cache.call(
                    scripts.SYNC,
                    block.grant_id,
                    *(block.key, block.owner, block.seq, done, size, int(grow)),
                    *(block.token_id.hex, int(block.hold_s * 1_000), int(VALID_S * 1_000)),
                )
            except MeterUnavailable:
                if block.retired or time.monotonic() > block.used_at + block.hold_s:
                    return ["GONE"]
                await asyncio.sleep(RETRY_S)
