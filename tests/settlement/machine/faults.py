"""Rules that break something: wires, tasks, locks, pools and snapshots."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import strategies as st

from market.kernel.errors import Unavailable
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Command, Result, Transfer
from settlement.writer import LedgerWriter
from tests.settlement.cutting_proxy import Cut
from tests.settlement.machine import commands
from tests.settlement.machine.commands import CURRENCIES, PARTIES
from tests.settlement.machine.core import VIAS, MachineCore, Via, step
from tests.settlement.machine.dice import Dice
from tests.settlement.machine.world import SMALL_POOL

# A unit of work sends some ten messages; a later number finds none and cuts nothing.
MESSAGES_MAX = 11
STATEMENT_MS = 60
_LOCK = "SELECT 1 FROM settlement.account WHERE id = $1 FOR NO KEY UPDATE"


class FaultRules(MachineCore):
    """After each fault the caller has an answer, or repeats its key and gets the truth."""

    def _fresh(self, dice: Dice) -> Command:
        return commands.fresh(dice, self.shadow, self.names, self.run(self.world.now()))

    @step(how=st.sampled_from((Cut.BEFORE, Cut.AFTER, Cut.RACING)))
    def cut_at_commit(self, dice: Dice, how: Cut) -> None:
        """The connection dies exactly when COMMIT is sent, or before its answer returns."""
        via = dice.one(VIAS)
        self.begin(f"cut_at_commit_{how}_{via}")
        self.run(self._cut_at_commit(self._fresh(dice), via, how))

    async def _cut_at_commit(self, command: Command, via: Via, how: Cut) -> None:
        proxy = self.world.proxy
        cuts = proxy.cuts
        proxy.at_commit(how)
        reply = await self.ask(command, via)
        assert not proxy.disarm()
        assert proxy.cuts == cuts + 1
        if via == "writer":
            assert not isinstance(reply, Unavailable), "the writer must find out by itself"
            if how is not Cut.RACING:
                assert reply.replayed is (how is Cut.AFTER)
            await self.absorb(command, reply, unsure=True)
        assert via == "writer" or isinstance(reply, Unavailable), "answered without knowing"
        await self.insist(command, booked=None if how is Cut.RACING else self._told(via, how))

    def _told(self, via: Via, how: Cut) -> bool:
        return via == "writer" or how is Cut.AFTER

    @step(
        how=st.sampled_from((Cut.BEFORE, Cut.AFTER)),
        number=st.integers(1, MESSAGES_MAX),
    )
    def cut_anywhere(self, dice: Dice, how: Cut, number: int) -> None:
        """The connection dies at some message of the unit of work."""
        via = dice.one(VIAS)
        self.begin(f"cut_anywhere_{via}")
        self.run(self._cut_anywhere(self._fresh(dice), via, how, number))

    async def _cut_anywhere(self, command: Command, via: Via, how: Cut, number: int) -> None:
        self.world.proxy.at_message(how, number)
        reply = await self.ask(command, via)
        self.world.proxy.disarm()
        if isinstance(reply, Unavailable):
            assert via == "post"
        else:
            await self.absorb(command, reply, unsure=True)
        await self.insist(command)

    @step(number=st.integers(0, MESSAGES_MAX))
    def cancel_midway(self, dice: Dice, number: int) -> None:
        """The task is cancelled while the database works for it (0: at COMMIT)."""
        self.begin("cancel_midway")
        self.run(self._cancel_midway(self._fresh(dice), number))

    async def _cancel_midway(self, command: Command, number: int) -> None:
        proxy = self.world.proxy
        if number:
            proxy.at_message(Cut.STALL, number)
        else:
            proxy.at_commit(Cut.STALL)
        task = asyncio.create_task(self.ask(command, "post"), context=contextvars.copy_context())
        stalled = asyncio.create_task(proxy.stalled())
        await asyncio.wait((task, stalled), return_when=asyncio.FIRST_COMPLETED)
        stalled.cancel()
        if task.done():
            proxy.disarm()
            reply = await task
            assert not isinstance(reply, Unavailable)
            await self.absorb(command, reply)
            return
        task.cancel()
        proxy.disarm()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        # Unavailable when the rollback on the way out met the dead connection.
        assert isinstance(answer, asyncio.CancelledError | Unavailable), answer
        # The message never arrived, and COMMIT is the last one.
        await self.insist(command, booked=False)

    @step(turns=st.integers(0, 12))
    def leave_the_queue(self, dice: Dice, turns: int) -> None:
        """A client of the writer goes away; its command may be booked, but then wholly."""
        self.begin("leave_the_queue")
        self.run(self._leave(self._fresh(dice), turns))

    async def _leave(self, command: Command, turns: int) -> None:
        task = asyncio.create_task(self.ask(command, "writer"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Through the same queue: whatever was booked before this one is answered by then.
        reply = await self.ask(command, "writer")
        assert not isinstance(reply, Unavailable)
        await self.absorb(command, reply, unsure=True)

    @step(contention=st.integers(0, 4), via=st.sampled_from(VIAS))
    def contend(self, dice: Dice, contention: int, via: Via) -> None:
        """Another transaction is in the way: deadlock, time-outs, no connection, old snapshot."""
        kinds = (
            self._deadlock,
            self._lock_timeout,
            self._statement_timeout,
            self._no_connection,
            self._old_snapshot,
        )
        kind = kinds[contention]
        self.begin(f"contend{kind.__name__}")
        first, second = (
            AccountRef(AccountKind.AVAILABLE, party, dice.one(CURRENCIES))
            for party in dice.shuffled(PARTIES)[:2]
        )
        amount = commands.near_free(dice, self.shadow, first)
        clearing = AccountRef(AccountKind.CLEARING, None, first.currency)
        legs = [(first, -amount), (clearing, amount)]
        if second.currency == first.currency:
            legs = [(first, -amount), (second, amount)]
        self.run(kind(Transfer(self.names.key(), "contended", tuple(legs)), via))

    @asynccontextmanager
    async def _holding(self, account: AccountRef) -> AsyncIterator[None]:
        """A foreign transaction has ``account``; it makes it first if it must."""
        async with self.world.kernel.unit_of_work() as uow:
            await ledger.lock_balance(uow, account)
        async with self.world.admin.transaction():
            await self.world.admin.execute("SET LOCAL deadlock_timeout = '10s'")
            await self.world.admin.execute(_LOCK, account.id)
            yield

    async def _deadlock(self, command: Transfer, via: Via) -> None:
        """Somebody locks in the wrong order. PostgreSQL picks us as the victim."""
        low, high = sorted((account for account, _ in command.legs), key=lambda a: a.id)
        async with self._holding(low):
            pass
        async with self._holding(high):
            asked = asyncio.create_task(self.ask(command, via))
            await self.world.waiting()
            # Closes the circle; returns once our side has given way.
            await self.world.admin.execute(_LOCK, low.id)
        reply = await asked
        if via == "post":
            assert isinstance(reply, Unavailable)
            assert "deadlock" in str(reply.detail)
            await self.insist(command, booked=False)
        else:
            assert not isinstance(reply, Unavailable)
            await self.absorb(command, reply)

    async def _lock_timeout(self, command: Transfer, via: Via) -> None:
        async with self._holding(command.legs[0][0]):
            reply = await self.ask(command, "post", self.world.small)
            assert isinstance(reply, Unavailable)
            asked = asyncio.create_task(self.ask(command, via))
            await self.world.waiting()
        reply = await asked
        assert not isinstance(reply, Unavailable)
        await self.absorb(command, reply)

    async def _statement_timeout(self, command: Transfer, via: Via) -> None:
        async with self._holding(command.legs[0][0]):
            with pytest.raises(Unavailable, match="statement timeout"):
                await self._post_within(command, STATEMENT_MS)
        await self.insist(command, booked=False)

    async def _post_within(self, command: Command, statement_ms: int) -> None:
        async with self.world.kernel.unit_of_work(statement_timeout_ms=statement_ms) as uow:
            await ledger.post(uow, [command])

    async def _no_connection(self, command: Transfer, via: Via) -> None:
        small = self.world.small
        async with LedgerWriter(small) as writer:
            async with AsyncExitStack() as taken:
                for _ in range(SMALL_POOL):
                    await taken.enter_async_context(small.db.engine.connect())
                reply = await self.ask(command, "post", small)
                assert isinstance(reply, Unavailable)
                assert await self.world.row(command.key) is None
                queued = asyncio.create_task(writer.submit(command))
                await asyncio.sleep(0)
            # Connections are back before the writer's patience ends.
            await self.absorb(command, await queued)

    async def _old_snapshot(self, command: Transfer, via: Via) -> None:
        """At REPEATABLE READ a row that changed since BEGIN is a serialization failure."""
        serial = self.world.serial
        account = command.legs[0][0]
        clearing = AccountRef(AccountKind.CLEARING, None, account.currency)
        rival = Transfer(self.names.key(), "top_up", ((clearing, -3), (account, 3)))
        async with LedgerWriter(serial) as writer:
            async with self.world.kernel.unit_of_work() as uow:
                (rivals,) = await ledger.post(uow, [rival])
                if via == "post":
                    asked = asyncio.create_task(
                        self.ask(command, "post", serial), context=contextvars.Context()
                    )
                else:
                    asked = asyncio.create_task(
                        self._submit_to(writer, command), context=contextvars.Context()
                    )
                await self.world.waiting()
            reply = await asked
        await self.absorb(rival, rivals)
        if via == "post":
            assert isinstance(reply, Unavailable)
            assert "serialization" in str(reply.detail)
            await self.insist(command, booked=False)
        else:
            assert not isinstance(reply, Unavailable)
            await self.absorb(command, reply)

    async def _submit_to(self, writer: LedgerWriter, command: Command) -> Result:
        return await writer.submit(command)
