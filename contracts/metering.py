"""The meter: exact through crashes, with Postgres as the truth and Valkey as a cache.

A delivery is admitted, reserved, sent, settled, recorded. Reservations live in Valkey against a
lease that Postgres lent; a settled fact is kept in Valkey and in this process until it is durable
("hold until durable"), so that losing either loses nothing. docs/metering.md states the bound of
each crash, for both sides of an agreement's ``meter_side``; ``make chaos-meter`` proves it.

"Delivered" means that the kernel took the bytes.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

from contracts import metering_leases as leases, metering_scripts as scripts, token_quota
from contracts.errors import DeliveryInProgress, MeterUnavailable, TokenRevoked
from contracts.metering_blocks import Block, Blocks
from contracts.metering_cache import MeterCache
from contracts.metering_records import Fact, FactTooNew, record, unpack
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.logging import get_logger
from market.kernel.redis import Redis

FLUSH_INTERVAL_S = 0.1
FLUSH_MAX = 500
# Facts that may wait for Postgres before deliveries are refused: some seconds of full load.
BUFFER_MAX = 20_000
RETRY_S = 0.5
# A token that was admitted may skip the early look for so long; the reservation looks anyway.
ADMITTED_S = 1.0
ADMITTED_MAX = 10_000
# Several processes may take turns on one grant; more turns than this mean trouble.
ATTEMPTS_MAX = 12

_log = get_logger("contracts.metering")


class Hold(NamedTuple):
    """Reserved units. ``deadline`` is in ``time.monotonic`` seconds; sending ends before it."""

    grant_id: UUID
    key: str
    units: int
    owner: str
    lease_id: UUID
    remaining: int | None
    deadline: float
    block: Block | None = None
    quota: token_quota.QuotaHold | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The Delivery-Id has been settled before."""

    fact: Fact


