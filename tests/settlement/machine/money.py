"""Rules without faults: every ledger command, alone, in lists, and many clients at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from hypothesis import strategies as st

from market.kernel.errors import MarketError, Unavailable
from market.kernel.security import Actor, Role
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import (
    Applied,
    Capture,
    Command,
    Expire,
    Hold,
    Linked,
    Refused,
    Result,
    Transfer,
)
from settlement.errors import LinkedRefused, error_of
from settlement.periods import balance_as_of
from settlement.schemas import Basis
from tests.settlement.factories import together
from tests.settlement.machine import commands
from tests.settlement.machine.commands import CURRENCIES, NOBODY, PARTIES
from tests.settlement.machine.core import RESENDS_MAX, VIAS, MachineCore, Via, step
from tests.settlement.machine.dice import Dice
from tests.settlement.shadow import Booked

OPERATOR = Actor(NOBODY, NOBODY, frozenset({Role.OPERATOR}), "machine")
AT_ONCE_MAX = 6


class MoneyRules(MachineCore):
    """Transfers, holds and their ends, reversals, replays; lists of them; all at once."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: list[Linked] = []

    @step(via=st.sampled_from(VIAS))
    def transfer(self, dice: Dice, via: Via) -> None:
        """Several legs, currencies and dates."""
        self.begin("transfer")
        self._one(dice, commands.transfers, via)

    @step(via=st.sampled_from(VIAS))
    def hold(self, dice: Dice, via: Via) -> None:
        """Reserve."""
        self.begin("hold")
        self._one(dice, commands.new_holds, via)

    @step(via=st.sampled_from(VIAS))
    def capture(self, dice: Dice, via: Via) -> None:
        """Pay from a hold, keep some."""
        self.begin("capture")
        self._one(dice, commands.captures, via)

    @step(via=st.sampled_from(VIAS))
    def end_hold(self, dice: Dice, via: Via) -> None:
        """Void or expire."""
        self.begin("end_hold")
        self._one(dice, commands.endings, via)

    @step(via=st.sampled_from(VIAS))
    def reversal(self, dice: Dice, via: Via) -> None:
        """Take back."""
        self.begin("reversal")
        self._one(dice, commands.reversals, via)

    @step(via=st.sampled_from(VIAS))
    def same_key(self, dice: Dice, via: Via) -> None:
        """A key again, refusals included."""
        self.begin("same_key")
        self._one(dice, commands.replays, via)

    def _one(self, dice: Dice, kind: commands.Kind, via: Via) -> None:
        command = kind(dice, self.shadow, self.names, self.run(self.world.now()))
        self.run(self.submit(command, via))

    @step(hours=st.sampled_from((0, 0, 1, 3, 24)))
    def time_passes(self, dice: Dice, hours: int) -> None:
        """Holds run out, also those that no sweeper has resolved; the past stays as it was."""
        self.begin("time_passes")
        self.run(self.world.move_clock(timedelta(hours=hours)))
        self._as_of(dice)

    @step(via=st.sampled_from(VIAS))
    def too_late(self, dice: Dice, via: Via) -> None:
        """A hold runs out, is captured all the same, and only then swept."""
        self.begin("too_late")
        account, payee = (
            AccountRef(AccountKind.CLEARING, None, CURRENCIES[0]),
            AccountRef(AccountKind.AVAILABLE, dice.one(PARTIES), CURRENCIES[0]),
        )
        name, ends = self.names.id(), self.run(self.world.now()) + timedelta(hours=1)
        self.run(self.submit(Hold(self.names.key(), name, account, 9, ends), via))
        self.run(self.world.move_clock(timedelta(hours=1)))
        late = Capture(self.names.key(), name, "capture", ((payee, dice.number(1, 9)),))
        self.run(self.submit(late, via))
        self.run(self.submit(Expire(self.names.key(), name), via))

    @step()
    def reverse_twice(self, dice: Dice) -> None:
        """Two reversals of one transfer in one list: the second finds the first."""
        self.begin("reverse_twice")
        now = self.run(self.world.now())
        possible = [
            command
            for booked in self.shadow.done()
            if booked.transfer_id is not None
            for command in [self._mirror(booked)]
            if not self.shadow.expect(command, now).reasons
        ]
        if possible:
            first = dice.one(possible)
            self.run(self.in_order([first, replace(first, key=self.names.key())]))

    def _mirror(self, booked: Booked) -> Transfer:
        legs = tuple((account, -amount) for account, amount in self.shadow.legs(booked))
        return Transfer(self.names.key(), "reversal", legs, reverses=booked.transfer_id)

    @step()
    def reverse_by_name(self, dice: Dice) -> None:
        """``ledger.reverse``: finds the legs itself, raises what it is refused for."""
        self.begin("reverse_by_name")
        past = [booked.transfer_id for booked in self.shadow.done() if booked.transfer_id]
        name = dice.one([NOBODY, *past])
        self.run(self._reverse(self.names.key(), name))

    async def _reverse(self, key: str, name: UUID) -> None:
        booked = next((b for b in self.shadow.done() if b.transfer_id == name), None)
        legs = () if booked is None else self.shadow.legs(booked)
        # The same order as the ledger's: its body decides what a later use of the key is.
        mirrored = tuple((a, -amount) for a, amount in sorted(legs, key=lambda leg: leg[0].id))
        try:
            async with self.world.kernel.unit_of_work() as uow:
                done = await ledger.reverse(uow, key, name, memo_id=None)
        except MarketError:
            assert await self.world.row(key) is None
            if booked is not None:
                command = Transfer(key, "reversal", mirrored, reverses=name)
                expected = self.shadow.expect(command, await self.world.now())
                assert expected.reasons
            return
        row = await self.world.row(key)
        assert row is not None
        assert row.transfer_id == done
        command = Transfer(key, "reversal", mirrored, reverses=name)
        await self.absorb(command, Applied(key, done))

    @step(strict=st.booleans(), size=st.integers(2, 6))
    def in_one_list(self, dice: Dice, strict: bool, size: int) -> None:
        """Commands that see each other's effect in one unit of work; ``strict``: all or none."""
        self.begin("in_one_list")
        now = self.run(self.world.now())
        listed = commands.in_turn(dice, self.shadow, self.names, now, size)
        if strict:
            self.run(self._all_or_none(listed))
        else:
            self.run(self.in_order(listed))

    @step(size=st.integers(2, 5))
    def linked(self, dice: Dice, size: int) -> None:
        """A group, carried out wholly or not at all; now and then one that was sent before."""
        self.begin("linked")
        now = self.run(self.world.now())
        group = commands.grouped(commands.in_turn(dice, self.shadow, self.names, now, size))
        if group is None or (self._groups and dice.rarely(4)):
            group = dice.one(self._groups) if self._groups else None
        if group is not None:
            self._groups.append(group)
            self.run(self._linked(group))

    async def _linked(self, group: Linked) -> None:
        async with self.world.kernel.unit_of_work() as uow:
            replies = await ledger.post(uow, [group])
        new = [c.key for c in group.commands if self.shadow.find(c.key) is None]
        rows = await self.world.rows(new)
        assert [row.key for row in rows] == new, "not all members are booked, in order"
        at = rows[0].at if rows else await self.world.now()
        reasons = self.shadow.refuse_linked(group.commands, at)
        for command, reply, why in zip(group.commands, replies, reasons, strict=True):
            await self.absorb(command, reply, linked=why)

    async def _all_or_none(self, listed: list[Command]) -> None:
        replies: Sequence[Result] = []
        refusal: MarketError | None = None
        for _ in range(RESENDS_MAX):
            try:
                async with self.world.kernel.unit_of_work() as uow:
                    replies = await ledger.post_strict(uow, listed)
            except Unavailable:
                # A connection that an earlier step cut, or a busy machine: a client comes again.
                continue
            except MarketError as error:
                refusal = error
            break
        else:
            raise AssertionError("never available")
        if refusal is not None:
            new = [c.key for c in listed if self.shadow.find(c.key) is None]
            assert await self.world.rows(new) == [], "half done"
            expected = await self._refusals(listed)
            assert type(refusal) in expected, f"{refusal!r}, not {expected}"
            return
        for command, reply in zip(listed, replies, strict=True):
            await self.absorb(command, reply)

    async def _refusals(self, listed: list[Command]) -> set[type[MarketError]]:
        """What ``listed`` may be refused as, by the shadow: its first refusal that says why.

        A member of a group that was refused before is answered ``linked_refused``, which only
        points elsewhere: it is raised where no other command of the list was refused.
        """
        now, fork = await self.world.now(), self.shadow.fork()
        linked: set[type[MarketError]] = set()
        for command in listed:
            expected = fork.expect(command, now)
            earlier = expected.earlier
            reasons = expected.reasons
            if earlier is not None and earlier.code is not None:
                reasons = frozenset({earlier.code})
            possible = {type(error_of(Refused(command.key, code, ""))) for code in reasons}
            if possible == {LinkedRefused}:
                linked = possible
            elif possible:
                return possible
            elif earlier is None:
                name = self.names.id() if expected.moves_money else None
                fork.book(command, now, None, name)
        return linked

    @step(size=st.integers(2, AT_ONCE_MAX))
    def at_once(self, dice: Dice, size: int) -> None:
        """Clients that know nothing of each other, through both doors, some with the same key."""
        self.begin("at_once")
        now = self.run(self.world.now())
        asked: list[tuple[Command, Via]] = []
        for _ in range(size):
            command = commands.anything(dice, self.shadow, self.names, now)
            if asked and dice.rarely(4):
                twin, _ = dice.one(asked)
                again = replace(twin, key=self.names.key())
                command = dice.one((twin, again, replace(command, key=twin.key)))
            asked.append((command, dice.one(VIAS)))
        self.run(self._together(asked))

    async def _together(self, asked: list[tuple[Command, Via]]) -> None:
        answers = await together(*(self.ask(command, via) for command, via in asked))
        replies: list[tuple[Command, Result]] = []
        unsure = False
        for (command, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                raise answer
            if isinstance(answer, Unavailable):
                unsure = True
                answer = await self._resend(command)
            replies.append((command, answer))
        await self.absorb_together(replies, unsure=unsure)

    async def _resend(self, command: Command) -> Result:
        """A race was lost (another use of the key on other accounts): later means later."""
        for _ in range(RESENDS_MAX):
            answer = await self.ask(command, "post")
            if not isinstance(answer, Unavailable):
                return answer
        raise AssertionError("still unavailable")

    def _as_of(self, dice: Dice) -> None:
        """A past balance is the sum of what was booked until then; now's is the current one."""
        moved = [posted.account for posted in self.shadow.postings()]
        account = dice.one(moved)
        moments = sorted({booked.at for booked in self.shadow.booked})
        moment = dice.one(moments)
        kernel = self.world.kernel
        then = self.run(balance_as_of(kernel, OPERATOR, account.id, moment, Basis.BOOKING))
        assert then.posted_minor == self.shadow.posted(account, until=moment)
        current = self.run(balance_as_of(kernel, OPERATOR, account.id, None, Basis.BOOKING))
        assert current.posted_minor == self.shadow.posted(account)