class _Turn:
    """One grant's queue to Postgres within this process."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0


class Meter:
    """One per process and cache. ``hold_s`` must exceed the time that a page may take to send."""

    def __init__(self, kernel: Kernel, *, hold_s: int | None = None) -> None:
        self._kernel = kernel
        self.cache = MeterCache(kernel.redis)
        self.hold_s = hold_s if hold_s is not None else kernel.settings.meter_hold_s
        self._blocks = Blocks(self.cache)
        self._admitted: OrderedDict[tuple[UUID, UUID], float] = OrderedDict()
        self._turns: WeakValueDictionary[UUID, _Turn] = WeakValueDictionary()
        self._buffer: list[Fact] = []
        self._flusher: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()

    async def admit(self, grant_id: UUID, token_id: UUID, *, reserving: bool = False) -> None:
        """Refuse early, before any data is read. Charges nothing.

        With ``reserving`` the caller will reserve anyway before it sends; then a token that
        passed within the last second is not looked up again.

        Raises GrantRevoked, GrantExpired, TokenRevoked (410), GrantSuspended (403),
        QuotaExhausted (402), MeterUnavailable (503).
        """
        if len(self._buffer) >= BUFFER_MAX:
            raise MeterUnavailable("Usage records wait for the database.", retry_after_s=2)
        pair = (grant_id, token_id)
        if reserving and time.monotonic() < self._admitted.get(pair, 0.0):
            return
        for _ in range(ATTEMPTS_MAX):
            turn = self._turn(grant_id)
            seen = turn.count
            word, *rest = await self.cache.call(scripts.ADMIT, grant_id, token_id.hex)
            if word == "TOKEN":
                raise TokenRevoked
            if word == "PASS":
                self._admitted[pair] = time.monotonic() + ADMITTED_S
                self._admitted.move_to_end(pair)
                if len(self._admitted) > ADMITTED_MAX:
                    self._admitted.popitem(last=False)
                return
            if word == "EMPTY":
                # The usual state of an ended grant: refuse it before any data is read.
                async with self._kernel.unit_of_work() as uow:
                    await leases.check(uow, grant_id, token_id)
                return
            await self._recheck(grant_id, turn, seen, block=rest[0], lease=rest[1])
        raise MeterUnavailable("The grant is changing too often.")

    async def reserve(
        self,
        grant_id: UUID,
        token_id: UUID,
        *,
        key: str,
        units: int,
        planned: Fact | None = None,
        block_units: int = 0,
        quota_id: UUID | None = None,
    ) -> Hold | Delivered:
        """Set ``units`` aside for the delivery ``key``.

        ``block_units`` > 0 allows this process to hold a block of that many and to take the units
        out of it; only without ``planned`` and for a ``key`` that nobody else can know.

        With ``planned`` (seller-safe) that is billed should nobody settle or release the hold;
        without it (buyer-safe) the units then return. Its ``lease_id`` does not matter.

        ``quota_id`` is the token's own quota, if it has one: the units come out of both. Then
        there are no blocks.

        Raises as :meth:`admit`, MeterRecovering (503), and DeliveryInProgress (409) while the
        same key is being delivered; TokenQuotaExhausted (402).
        """
        if quota_id is not None and units:
            return await self._reserve_of(
                quota_id, grant_id, token_id, key=key, units=units, planned=planned
            )
        if block_units:
            block = self._blocks.take(grant_id, token_id, units)
            if block is not None and block.lease_id is not None:
                return Hold(
                    *(grant_id, key, units, block.owner, block.lease_id, block.remaining),
                    deadline=block.deadline,
                    block=block,
                )
        owner, nonce = uuid4().hex, uuid4().hex
        for _ in range(ATTEMPTS_MAX):
            turn = self._turn(grant_id)
            seen = turn.count
            deadline = time.monotonic() + self.hold_s
            word, *rest = await self.cache.call(
                scripts.RESERVE,
                grant_id,
                *(key, units, owner, token_id.hex, self.hold_s * 1_000, nonce),
                "" if planned is None else planned.pack(),
            )
            if word == "OK":
                left = _remaining(int(rest[1]), int(rest[2]))
                if block_units:
                    self._blocks.want(
                        *(grant_id, token_id),
                        size=block_units,
                        hold_s=self.hold_s,
                        recheck=partial(self._recheck_block, grant_id),
                    )
                return Hold(grant_id, key, units, owner, UUID(rest[0]), left, deadline)
            if word == "DONE":
                return Delivered(unpack(rest[0]))
            if word == "BUSY":
                raise DeliveryInProgress(headers={"Retry-After": "1"})
            if word == "TOKEN":
                raise TokenRevoked
            if word == "CHECK":
                await self._recheck(grant_id, turn, seen, block=rest[0], lease=rest[1])
            else:
                ask = leases.Ask(
                    grant_id, units, rest[0], int(rest[1]), int(rest[2]), rest[3] or nonce
                )
                await self._lend(ask, turn, seen)
        raise MeterUnavailable("The grant is changing too often.")

    async def _reserve_of(
        self,
        quota_id: UUID,
        grant_id: UUID,
        token_id: UUID,
        *,
        key: str,
        units: int,
        planned: Fact | None,
    ) -> Hold | Delivered:
        taken = await token_quota.take(
            self._kernel, quota_id, key=key, units=units, hold_s=self.hold_s
        )
        if taken is None:
            # What has been delivered under the key, by whomever, must be known to be free.
            await self.flush()
            await self.recover(grant_id, age_ms=0)
            taken = await token_quota.take(
                self._kernel, quota_id, key=key, units=units, hold_s=self.hold_s
            )
        if taken is None:
            raise DeliveryInProgress(headers={"Retry-After": "1"})
        quota, left = taken
        if planned is not None:
            planned = planned._replace(quota=quota)
        try:
            outcome = await self.reserve(grant_id, token_id, key=key, units=units, planned=planned)
        except BaseException:
            await token_quota.give_back(self._kernel, quota)
            raise
        if isinstance(outcome, Delivered):
            await token_quota.give_back(self._kernel, quota)
            return outcome
        remaining = left if outcome.remaining is None else min(left, outcome.remaining)
        return outcome._replace(quota=quota, remaining=remaining)

    async def settle(self, hold: Hold, fact: Fact) -> None:
        """Charge what ``fact`` says and make it durable soon.

        Raises nothing that the cache does: the fact is in this process, and that is enough.
        """
        if self.settle_alone(hold, fact):
            return
        if hold.quota is not None:
            fact = fact._replace(quota=hold.quota)
        try:
            await self.cache.call(
                scripts.SETTLE, hold.grant_id, hold.key, fact.units, hold.owner, fact.pack()
            )
        except MeterUnavailable:
            _log.warning("settled_without_cache", grant_id=hold.grant_id.hex)
        finally:
            self._buffer.append(fact)
            self._start_flusher()

    def settle_alone(self, hold: Hold, fact: Fact) -> bool:
        """As :meth:`settle`, for a hold on a block, which asks nobody; False for any other."""
        assert 0 <= fact.units <= hold.units
        if hold.block is None:
            return False
        self._blocks.settled(hold.block, hold.units, fact)
        self._buffer.append(fact)
        self._start_flusher()
        return True

    async def release(self, hold: Hold) -> None:
        """Give all reserved units back: nothing was delivered."""
        if hold.block is not None:
            hold.block.give_back(hold.units)
            return
        try:
            await self.cache.call(scripts.SETTLE, hold.grant_id, hold.key, 0, hold.owner, "")
        except MeterUnavailable:
            # It ends as if this process had died, and a quota's units with it.
            _log.warning("released_without_cache", grant_id=hold.grant_id.hex)
            return
        if hold.quota is not None:
            await token_quota.give_back(self._kernel, hold.quota)

    async def flush(self) -> int:
        """Make every buffered fact durable now; give their number. Raises DatabaseUnavailable."""
        written = 0
        async with self._flushing:
            while self._buffer:
                batch = self._buffer[:FLUSH_MAX]
                written += await self._write(batch)
                del self._buffer[: len(batch)]
        return written

    async def recover(self, grant_id: UUID, *, age_ms: int) -> int:
        """Sweep one grant: end overdue reservations, record facts older than ``age_ms``.

        Facts of a live process may be found too; recording twice is harmless. Raises FactTooNew
        once those that this version can read are recorded, should others be left.
        """
        found = await self.cache.call(scripts.SWEEP, grant_id, age_ms)
        facts, left = [], None
        for lease, text in zip(found[::2], found[1::2], strict=True):
            try:
                facts.append(unpack(text)._replace(lease_id=UUID(lease)))
            except FactTooNew as error:
                left = error
        written = await self._write(facts) if facts else 0
        if left is not None:
            _log.warning("fact_too_new", grant_id=grant_id.hex)
            raise left
        return written

    async def forget(self, grant_id: UUID, lease_id: UUID) -> bool:
        """Stop serving from a lease that is to be drained; True when nothing is left to drain."""
        (word,) = await self.cache.call(scripts.FORGET, grant_id, lease_id.hex)
        return word == "IDLE"

    async def close(self) -> None:
        """Give back what this process holds in advance. Call after the last :meth:`flush`."""
        await self._blocks.close()

    async def _write(self, batch: Sequence[Fact]) -> int:
        async with self._kernel.unit_of_work() as uow:
            written = await record(uow, self._kernel.keys, batch)
        keys: dict[UUID, list[str]] = {}
        for fact in self._blocks.recorded(batch):
            keys.setdefault(fact.grant_id, []).append(fact.key)
        try:
            await asyncio.gather(
                *(self.cache.call(scripts.ACK, grant, *done) for grant, done in keys.items())
            )
        except MeterUnavailable:
            # Durable anyway; the sweeper will find and forget them.
            _log.warning("recorded_without_cache", facts=len(batch))
        return written

    def _start_flusher(self) -> None:
        if self._flusher is None or self._flusher.done():
            # A context of its own: the flusher outlives the request that woke it.
            self._flusher = asyncio.create_task(
                self._flush_until_empty(), context=contextvars.Context()
            )

    async def _flush_until_empty(self) -> None:
        while self._buffer:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            try:
                await self.flush()
            except (MarketError, OSError) as error:
                _log.warning("flush_failed", waiting=len(self._buffer), error=str(error))
                await asyncio.sleep(RETRY_S)

    def _turn(self, grant_id: UUID) -> _Turn:
        turn = self._turns.get(grant_id)
        if turn is None:
            turn = self._turns[grant_id] = _Turn()
        return turn

    async def _lend(self, ask: leases.Ask, turn: _Turn, seen: int) -> None:
        async with turn.lock:
            if turn.count != seen:
                return
            async with self._kernel.unit_of_work() as uow:
                answer = await leases.obtain(
                    uow,
                    ask,
                    lease_units=self._kernel.settings.meter_lease_units,
                    hold_s=self.hold_s,
                )
            if isinstance(answer, leases.Refuse):
                raise answer.error
            if isinstance(answer, leases.Forget):
                await self.cache.call(scripts.FORGET, ask.grant_id, answer.lease)
            else:
                await self.cache.call(
                    scripts.ACTIVATE,
                    ask.grant_id,
                    *(
                        answer.lease,
                        answer.units,
                        ask.nonce,
                        answer.gen,
                        answer.fresh_ms,
                        answer.rest,
                    ),
                    *answer.revoked,
                )
            turn.count += 1

    async def _recheck_block(self, grant_id: UUID, block: str, lease: str) -> None:
        turn = self._turn(grant_id)
        await self._recheck(grant_id, turn, turn.count, block=block, lease=lease)

    async def _recheck(
        self, grant_id: UUID, turn: _Turn, seen: int, *, block: str, lease: str
    ) -> None:
        async with turn.lock:
            if turn.count != seen:
                return
            async with self._kernel.unit_of_work() as uow:
                answer = await leases.recheck(uow, grant_id, lease)
            if isinstance(answer, leases.Refuse):
                raise answer.error
            if isinstance(answer, leases.Forget):
                await self.cache.call(scripts.FORGET, grant_id, answer.lease)
            else:
                await self.cache.call(
                    scripts.REFRESH,
                    grant_id,
                    *(block, lease, answer.gen, answer.fresh_ms, answer.rest),
                    *answer.revoked,
                )
            turn.count += 1


def _remaining(avail: int, rest: int) -> int | None:
    return None if rest == leases.UNBOUNDED else avail + rest


_meters: WeakKeyDictionary[Redis, Meter] = WeakKeyDictionary()


def meter_of(kernel: Kernel) -> Meter:
    """This process's meter on the kernel's cache."""
    meter = _meters.get(kernel.redis)
    if meter is None:
        meter = _meters[kernel.redis] = Meter(kernel)
    return meter


async def close_meter(kernel: Kernel) -> None:
    """Before the kernel closes: make what is buffered durable, or leave it to the sweeper."""
    meter = _meters.pop(kernel.redis, None)
    if meter is not None:
        try:
            await meter.flush()
        except (MarketError, OSError) as error:
            _log.warning("unflushed_at_close", error=str(error))
        await meter.close()
